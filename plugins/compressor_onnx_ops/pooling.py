"""Pooling with every option of the standard: any padding, dilation, ceil mode, and where the maxima were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import operator


@operator("MaxPool", fallback=True)
def max_pool(
    x: Tensor,
    /,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    places = torch.arange(math.prod(x.shape[2:]), device=x.device).reshape(x.shape[2:])
    if storage_order:
        places = torch.arange(places.numel(), device=x.device).reshape(*reversed(x.shape[2:]))
        places = places.permute(*reversed(range(places.dim())))
    windows = _Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    values, at = windows.of(x, lowest).max(-1)
    # Where each value of a window comes from, by plane.
    sources = windows.of(places, -1).expand(*at.shape, -1).gather(-1, at.unsqueeze(-1)).squeeze(-1)
    planes = torch.arange(math.prod(x.shape[:2]), device=x.device).reshape(*x.shape[:2], *(1,) * len(kernel_shape))
    return values, sources + planes * places.numel()


@operator("AveragePool", fallback=True)
def average_pool(
    x: Tensor,
    /,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    windows = _Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    inside = windows.of(torch.ones(x.shape[2:], dtype=x.dtype, device=x.device), 0, padding=float(count_include_pad))
    return windows.of(x, 0).sum(-1) / inside.sum(-1)


@operator("LpPool")
def lp_pool(
    x: Tensor,
    /,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    windows = _Windows(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    return windows.of(x, 0).abs().pow(p).sum(-1).pow(1 / p)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor, /) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, /, *, p: int = 2) -> Tensor:
    return x.abs().pow(p).sum(tuple(range(2, x.dim())), keepdim=True).pow(1 / p)


@operator("MaxUnpool")
def max_unpool(
    x: Tensor,
    where: Tensor,
    shape: Tensor | None = None,
    /,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    axes = len(kernel_shape)
    steps, margins = strides or [1] * axes, pads or [0] * 2 * axes
    inferred = [
        step * (size - 1) + kernel - margins[at] - margins[at + axes]
        for at, (size, kernel, step) in enumerate(zip(x.shape[2:], kernel_shape, steps, strict=True))
    ]
    wanted = [*x.shape[:2], *inferred]
    flat = torch.zeros(math.prod(wanted), dtype=x.dtype, device=x.device)
    made = flat.scatter(0, where.flatten(), x.flatten()).reshape(wanted)
    if shape is not None:
        # The places count in the smaller form; the rest stays zero.
        larger = [int(size) for size in shape.tolist()]
        made = functional.pad(made, [n for at in reversed(range(len(larger))) for n in (0, larger[at] - wanted[at])])
    return made


class _Windows:
    """What each output of a pooling sees, along a last axis of its own."""

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: list[int],
        strides: list[int] | None,
        dilations: list[int] | None,
        pads: list[int] | None,
        auto_pad: str,
        ceil: bool,
    ) -> None:
        axes = len(kernel)
        self.kernel, self.strides = kernel, strides or [1] * axes
        self.dilations = dilations or [1] * axes
        reach = [step * (size - 1) + 1 for size, step in zip(kernel, self.dilations, strict=True)]
        self.before, self.after = _margins(sizes, reach, self.strides, pads, auto_pad)
        self.beyond = [0] * axes
        for axis in range(axes if ceil else 0):
            length = sizes[axis] + self.before[axis] + self.after[axis] - reach[axis]
            count = math.ceil(length / self.strides[axis]) + 1
            # A window may not start in the padding behind.
            if (count - 1) * self.strides[axis] >= sizes[axis] + self.before[axis]:
                count -= 1
            self.beyond[axis] = max(0, (count - 1) * self.strides[axis] - length)

    def of(self, x: Tensor, outside: float, padding: float | None = None) -> Tensor:
        """Return the windows of the last axes; `padding` for the margins, `outside` for what ceil mode adds."""
        margins = [n for pair in zip(reversed(self.before), reversed(self.after), strict=True) for n in pair]
        beyond = [n for more in reversed(self.beyond) for n in (0, more)]
        x = functional.pad(x, margins, value=outside if padding is None else padding)
        x = functional.pad(x, beyond, value=outside)
        axes, first = len(self.kernel), x.dim() - len(self.kernel)
        for axis in range(axes):
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            x = x.unfold(first + axis, reach, self.strides[axis])[..., :: self.dilations[axis]]
        return x.flatten(-axes)


def _margins(
    sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int], pads: list[int] | None, auto_pad: str
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each axis."""
    axes = len(reach)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (math.ceil(size / step) - 1) * step + wide - size)
            for size, wide, step in zip(sizes, reach, strides, strict=True)
        ]
        small, large = [each // 2 for each in total], [each - each // 2 for each in total]
        return (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    given = [0] * 2 * axes if auto_pad == "VALID" or not pads else pads
    return given[:axes], given[axes:]
