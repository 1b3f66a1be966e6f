"""Operators that move values without computing with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import WRITERS, numbers, operator


@operator("Trilu")
def trilu(x: Tensor, diagonal: Tensor | None = None, /, *, upper: int = 1) -> Tensor:
    k = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, k) if upper else torch.tril(x, k)


@operator("Pad", fallback=True)
def pad(
    x: Tensor,
    given: Tensor | None = None,
    constant: Tensor | None = None,
    chosen: Tensor | None = None,
    /,
    *,
    pads: list[int] | None = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    amounts = numbers(given) or numbers(pads)
    axes = [axis % x.dim() for axis in (numbers(chosen) or range(len(amounts) // 2))]
    fill = value if constant is None else constant.reshape(()).to(x.dtype)
    for at, axis in enumerate(axes):
        before, after = amounts[at], amounts[at + len(axes)]
        x = _padded(x, axis, before, after, mode, fill)
    return x


def _padded(x: Tensor, axis: int, before: int, after: int, mode: str, fill: Tensor | float) -> Tensor:
    length = x.shape[axis]
    start, end = max(0, -before), length - max(0, -after)
    x, before, after = x.narrow(axis, start, end - start), max(0, before), max(0, after)
    if mode == "constant":
        shape = list(x.shape)
        shape[axis] += before + after
        filled = x.new_zeros(shape) + fill if isinstance(fill, Tensor) else x.new_full(shape, fill)
        return filled.to(x.dtype).slice_scatter(x, axis, before, before + end - start)
    positions = torch.arange(-before, x.shape[axis] + after, device=x.device)
    return x.index_select(axis, _inside(positions, x.shape[axis], mode))


def _inside(positions: Tensor, length: int, mode: str) -> Tensor:
    if mode == "edge":
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions % length
    period = max(1, 2 * (length - 1))
    folded = positions % period
    return torch.where(folded < length, folded, period - folded)


@operator("Slice")
def slice_(
    x: Tensor,
    starts: Tensor | list[int],
    ends: Tensor | list[int],
    axes: Tensor | None = None,
    steps: Tensor | None = None,
    /,
) -> Tensor:
    chosen = numbers(axes) or list(range(len(numbers(starts))))
    strides = numbers(steps) or [1] * len(chosen)
    for start, end, axis, step in zip(numbers(starts), numbers(ends), chosen, strides, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step > 0:
            # A view: nothing is copied where nothing has to be.
            x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, places.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


@operator("Split", fallback=True)
def split(
    x: Tensor,
    sizes: Tensor | None = None,
    /,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    num_outputs: int = 0,
) -> tuple[Tensor, ...]:
    lengths = numbers(sizes) or numbers(split)
    if not lengths:
        if not num_outputs:
            raise NotImplementedError("a Split says neither the sizes of its outputs nor their number")
        each = math.ceil(x.shape[axis] / num_outputs)
        lengths = [min(each, x.shape[axis] - each * at) for at in range(num_outputs)]
    return tuple(torch.split(x, lengths, axis))


@operator("Reshape", fallback=True)
def reshape(x: Tensor, given: Tensor | None = None, /, *, shape: list[int] | None = None, allowzero: int = 0) -> Tensor:
    wanted = numbers(given) or numbers(shape)
    if not allowzero:
        wanted = [x.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("DepthToSpace", fallback=True)
def depth_to_space(x: Tensor, /, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    batch, channels, height, width = x.shape
    depth = channels // blocksize**2
    x = x.reshape(batch, blocksize, blocksize, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, depth, height * blocksize, width * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, /, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return functional.pixel_unshuffle(x, blocksize)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * blocksize**2, height // blocksize, width // blocksize)


@operator("CenterCropPad")
def center_crop_pad(x: Tensor, shape: Tensor, /, *, axes: list[int] | None = None) -> Tensor:
    wanted = numbers(shape)
    for size, axis in zip(wanted, numbers(axes) or range(x.dim()), strict=True):
        length = x.shape[axis]
        if size < length:
            x = x.narrow(axis, (length - size) // 2, size)
        elif size > length:
            before = (size - length) // 2
            x = _padded(x, axis % x.dim(), before, size - length - before, "constant", 0.0)
    return x


@operator("Unsqueeze", fallback=True)
def unsqueeze(x: Tensor, chosen: Tensor | None = None, /, *, axes: list[int] | None = None) -> Tensor:
    where = numbers(chosen) or numbers(axes)
    rank = x.dim() + len(where)
    for axis in sorted(axis % rank for axis in where):
        x = x.unsqueeze(axis)
    return x


@operator("Squeeze")
def squeeze(x: Tensor, chosen: Tensor | None = None, /, *, axes: list[int] | None = None) -> Tensor:
    where = numbers(chosen) or numbers(axes)
    if not where:
        return x.squeeze()
    for axis in sorted((axis % x.dim() for axis in where), reverse=True):
        x = x.squeeze(axis)
    return x


@operator("Flatten", fallback=True)
def flatten(x: Tensor, /, *, axis: int = 1) -> Tensor:
    at = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))


@operator("Shape", fallback=True)
def shape(x: Tensor, /, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape[start:end]), dtype=torch.int64, device=x.device)


def write_shape(graph: Any, x: Any, /, *, start: int = 0, end: int | None = None) -> Any:
    """Write a part of a shape as a slice of all of it: torch folds a Shape without a look at where it starts or ends.

    The constant of the wrong length that it makes can crash the process later.
    """
    bounds = ([start], [torch.iinfo(torch.int64).max if end is None else end])
    constants = [graph.op("Constant", value_t=torch.tensor(bound)) for bound in bounds]
    return graph.op("Slice", graph.op("Shape", x), *constants)


WRITERS["Shape"] = write_shape


@operator("EyeLike", fallback=True)
def eye_like(x: Tensor, /, *, dtype: int | None = None, k: int = 0) -> Tensor:
    from compressor_onnx_ops.numeric import torch_type

    rows, columns = x.shape
    made = torch.eye(max(rows, columns) + abs(k), device=x.device)
    start_row, start_column = max(0, -k), max(0, k)
    # A diagonal k to the right is the main one, read from k columns earlier.
    made = made[start_column : start_column + rows, start_row : start_row + columns]
    return made.to(x.dtype if dtype is None else torch_type(dtype))


@operator("Range")
def arange(start: Tensor, limit: Tensor, delta: Tensor, /, *, stash_type: int = 1) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), device=start.device).to(start.dtype)
