"""Stretches of time cut from a model's inputs, which may be of several rates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compressor.tensor_spec import TensorSpec


def can_be_cut(specs: Sequence[TensorSpec]) -> bool:
    """Say whether inputs have a time axis: some vary in one axis besides the batch, and none in more."""
    varying = [len(set(spec.dynamic_axes) - {0}) for spec in specs]
    return max(varying, default=0) == 1


def length_of(values: Sequence[Tensor], specs: Sequence[TensorSpec]) -> int:
    """Return the steps of the input of the lowest rate, among those that have a time axis.

    Raises:
        ValueError: none has.
    """
    axes = [_time_axis(spec) for spec in specs]
    return min(value.shape[axis] for value, axis in zip(values, axes, strict=True) if axis is not None)


def cut(values: Sequence[Tensor], specs: Sequence[TensorSpec], start: int, size: int) -> tuple[Tensor, ...]:
    """Return `size` steps of the lowest rate from `start`, of every input the same stretch of time.

    Inputs of fixed size stay whole, and all do where there is no time axis.
    """
    if not can_be_cut(specs):
        return tuple(values)
    length = length_of(values, specs)
    return tuple(
        value if axis is None else stretch(value, axis, length, start, size)
        for value, axis in zip(values, map(_time_axis, specs), strict=True)
    )


def stretch(value: Tensor, axis: int, length: int, start: int, size: int) -> Tensor:
    """Return what a tensor has at `size` of `length` steps from `start`, along an axis of that rate or a higher one."""
    rate = value.shape[axis] // length
    return value.narrow(axis, start * rate, min(size, length - start) * rate)


def _time_axis(spec: TensorSpec) -> int | None:
    """Return the axis counted from the last one: two-dimensional students have one more at the front."""
    return None if spec.time_axis is None else spec.time_axis - len(spec.shape)
