"""A transposed convolution as nearest-neighbour up-sampling and a plain convolution. Not exact.

Up-sampling repeats each value `stride` times, so the two are a transposed convolution whose kernel is the plain one
smeared over `stride` taps. Such kernels pass a constant with one gain at every phase of the stride: they draw no
checkerboard (Odena et al., 2016, distill.pub/2016/deconv-checkerboard). A transposed convolution whose phases have
different gains is out of their reach; the nearest one is found by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from compressor.calibration import POSITIONS, calibration_inputs, observe
from compressor.dataset import Sample
from compressor.graph_editing import input_specs
from compressor.normal_equations import NormalEquations
from compressor.unfolding import matrix, output_positions, rows_at, set_matrix, unfolded

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d

RIDGE = 1e-3
"""Regularisation of the fit, relative to the mean energy, towards the nearest kernel.

Repeated values say little each: with less, the fit gets worse on samples that it has not seen.
"""


class NearestUpsampling(nn.Module):
    """Repeat values: (batch, channels, *size) -> (batch, channels, *size * strides).

    Works on tensors with one axis more than it was made for, of height one: (batch, channels, 1, time).
    """

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        strides = (1,) * (x.dim() - 2 - len(self.strides)) + self.strides
        return functional.interpolate(x, scale_factor=[float(stride) for stride in strides], mode="nearest")


@dataclass(frozen=True, eq=False)
class Upsampled:
    """Up-sampling and the convolution after it."""

    upsampling: NearestUpsampling
    conv: nn.Conv1d | nn.Conv2d

    @property
    def chain(self) -> dict[str, nn.Module]:
        """The modules by the suffix of their names; where nothing is repeated there is no up-sampling."""
        repeats = {"_upsampling": self.upsampling} if prod(self.upsampling.strides) > 1 else {}
        return {**repeats, "_convolution": self.conv}


def why_not(module: Transposed) -> str:
    """Return why a transposed convolution cannot be written so; nothing if it can."""
    if module.groups != 1:
        return f"it has {module.groups} groups"
    if any(axis.padding < 0 for axis in _axes(module)):
        return "it crops more than its kernel reaches"
    return ""


def nearest_kernel(module: Transposed) -> tuple[Upsampled, float]:
    """Return the form with the nearest kernel, and the share of the kernel's energy that is lost.

    The convolution sees all that the transposed one sees, for which it needs `stride - 1` taps more.
    """
    axes = _axes(module)
    flat: Any = nn.Conv1d if len(axes) == 1 else nn.Conv2d
    taps, padding = tuple(axis.taps for axis in axes), tuple(axis.padding for axis in axes)
    conv = flat(module.in_channels, module.out_channels, taps, padding=padding)
    dense = module.weight.detach().double()
    wanted = _along(dense, [axis.placed for axis in axes])
    # What one axis does to a kernel does not depend on the others: the nearest one is found along each in turn.
    kernel = _along(wanted, [torch.linalg.pinv(axis.smeared) for axis in axes])
    missing = _along(kernel, [axis.smeared for axis in axes]) - wanted
    with torch.no_grad():
        conv.weight.copy_(kernel.transpose(0, 1))
        conv.bias.copy_(torch.zeros(()) if module.bias is None else module.bias)
    lost = float(missing.square().sum() / dense.square().sum().clamp_min(1e-300))
    return Upsampled(NearestUpsampling(tuple(module.stride)), conv), lost


def fit_output(student: GraphModule, layer: str, form: Upsampled, samples: Sequence[Sample]) -> float:
    """Fit the convolution to what the student's transposed one puts out; returns the share of energy that is lost."""
    equations = NormalEquations()

    def add(module: nn.Module, read: tuple[Tensor, ...], output: Tensor) -> None:
        positions = output_positions(output, module, POSITIONS)
        equations.add(unfolded(form.conv, form.upsampling(read[0]), positions), rows_at(output, module, positions))

    observe(student, {layer: add}, calibration_inputs(input_specs(student), samples))
    bias = form.conv.bias
    if bias is None:
        raise ValueError("the convolution after up-sampling has a bias, for the fit to keep the mean")
    weights = equations.solve(torch.cat([matrix(form.conv)[0], bias[None]]).detach(), RIDGE)
    set_matrix(form.conv, weights[None, :-1])
    with torch.no_grad():
        bias.copy_(weights[-1])
    return equations.relative_error(weights)


@dataclass(frozen=True)
class _Axis:
    """One axis of a transposed convolution."""

    kernel: int
    stride: int
    dilation: int
    output_padding: int
    crop: int

    @property
    def reach(self) -> int:
        """Distance between the first tap and the last."""
        return self.dilation * (self.kernel - 1)

    @property
    def taps(self) -> int:
        """Taps of the plain convolution; those that output padding adds are for the alignment."""
        return self.reach + self.stride + self.output_padding

    @property
    def padding(self) -> int:
        return self.reach - self.crop + self.output_padding

    @property
    def smeared(self) -> Tensor:
        """What up-sampling makes of a plain kernel: (taps of the transposed convolution it equals, taps)."""
        ends = torch.arange(self.taps + self.stride - 1)[:, None] + torch.arange(self.taps)
        return ((ends >= self.taps - 1) & (ends < self.taps - 1 + self.stride)).double()

    @property
    def placed(self) -> Tensor:
        """Where the dilated kernel's taps lie in that transposed convolution: (its taps, kernel)."""
        places = self.stride - 1 + self.dilation * torch.arange(self.kernel)
        return torch.eye(self.taps + self.stride - 1, dtype=torch.float64)[:, places]


def _axes(module: Transposed) -> list[_Axis]:
    crops = tuple(int(crop) for crop in module.padding)
    numbers = zip(module.kernel_size, module.stride, module.dilation, module.output_padding, crops, strict=True)
    return [_Axis(*axis) for axis in numbers]


def _along(weight: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply a weight (in, out, *taps) with one matrix along each axis of its taps."""
    for axis, along in enumerate(matrices, 2):
        weight = torch.tensordot(along, weight, dims=([1], [axis])).movedim(0, axis)
    return weight
