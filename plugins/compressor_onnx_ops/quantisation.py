"""Quantised values, computed in float as the standard defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor_onnx_ops.convolutions import conv
from compressor_onnx_ops.numeric import cast, torch_type
from compressor_onnx_ops.operators import operator


@operator("QuantizeLinear")
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    /,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    stated = torch_type(output_dtype) if output_dtype else torch.uint8
    wanted = stated if zero is None else zero.dtype
    scaled = x / _along(scale, x, axis, block_size)
    if wanted.is_floating_point:
        from compressor_onnx_ops.numeric import TORCH_TYPES

        return cast(scaled, to=next(number for number, dtype in TORCH_TYPES.items() if dtype is wanted))
    offset = 0.0 if zero is None else _along(zero.to(torch.float32), x, axis, block_size)
    limits = torch.iinfo(wanted)
    return (scaled.float().round() + offset).clamp(limits.min, limits.max).to(wanted)


@operator("DequantizeLinear")
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    /,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    values = x.to(torch.float32)
    if zero is not None:
        values = values - _along(zero.to(torch.float32), x, axis, block_size)
    made = values * _along(scale.to(torch.float32), x, axis, block_size)
    return made.to(torch_type(output_dtype) if output_dtype else scale.dtype)


def _along(value: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Return a scale or zero point as what goes with each value: one, one a channel, or one a block."""
    if value.numel() == 1 and not block:
        return value.reshape(())
    at = axis % x.dim()
    if block:
        return value.repeat_interleave(block, at).narrow(at, 0, x.shape[at])
    shape = [1] * x.dim()
    shape[at] = -1
    return value.reshape(shape)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = (high - low) / 255.0
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / safe).clamp(0, 255).round().to(torch.uint8)
    return (x / safe).round().add(zero).clamp(0, 255).to(torch.uint8), scale, zero


@operator("MatMulInteger")
def matmul_integer(x: Tensor, y: Tensor, x_zero: Tensor | None = None, y_zero: Tensor | None = None, /) -> Tensor:
    # float64 holds every sum of products of bytes exactly.
    left, right = x.double(), y.double()
    if x_zero is not None:
        left = left - (x_zero.double() if x_zero.dim() == 0 or x_zero.numel() == 1 else x_zero.double().unsqueeze(-1))
    if y_zero is not None:
        right = right - y_zero.double()
    return torch.matmul(left, right).round().to(torch.int32)


@operator("QLinearMatMul")
def quantised_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    /,
) -> Tensor:
    left = (a.double() - a_zero.double()) * a_scale.double()
    right = (b.double() - b_zero.double()) * b_scale.double()
    return _quantised(torch.matmul(left, right), y_scale, y_zero)


@operator("QLinearConv")
def quantised_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    by_output = (-1, *(1,) * (weight.dim() - 1))
    kernel = weight.double() - w_zero.double().reshape(by_output)
    values = x.double() - x_zero.double()
    shift = None if bias is None else bias.double()
    made = conv(values, kernel, shift, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    scale = x_scale.double() * w_scale.double()
    return _quantised(made * scale.reshape(-1, *(1,) * (weight.dim() - 2)), y_scale, y_zero)


def _quantised(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    return ((values / scale.double()).round() + zero.double()).clamp(limits.min, limits.max).to(zero.dtype)
