"""Arithmetic, bits, comparisons and changes of type."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from compressor_onnx_ops.operators import operator

TORCH_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx.TensorProto.FLOAT8E5M2: torch.float8_e5m2,
}
"""What torch has of ONNX's types of numbers; it has none of less than eight bits."""

BEYOND_E4M3 = 464.0
"""Half way from the largest float8 of that kind to what would be the next."""

NARROW = (torch.uint16, torch.uint32, torch.uint64)
"""Types that torch stores but computes little with."""


def torch_type(number: int) -> torch.dtype:
    """Return torch's type for ONNX's.

    Raises:
        NotImplementedError: torch has none.
    """
    if number not in TORCH_TYPES:
        raise NotImplementedError(f"torch has no type {onnx.TensorProto.DataType.Name(number)}")
    return TORCH_TYPES[number]


@operator("Cast")
def cast(x: Tensor, /, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    wanted = torch_type(to)
    if wanted in (torch.float8_e4m3fn, torch.float8_e5m2) and x.is_floating_point():
        largest = torch.finfo(wanted).max
        wide = x.float()
        if saturate:
            return torch.where(wide.isnan(), wide, wide.clamp(-largest, largest)).to(wanted)
        if wanted is torch.float8_e4m3fn:
            # It has no infinity; what would round beyond the largest is not a number.
            return torch.where(wide.abs() > BEYOND_E4M3, torch.full_like(wide, torch.nan), wide).to(wanted)
    if wanted is torch.bool:
        return x != 0
    return x.to(wanted)


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, /, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    number = next(number for number, dtype in TORCH_TYPES.items() if dtype is like.dtype)
    return cast(x, to=number, saturate=saturate)


@operator("BitCast")
def bit_cast(x: Tensor, /, *, to: int) -> Tensor:
    return x.view(torch_type(to))


@operator("BitShift")
def bit_shift(x: Tensor, by: Tensor, /, *, direction: str) -> Tensor:
    wide, steps = x.to(torch.int64), by.to(torch.int64)
    # Beyond its width a shift is undefined in C; here nothing is left but the sign.
    bits = 8 * x.element_size()
    if direction == "RIGHT" and x.dtype.is_signed:
        return (wide >> steps.clamp(max=63)).to(x.dtype)
    moved = wide << steps.clamp(max=63) if direction == "LEFT" else _shifted_right(wide, steps, x.dtype)
    return torch.where(steps >= bits, torch.zeros_like(moved), moved).to(x.dtype)


def _shifted_right(wide: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
    moved = wide >> steps.clamp(max=63)
    if dtype is torch.uint64:
        # In int64 the sign bit was dragged along.
        kept = torch.where(steps > 0, (1 << (64 - steps).clamp(max=62)) - 1, torch.full_like(moved, -1))
        moved = moved & kept
    return moved


@operator("BitwiseAnd")
def bitwise_and(x: Tensor, y: Tensor, /) -> Tensor:
    return (_wide(x) & _wide(y)).to(x.dtype)


@operator("BitwiseOr")
def bitwise_or(x: Tensor, y: Tensor, /) -> Tensor:
    return (_wide(x) | _wide(y)).to(x.dtype)


@operator("BitwiseXor")
def bitwise_xor(x: Tensor, y: Tensor, /) -> Tensor:
    return (_wide(x) ^ _wide(y)).to(x.dtype)


@operator("BitwiseNot")
def bitwise_not(x: Tensor, /) -> Tensor:
    return (~_wide(x)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.int64) if x.dtype in NARROW else x


@operator("Mod")
def mod(x: Tensor, y: Tensor, /, *, fmod: int = 0) -> Tensor:
    wide, divisor = _wide(x), _wide(y)
    return (torch.fmod(wide, divisor) if fmod else torch.remainder(wide, divisor)).to(x.dtype)


@operator("CumSum")
def cumulative_sum(x: Tensor, axis: Tensor, /, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(x, axis, torch.cumsum, 0, exclusive, reverse)


@operator("CumProd")
def cumulative_product(x: Tensor, axis: Tensor, /, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(x, axis, torch.cumprod, 1, exclusive, reverse)


def _cumulative(x: Tensor, axis: Tensor, function: object, neutral: int, exclusive: int, reverse: int) -> Tensor:
    along = int(axis)
    x = x.flip(along) if reverse else x
    made: Tensor = function(x, dim=along).to(x.dtype)  # type: ignore[operator]
    if exclusive:
        first = torch.full_like(made.narrow(along, 0, 1), neutral)
        made = torch.cat([first, made.narrow(along, 0, made.shape[along] - 1)], along)
    return made.flip(along) if reverse else made


@operator("Det")
def determinant(x: Tensor, /) -> Tensor:
    made: Tensor = torch.linalg.det(x)
    return made


@operator("Size")
def size(x: Tensor, /) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


@operator("Pow")
def power(x: Tensor, exponent: Tensor, /) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


@operator("Clip", fallback=True)
def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    /,
    *,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
) -> Tensor:
    lowest = low if low is not None else min
    highest = high if high is not None else max
    x = x if lowest is None else torch.maximum(x, torch.as_tensor(lowest, dtype=x.dtype, device=x.device))
    return x if highest is None else torch.minimum(x, torch.as_tensor(highest, dtype=x.dtype, device=x.device))


@operator("IsInf")
def is_inf(x: Tensor, /, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found |= torch.isneginf(x)
    if detect_positive:
        found |= torch.isposinf(x)
    return found
