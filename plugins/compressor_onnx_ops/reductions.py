"""Reductions. Axes are an attribute up to opset 12 or 17, an input afterwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressor_onnx_ops.operators import numbers, operator

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduced(reduce: Reduce) -> Callable[..., Tensor]:
    def compute(
        x: Tensor,
        chosen: Tensor | None = None,
        /,
        *,
        axes: list[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        along = numbers(chosen) or numbers(axes)
        if not along:
            if noop_with_empty_axes:
                # No axis is reduced, yet what is done to each value is.
                return reduce(x.unsqueeze(-1), [x.dim()], False).to(x.dtype)
            along = list(range(x.dim()))
        return reduce(x, [axis % max(1, x.dim()) for axis in along], bool(keepdims)).to(x.dtype)

    return compute


def _maximum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(x, axes, keep, largest=True)


def _minimum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(x, axes, keep, largest=False)


def _extreme(x: Tensor, axes: list[int], keep: bool, *, largest: bool) -> Tensor:
    if x.numel() == 0 and any(x.shape[axis] == 0 for axis in axes):
        shape = [1 if axis in axes else length for axis, length in enumerate(x.shape)]
        full = torch.full(shape, _neutral(x.dtype, largest=largest), dtype=x.dtype)
        return full if keep else full.squeeze(axes)
    wide = x.to(torch.uint8) if x.dtype is torch.bool else x
    return (torch.amax if largest else torch.amin)(wide, axes, keep)


def _neutral(dtype: torch.dtype, *, largest: bool) -> float:
    if dtype.is_floating_point:
        return float("-inf") if largest else float("inf")
    if dtype is torch.bool:
        return not largest
    info = torch.iinfo(dtype)
    return info.min if largest else info.max


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.to(torch.float64)
    return wide.mean(axes, keepdim=keep)


operator("ReduceSum")(_reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)))
operator("ReduceMean")(_reduced(_mean))
operator("ReduceProd")(_reduced(_product))
operator("ReduceMax")(_reduced(_maximum))
operator("ReduceMin")(_reduced(_minimum))
operator("ReduceL1")(_reduced(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)))
operator("ReduceL2")(_reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).double().sqrt()))
operator("ReduceSumSquare")(_reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)))
operator("ReduceLogSum")(_reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep).double().log()))
operator("ReduceLogSumExp")(_reduced(lambda x, axes, keep: torch.logsumexp(x.double(), axes, keepdim=keep)))
