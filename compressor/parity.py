"""Whether torch computes what onnxruntime computes, to within what float32 can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.errors import TeacherError
from compressor.graph_editing import run_graph
from compressor.shared_draws import recorded_draws, taking_draws
from compressor.stored_model import StoredModel, onnx_session
from compressor.tensor_spec import TensorSpec, random_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

COMPARED_SIZES = (16, 33, 100)
"""Sizes of the dynamic axes at which torch is compared with onnxruntime."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the output's largest magnitude (or of one, if that is larger)."""

ROUNDING_FACTOR = 8.0
"""A larger difference is allowed where it is at most this many times what float32 itself is off by, against float64:
two engines round differently, and some models, such as normalising flows, make that larger layer by layer."""

MOST_ROUNDING = 1e-2
"""What is never taken for rounding, in the unit of `RELATIVE_TOLERANCE`."""


Rounding = Callable[[], tuple[float, ...]]
"""How far each output of a graph in float32 is from itself in float64."""


@dataclass(frozen=True)
class Parity:
    """How near torch comes to onnxruntime, over all compared sizes; both compute in float32."""

    sizes: tuple[int, ...]
    absolute: float
    """Largest difference of any output."""
    relative: float
    """The same as a share of the output's largest magnitude, or of one, if that is larger."""
    snr_db: float
    """Energy of the outputs over that of the difference, in decibels, of the size where it is least."""

    def __str__(self) -> str:
        return f"{self.absolute:.1e} apart at most, {self.relative:.1e} of the largest value, {self.snr_db:.0f} dB"


def compare_with_onnxruntime(
    source: str, stored: StoredModel, graph: GraphModule, inputs: tuple[TensorSpec, ...]
) -> Parity:
    """Compare a graph with its file in onnxruntime at three sizes of the dynamic axes.

    Raises:
        TeacherError: onnxruntime cannot run the file, or the numbers differ.
    """
    try:
        session = onnx_session(stored)
    except Exception as error:
        raise TeacherError(f"{source}: onnxruntime cannot load it: {error}") from error
    found_so_far: list[Parity] = []
    for size in COMPARED_SIZES:
        arrays = random_inputs(inputs, size)
        try:
            values = tuple(torch.from_numpy(array) for array in arrays.values())
            with torch.no_grad(), recorded_draws(graph) as draws:
                found = run_graph(graph, values)
            taking, drawn = taking_draws(stored, draws, by_name=True)
            session = onnx_session(taking) if drawn else session
            expected = session.run(None, {**arrays, **drawn})
        except Exception as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise TeacherError(f"{source}: cannot be run on inputs of shape {shapes}: {error}") from error
        rounding = cache(partial(rounding_of, graph, values, found)) if not draws else None
        # Infinite weights make infinite outputs, whose difference is no number, and so is refused.
        with np.errstate(invalid="ignore", over="ignore"):
            _refuse_difference(source, size, expected, found, rounding)
            found_so_far.append(_parity(size, expected, found))
    return Parity(
        sizes=COMPARED_SIZES,
        absolute=max(each.absolute for each in found_so_far),
        relative=max(each.relative for each in found_so_far),
        snr_db=min(each.snr_db for each in found_so_far),
    )


def _parity(size: int, expected: list[NDArray[Any]], found: tuple[torch.Tensor, ...]) -> Parity:
    absolute = relative = signal = noise = 0.0
    for wanted, value in zip(expected, found, strict=True):
        exact = wanted.astype(np.float64)
        off = np.abs(value.numpy().astype(np.float64) - exact)
        worst = float(off.max(initial=0.0))
        absolute = max(absolute, worst)
        relative = max(relative, worst / max(1.0, float(np.abs(exact).max(initial=0.0))))
        signal, noise = signal + float(np.square(exact).sum()), noise + float(np.square(off).sum())
    snr = 10 * math.log10(signal / noise) if signal and noise else math.inf
    return Parity((size,), absolute, relative, snr)


def _refuse_difference(
    source: str,
    size: int,
    expected: list[NDArray[Any]],
    found: tuple[torch.Tensor, ...],
    rounding: Rounding | None,
) -> None:
    """Refuse a difference that is neither small nor what rounding makes of this model."""
    compared = zip(expected, found, differences(expected, found, rounding), strict=True)
    for wanted, value, (difference, allowed) in compared:
        if not difference <= allowed:
            raise TeacherError(
                f"{source}: torch and onnxruntime disagree at size {size}: shapes {tuple(value.shape)} and "
                f"{wanted.shape}, largest difference {difference:.3g}, allowed {allowed:.3g}. The model uses an "
                "operator that is converted wrongly."
            )


def differences(
    expected: Sequence[NDArray[Any]], found: Sequence[torch.Tensor], rounding: Rounding | None
) -> list[tuple[float, float]]:
    """Return each output's largest difference, infinite where shapes differ, and what of it is allowed.

    `rounding` tells what rounding makes of each output, and is asked where that matters; None: of this model nobody
    can tell, as where random numbers are drawn.
    """
    told = []
    for at, (wanted, value) in enumerate(zip(expected, found, strict=True)):
        scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
        allowed = RELATIVE_TOLERANCE * scale
        got = value.numpy()
        difference = float(np.abs(got - wanted).max(initial=0.0)) if got.shape == wanted.shape else math.inf
        if allowed < difference <= MOST_ROUNDING * scale and rounding is not None:
            allowed = max(allowed, ROUNDING_FACTOR * rounding()[at])
        told.append((difference, allowed))
    return told


def rounding_of(
    graph: GraphModule, inputs: tuple[torch.Tensor, ...], found: tuple[torch.Tensor, ...]
) -> tuple[float, ...]:
    """Return how far each output of a graph in float32 is from itself in float64; 0 where that cannot be told."""
    doubled = tuple(value.double() if value.is_floating_point() else value for value in inputs)
    try:
        with torch.no_grad():
            exact = run_graph(deepcopy(graph).double(), doubled)
    except Exception:  # An operator may know float32 only.
        return (0.0,) * len(found)
    return tuple(
        float((one - other).abs().max()) if one.shape == other.shape and one.numel() else 0.0
        for one, other in zip(found, exact, strict=True)
    )
