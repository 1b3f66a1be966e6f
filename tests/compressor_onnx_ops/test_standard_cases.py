"""The operators against the cases by which the standard itself tells what they compute."""

from __future__ import annotations

from functools import cache

import pytest
from compressor_onnx_ops.operators import OPERATORS
from compressor_onnx_ops.registration import MODULES, all_converters

from benchmarks.onnx_coverage import ours
from benchmarks.standard_cases import Case, checked, node_cases, set_apart

OWN = {name: module for module, names in MODULES.items() for name in names.split()}

DRAWN = frozenset({"test_bernoulli", "test_bernoulli_double", "test_bernoulli_seed"})
"""Cases whose numbers are one draw of many."""

TRAINED = frozenset(f"test_training_dropout{rest}" for rest in ("", "_default", "_mask", "_default_mask"))
"""Cases of a network in training."""

ROUNDED = frozenset({"test_dft_inverse", "test_dft_inverse_opset19"})
"""Cases that expect 1e-6 where zero would be exact, closer than which they allow nothing."""


@cache
def cases() -> dict[str, list[Case]]:
    """Return the standard's cases of one node each, by operator."""
    found: dict[str, list[Case]] = {}
    for case in node_cases():
        kinds = {node.op_type for node in case.model.graph.node}
        if len(kinds) == 1 and not set_apart(case):
            found.setdefault(kinds.pop(), []).append(case)
    return found


@pytest.mark.parametrize("name", sorted(OWN))
def test_every_case_of_an_operator_has_the_expected_numbers(name: str) -> None:
    problems = {}
    for case in cases().get(name, []):
        try:
            problem = checked(case, ours(case.model))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            problems[case.name] = problem
    assert set(problems) <= DRAWN | TRAINED | ROUNDED, problems


def test_the_table_of_operators_is_what_the_modules_register() -> None:
    from importlib import import_module

    for module in MODULES:
        import_module(f"compressor_onnx_ops.{module}")
    assert {name: function.__module__.rpartition(".")[2] for name, function in OPERATORS.items()} == OWN


def test_every_version_of_an_operator_has_a_converter() -> None:
    converters = all_converters()
    assert ("Conv", 22) in converters
    assert ("Conv", 1) in converters
    assert ("ReduceMean", 18) in converters
    assert len(converters) > 250
