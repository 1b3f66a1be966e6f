"""Proofs: a rewritten graph equals the one before, and a written file equals the graph."""

from __future__ import annotations

from functools import cache, partial
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from compressor.errors import VerificationError
from compressor.graph_editing import copy_graph, feed, input_specs
from compressor.parity import differences, rounding_of
from compressor.report import ExportCheck
from compressor.shared_draws import recorded_draws, taking_draws
from compressor.stored_model import StoredModel, onnx_session
from compressor.tensor_spec import random_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.tensor_spec import TensorSpec

PROOF_SIZES = (7, 16, 33)
EXACT_TOLERANCE = 1e-9
"""Largest share of the output's magnitude by which an exact rewrite may move it, computed in float64."""

EXPORT_SIZES = (5, 16, 47, 100, 256)


def check_stage(stage: str, before: GraphModule, after: GraphModule, inputs: tuple[TensorSpec, ...]) -> str:
    """Compare both graphs in float64 at several sizes and return the finding in words.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    exact_before, exact_after = copy_graph(before).double().eval(), copy_graph(after).double().eval()
    worst = 0.0
    for size in PROOF_SIZES:
        values = tuple(_as_double(array) for array in random_inputs(inputs, size, seed=size).values())
        for wanted, found in zip(feed(exact_before, values), feed(exact_after, values), strict=True):
            worst = max(worst, _relative_difference(wanted, found, stage, size))
    return f"equal at sizes {', '.join(map(str, PROOF_SIZES))}: {worst:.1e} of the output's scale in float64"


def _as_double(array: NDArray[Any]) -> torch.Tensor:
    value = torch.from_numpy(array)
    return value.double() if value.is_floating_point() else value


def _relative_difference(wanted: torch.Tensor, found: torch.Tensor, stage: str, size: int) -> float:
    if found.numel() != wanted.numel():
        raise VerificationError(
            f"stage '{stage}' should keep the output and does not: at size {size} its shape is {tuple(found.shape)}, "
            f"expected {tuple(wanted.shape)}"
        )
    scale = max(1e-12, float(wanted.abs().max()))
    difference = float((wanted - found.reshape(wanted.shape)).abs().max()) / scale
    if not difference <= EXACT_TOLERANCE:
        raise VerificationError(
            f"stage '{stage}' should keep the output and does not: at size {size} it moved by {difference:.2e} of "
            f"the output's scale, allowed {EXACT_TOLERANCE:.0e}"
        )
    return difference


def check_export(content: bytes, graph: GraphModule) -> tuple[ExportCheck, ...]:
    """Compare a written student in onnxruntime with the torch student at five sizes of the dynamic axes.

    Raises:
        VerificationError: they differ by more than a teacher may from its file, see `compressor.parity`.
    """
    stored = StoredModel.of(content)
    session = onnx_session(stored)
    checks: list[ExportCheck] = []
    for size in EXPORT_SIZES:
        arrays = random_inputs(input_specs(graph), size, seed=size)
        values = tuple(torch.from_numpy(array) for array in arrays.values())
        with recorded_draws(graph) as draws:
            expected = feed(graph, values)
        taking, drawn = taking_draws(stored, draws, by_name=False)
        session = onnx_session(taking) if drawn else session
        written = session.run(None, {**arrays, **drawn})
        rounding = cache(partial(rounding_of, graph, values, expected)) if not draws else None
        compared = differences(written, expected, rounding)
        # Of several outputs the one that is nearest to what is not allowed, or furthest beyond it.
        difference, allowed = max(compared, key=lambda each: inf if isnan(each[0]) else each[0] / each[1])
        if not difference <= allowed:
            raise VerificationError(
                f"the written student differs from the torch student by {difference:.2e} at size {size}, "
                f"allowed {allowed:.2e}"
            )
        checks.append(ExportCheck(size=size, max_abs_difference=difference, allowed=allowed))
    return tuple(checks)
