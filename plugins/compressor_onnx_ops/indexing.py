"""Operators that read and write by position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compressor_onnx_ops.operators import operator

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX's names of what happens to values that meet at a place, in torch's."""


@operator("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, /, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    where = _positive(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, updates)
    return x.scatter_reduce(axis, where, updates, REDUCTIONS[reduction], include_self=True)


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, /, *, reduction: str = "none") -> Tensor:
    depth = indices.shape[-1]
    sizes = torch.tensor(x.shape[:depth], device=x.device)
    where = torch.where(indices < 0, indices + sizes, indices).reshape(-1, depth)
    strides = torch.tensor([int(torch.tensor(x.shape[at + 1 : depth]).prod()) for at in range(depth)], device=x.device)
    rows = (where * strides).sum(-1)
    # Every size is said: none follows from the others where there is nothing to write.
    flat = x.reshape(int(sizes.prod()), math.prod(x.shape[depth:]))
    # What is checked in double precision still draws random numbers in the precision that the file names.
    values = updates.reshape(rows.shape[0], flat.shape[1]).to(flat.dtype)
    if reduction == "none":
        made = flat.index_copy(0, rows, values)
    else:
        spread = rows.unsqueeze(1).expand_as(values)
        made = flat.scatter_reduce(0, spread, values, REDUCTIONS[reduction], include_self=True)
    return made.reshape(x.shape)


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, /, *, axis: int = 0) -> Tensor:
    return x.gather(axis, _positive(indices, x.shape[axis]).to(torch.int64))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, /, *, batch_dims: int = 0) -> Tensor:
    depth = indices.shape[-1]
    batch = list(x.shape[:batch_dims])
    rows = [
        torch.arange(size, device=x.device).reshape([-1 if at == axis else 1 for at in range(indices.dim() - 1)])
        for axis, size in enumerate(batch)
    ]
    return x[(*rows, *(indices[..., at] for at in range(depth)))]


@operator("NonZero")
def non_zero(x: Tensor, /) -> Tensor:
    return (x if x.dim() else x.reshape(1)).nonzero().T


@operator("Compress")
def compress(x: Tensor, condition: Tensor, /, *, axis: int | None = None) -> Tensor:
    x, along = (x.flatten(), 0) if axis is None else (x, axis)
    return x.index_select(along, condition.nonzero().flatten())


@operator("OneHot")
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, /, *, axis: int = -1) -> Tensor:
    classes = int(depth)
    where = indices.to(torch.int64)
    where = torch.where(where < 0, where + classes, where)
    along = axis % (indices.dim() + 1)
    shape = [1] * (indices.dim() + 1)
    shape[along] = classes
    hot = torch.arange(classes, device=indices.device).reshape(shape) == where.unsqueeze(along)
    return torch.where(hot, values[1], values[0])


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, /, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device).unsqueeze(0)
    ends = lengths.unsqueeze(1)
    source = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(moved.shape[0], device=x.device).unsqueeze(1)
    return moved[rows, source].movedim((0, 1), (batch_axis, time_axis))


@operator("Unique")
def unique(x: Tensor, /, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, ...]:  # noqa: A002
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    flat = inverse.flatten()
    places = torch.arange(flat.numel(), device=x.device)
    missing = torch.full((counts.numel(),), flat.numel(), device=x.device)
    first = missing.scatter_reduce(0, flat, places, "amin")
    if not sorted:
        order = torch.argsort(first)
        rank = torch.argsort(order)
        values, first, counts = values.index_select(axis or 0, order), first[order], counts[order]
        flat = rank[flat]
    return values, first, flat, counts


@operator("TensorScatter")
def tensor_scatter(
    past: Tensor, update: Tensor, start: Tensor | None = None, /, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    along = axis % past.dim()
    steps = torch.arange(update.shape[along], device=past.device)
    begin = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device) if start is None else start
    where = begin.unsqueeze(1) + steps
    where = where % past.shape[along] if mode == "circular" else where
    shape = [update.shape[0], *(1,) * (past.dim() - 1)]
    shape[along] = len(steps)
    return past.scatter(along, where.reshape(shape).expand_as(update), update)


@operator("TopK")
def top_k(x: Tensor, count: Tensor, /, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Any, ...]:  # noqa: A002
    # Of equal values the first come first, which torch's own selection does not promise.
    keys = x.to(torch.int64) ^ torch.iinfo(torch.int64).min if x.dtype is torch.uint64 else x
    _, where = torch.sort(keys, dim=axis, descending=bool(largest), stable=True)
    where = where.narrow(axis, 0, int(count))
    return x.gather(axis, where), where


def _positive(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)
