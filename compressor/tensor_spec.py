"""Shapes of a model's inputs and outputs, with names for the axes that vary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dimension = int | str


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one input or output; a string in `shape` names a dynamic axis.

    `512*frames` names one that is 512 times as long as the plain ones: inputs of several rates fit together so.
    """

    name: str
    shape: tuple[Dimension, ...]
    dtype: str = "float32"

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Positions and names of the axes whose size varies."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    def sized(self, size: int) -> tuple[int, ...]:
        """Return the shape with `size` in place of every dynamic axis but a leading batch axis, which is one."""
        return tuple(
            dimension if isinstance(dimension, int) else (1 if axis == 0 else size * _rate(dimension))
            for axis, dimension in enumerate(self.shape)
        )

    @property
    def time_axis(self) -> int | None:
        """Position of the one dynamic axis besides the batch axis; None where there are more, or none."""
        varying = set(self.dynamic_axes) - {0}
        return varying.pop() if len(varying) == 1 else None


_RATE = re.compile(r"(\d+)\s*\*")


def _rate(dimension: str) -> int:
    found = _RATE.match(dimension)
    return max(1, int(found[1])) if found else 1


def random_inputs(inputs: tuple[TensorSpec, ...], size: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return standard-normal inputs (zeros and ones for integers) with `size` for every dynamic axis."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape = spec.sized(size)
        floating = spec.dtype.startswith("float")
        values = generator.standard_normal(shape) if floating else generator.integers(0, 2, shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays
