"""A strategy and a metric are plain classes: they need no running core to be tested."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from compressor_example.max_abs_difference import MaxAbsDifference
from compressor_example.weight_rounding import WeightRounding, round_mantissa
from torch import nn
from torch.fx import symbolic_trace

from compressor.errors import SelectionError
from compressor.strategy import StageContext

NO_CONTEXT = cast(StageContext, None)
"""This strategy looks at the student alone."""


@pytest.fixture
def student() -> torch.fx.GraphModule:
    return symbolic_trace(nn.Sequential(nn.Conv1d(3, 4, 5), nn.Conv1d(4, 2, 1)))


def test_seven_bits_are_bfloat16() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(round_mantissa(values, 7), values.bfloat16().float())


def test_ten_bits_are_float16() -> None:
    values = torch.linspace(-60, 60, 999)
    values = values[values.abs() > 1e-3]  # below lie float16's subnormal numbers
    assert torch.equal(round_mantissa(values, 10), values.half().float())


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0, 2.0**100])
def test_powers_of_two_stay(value: float) -> None:
    assert round_mantissa(torch.tensor([value]), 1).item() == value


def test_weights_are_rounded_and_the_drift_is_told(student: torch.fx.GraphModule) -> None:
    before = student.get_parameter("0.weight").detach().clone()
    outcome = WeightRounding(mantissa_bits=7).apply(student, NO_CONTEXT)
    assert torch.equal(outcome.student.get_parameter("0.weight"), before.bfloat16().float())
    assert [finding.layer for finding in outcome.findings] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(0 < finding.values["drift"] < 2.0**-8 for finding in outcome.findings)


def test_what_is_ignored_stays(student: torch.fx.GraphModule) -> None:
    before = student.get_parameter("1.weight").detach().clone()
    outcome = WeightRounding(mantissa_bits=1, ignore=("1.*",)).apply(student, NO_CONTEXT)
    assert torch.equal(outcome.student.get_parameter("1.weight"), before)


def test_a_pattern_that_matches_nothing_is_an_error(student: torch.fx.GraphModule) -> None:
    with pytest.raises(SelectionError, match="matches no layer"):
        WeightRounding(targets=("ups.*",)).apply(student, NO_CONTEXT)


def test_the_metric_finds_the_worst_value() -> None:
    outputs = [np.zeros(4, np.float32), np.array([0.5, -1.0], np.float32)]
    teacher = [np.full(4, 0.25, np.float32), np.array([0.5, 0.5], np.float32)]
    subject: Any = SimpleNamespace(outputs=outputs, teacher_outputs=teacher)
    assert MaxAbsDifference().measure(subject) == 1.5
