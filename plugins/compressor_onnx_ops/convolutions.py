"""Convolutions with the options that onnx2torch refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import numbers, operator
from compressor_onnx_ops.pooling import _margins

CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: tuple[Callable[..., Tensor], ...] = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


@operator("Conv", fallback=True)
def conv(
    x: Tensor,
    weight: Tensor,
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
    axes = x.dim() - 2
    steps, spread = strides or [1] * axes, dilations or [1] * axes
    reach = [step * (size - 1) + 1 for size, step in zip(weight.shape[2:], spread, strict=True)]
    before, after = _margins(x.shape[2:], reach, steps, pads, auto_pad)
    x = functional.pad(x, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair])
    return CONVOLUTIONS[axes - 1](x, weight, bias, steps, 0, spread, group)


@operator("ConvTranspose", fallback=True)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    axes = x.dim() - 2
    steps, spread, more = strides or [1] * axes, dilations or [1] * axes, output_padding or [0] * axes
    whole = TRANSPOSED[axes - 1](x, weight, bias, steps, 0, 0, group, spread)
    # The whole response with what output padding appends, from which the margins are cut.
    appended = functional.pad(whole, [n for extra in reversed(more) for n in (0, extra)])
    if bias is not None and any(more):
        shown = functional.pad(torch.ones_like(whole), [n for extra in reversed(more) for n in (0, extra)])
        appended = appended + (1 - shown) * bias.reshape(-1, *(1,) * axes)
    sizes = list(appended.shape[2:])
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if output_shape or same:
        wanted = output_shape or [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
        total = [size - want for size, want in zip(sizes, wanted[-axes:], strict=True)]
        upper = auto_pad == "SAME_UPPER"
        before = [each // 2 if upper else each - each // 2 for each in total]
        after = [each - first for each, first in zip(total, before, strict=True)]
    else:
        given = pads if pads and auto_pad != "VALID" else [0] * 2 * axes
        before, after = given[:axes], given[axes:]
    return functional.pad(appended, [-n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair])


@operator("ConvInteger")
def conv_integer(
    x: Tensor,
    weight: Tensor,
    zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    /,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    # float64 holds every sum of products of bytes exactly.
    values, kernel = x.double() - _number(zero), weight.double() - _by_output(weight_zero, weight.dim())
    options = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "pads": pads, "strides": strides}
    return conv(values, kernel, **options).round().to(torch.int32)  # type: ignore[arg-type]


def _number(zero: Tensor | None) -> Tensor | float:
    return 0.0 if zero is None else zero.double().reshape(())


def _by_output(value: Tensor | None, rank: int) -> Tensor | float:
    """Return one value, or one for each output channel, to go with a kernel of a rank."""
    if value is None:
        return 0.0
    wide = value.double()
    return wide.reshape(()) if wide.numel() == 1 else wide.reshape(-1, *(1,) * (rank - 1))


@operator("Col2Im")
def col2im(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    /,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    image, block = numbers(image_shape), numbers(block_shape)
    axes = len(image)
    steps, spread, margins = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
    padded = [size + margins[at] + margins[at + axes] for at, size in enumerate(image)]
    counts = [(padded[at] - spread[at] * (block[at] - 1) - 1) // steps[at] + 1 for at in range(axes)]
    channels = x.shape[1] // math.prod(block)
    columns = x.reshape(x.shape[0], channels, *block, *counts)
    made = x.new_zeros(x.shape[0], channels, *padded)
    for offset in torch.cartesian_prod(*(torch.arange(size) for size in block)).reshape(-1, axes).tolist():
        region = tuple(
            slice(spread[at] * offset[at], spread[at] * offset[at] + steps[at] * (counts[at] - 1) + 1, steps[at])
            for at in range(axes)
        )
        made[(slice(None), slice(None), *region)] += columns[(slice(None), slice(None), *offset)]
    kept = tuple(slice(margins[at], margins[at] + image[at]) for at in range(axes))
    return made[(slice(None), slice(None), *kept)]


@operator("DeformConv")
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    /,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    from torchvision.ops import deform_conv2d

    top, left, bottom, right = pads or [0] * 4
    if (top, left) != (bottom, right):
        raise NotImplementedError("a deformable convolution with different padding before and after")
    made: Tensor = deform_conv2d(
        x, offset, weight, bias, tuple(strides or (1, 1)), (top, left), tuple(dilations or (1, 1)), mask
    )
    return made
