"""Arithmetic on unsigned numbers of 16, 32 and 64 bits, which torch stores but hardly computes with: through int64."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from compressor_onnx_ops.numeric import NARROW
from compressor_onnx_ops.operators import operator

Combine = Callable[[Tensor, Tensor], Tensor]


def _widened(combine: Combine, *, compares: bool = False) -> Callable[..., Tensor]:
    def compute(*values: Tensor, axis: int | None = None, broadcast: int = 0) -> Tensor:
        _refuse_others(*values)
        made = reduce(combine, (_ordered(value) for value in values))
        return made if compares else _back(made, values[0].dtype)

    return compute


def _refuse_others(*values: Tensor) -> None:
    if any(value.dtype not in NARROW for value in values):
        raise NotImplementedError(f"arithmetic on {', '.join(str(value.dtype) for value in values)}")


def _ordered(value: Tensor) -> Tensor:
    """Return whole numbers as int64, those of 64 bits shifted so that they keep their order."""
    wide = value.to(torch.int64)
    return wide ^ torch.iinfo(torch.int64).min if value.dtype is torch.uint64 else wide


def _back(made: Tensor, dtype: torch.dtype) -> Tensor:
    return (made ^ torch.iinfo(torch.int64).min if dtype is torch.uint64 else made).to(dtype)


def _plain(combine: Combine) -> Callable[..., Tensor]:
    """Return arithmetic that overflows as unsigned numbers do, for which order does not matter."""

    def compute(x: Tensor, y: Tensor, /, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
        _refuse_others(x, y)
        return combine(x.to(torch.int64), y.to(torch.int64)).to(x.dtype)

    return compute


operator("Add", fallback=True)(_plain(torch.add))
operator("Sub", fallback=True)(_plain(torch.sub))
operator("Mul", fallback=True)(_plain(torch.mul))
operator("Div", fallback=True)(_plain(lambda x, y: torch.div(x, y, rounding_mode="trunc")))
operator("Max", fallback=True)(_widened(torch.maximum))
operator("Min", fallback=True)(_widened(torch.minimum))
operator("Equal", fallback=True)(_widened(torch.eq, compares=True))
operator("Greater", fallback=True)(_widened(torch.gt, compares=True))
operator("GreaterOrEqual", fallback=True)(_widened(torch.ge, compares=True))
operator("Less", fallback=True)(_widened(torch.lt, compares=True))
operator("LessOrEqual", fallback=True)(_widened(torch.le, compares=True))
