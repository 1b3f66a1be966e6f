"""Dilated depthwise convolutions in the form that trains fastest on a CPU.

oneDNN has a fast kernel for undilated depthwise convolutions only. Time folded into (time / dilation, dilation) turns
a dilated convolution along the width into an undilated one along the height; in channels_last memory the folding is
free. Measured on two cores, forward and backward, 64 channels x 2,055 x 8, 11 taps, dilation 5: 10.9 ms as it stands,
1.7 ms folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import lcm

import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDED_ON = ("cpu",)
"""Where this form pays: an H100 makes 87 steps a second with a student as it is, and 34 in this form."""


class FoldedConv2d(nn.Conv2d):
    """A dilated depthwise convolution along the width; equal to `nn.Conv2d`, whose weights it keeps."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        batch, channels, height, time = input.shape
        step = self.dilation[1]
        if height != 1 or time % step:
            return super().forward(input)
        folded = input.reshape(batch, channels, time // step, step)
        padding = (int(self.padding[1]) // step, 0)
        result = functional.conv2d(folded, self.weight.transpose(2, 3), self.bias, padding=padding, groups=channels)
        return result.reshape(batch, channels, 1, time)


def can_fold(module: nn.Module) -> bool:
    """Say whether a module is a length-preserving dilated depthwise convolution of height one."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size[0] == 1
        and module.stride == (1, 1)
        and module.padding_mode == "zeros"
        and module.kernel_size[1] > 1
        and module.kernel_size[1] % 2 == 1
        and module.padding == (0, module.dilation[1] * (module.kernel_size[1] // 2))
    )


@contextmanager
def training_form(model: nn.Module, device: torch.device) -> Iterator[int]:
    """Let a model's depthwise convolutions run folded inside the block, and its tensors lie channels last.

    Yields the number of which lengths should be multiples, so that every convolution can fold them; at others
    those fold that can. A model on any other device than those stays as it is.
    """
    if device.type not in FOLDED_ON:
        yield 1
        return
    chosen = [module for module in model.modules() if isinstance(module, nn.Conv2d) and can_fold(module)]
    for module in chosen:
        module.__class__ = FoldedConv2d
    model.to(memory_format=torch.channels_last)
    try:
        yield lcm(*(module.dilation[1] for module in chosen))
    finally:
        for module in chosen:
            module.__class__ = nn.Conv2d
