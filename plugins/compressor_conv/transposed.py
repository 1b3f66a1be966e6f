"""`transposed-to-standard-conv`: a transposed convolution as a plain one.

Polyphase, or sub-pixel, form (Shi et al., arXiv 1609.05158), exact: output sample `stride * q + phase` of a transposed
convolution is a plain convolution of the input with every `stride`-th tap, so one convolution with `stride` times the
channels computes all phases, which are then interleaved and cropped. For engines that cannot do even that there is
nearest-neighbour up-sampling before a plain convolution, which is not exact: see `upsampled`.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from compressor.graph_editing import clean, layer_name, module_nodes, replace_with_chain, select
from compressor.strategy import Finding, StageContext, StageOutcome, Strategy
from compressor_conv.upsampled import Transposed, Upsampled, fit_output, nearest_kernel, why_not


class Interleave(nn.Module):
    """Interleave phases: (batch, groups * phases * channels, *size) -> (batch, groups * channels, *size * strides).

    Works on tensors with one axis more than it was made for, of height one: (batch, channels, 1, time).
    """

    def __init__(self, strides: tuple[int, ...], groups: int, crops: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.strides = strides
        self.groups = groups
        self.crops = crops

    def forward(self, x: Tensor) -> Tensor:
        strides = (1,) * (x.dim() - 2 - len(self.strides)) + self.strides
        last_only = all(stride == 1 for stride in strides[:-1])
        x = self._last_axis(x) if last_only else self._all_axes(x, strides)
        return x[(..., *(slice(start, -end if end else None) for start, end in self.crops))]

    def _last_axis(self, x: Tensor) -> Tensor:
        # One permutation of four axes: engines have a fast path for that, and take ten times as long for six.
        stride = self.strides[-1]
        batch, channels, size = x.shape[0], x.shape[1] // stride, x.shape[2:]
        flat = x.reshape(batch * self.groups, stride, -1, size[-1]).permute(0, 2, 3, 1)
        return flat.reshape(batch, channels, *size[:-1], size[-1] * stride)

    def _all_axes(self, x: Tensor, strides: tuple[int, ...]) -> Tensor:
        axes = len(strides)
        channels = x.shape[1] // (self.groups * math.prod(strides))
        x = x.reshape(x.shape[0], self.groups, *strides, channels, *x.shape[2:])
        # (batch, groups, *strides, channels, *size) -> (batch, groups, channels, size0, stride0, size1, stride1, …)
        pairs = [axis for position in range(axes) for axis in (3 + axes + position, 2 + position)]
        x = x.permute(0, 1, 2 + axes, *pairs).flatten(1, 2)
        for axis in range(axes):
            x = x.flatten(2 + axis, 3 + axis)
        return x


class TransposedToStandardConv(Strategy):
    """Rewrite transposed convolutions, which many engines lack or run slowly, as plain ones.

    `polyphase` (arXiv 1609.05158) is exact. `upsample` repeats each value `stride` times and convolves, with weights
    fitted on calibration data; it needs no reshaping, but can only put out what has the same gain at every phase of
    the stride (distill.pub/2016/deconv-checkerboard). A finding says how much of each layer's output it loses.

    ```yaml
    - transposed-to-standard-conv: {mode: upsample, ignore: ["ups/0/*"]}
    ```
    """

    name: ClassVar[str] = "transposed-to-standard-conv"

    targets: tuple[str, ...] = Field(default=("*",), description="layers to rewrite, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    mode: Literal["polyphase", "upsample"] = Field(
        default="polyphase",
        description="'polyphase': a convolution to all phases, interleaved, exact; 'upsample': nearest-neighbour "
        "up-sampling and a convolution, for engines that cannot interleave, not exact",
    )
    calibration_samples: int = Field(
        default=4, ge=0, description="for 'upsample', training samples on which the output is kept; 0 keeps the weights"
    )

    @property
    def preserves_output(self) -> bool:  # type: ignore[override]  # the core asks a stage, and not its class
        """Whether the core proves the output equal: up-sampling only comes near."""
        return self.mode == "polyphase"

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        found: list[tuple[Node, Transposed]] = list(module_nodes(student, nn.ConvTranspose1d, nn.ConvTranspose2d))  # type: ignore[arg-type]
        if not found:
            return StageOutcome(student, (Finding("the model has no transposed convolutions"),))
        chosen = set(select([layer_name(node) for node, _ in found], self.targets, self.ignore))
        layers = {layer_name(node): (node, module) for node, module in found if layer_name(node) in chosen}
        findings = self._upsample(student, layers, context) if self.mode == "upsample" else _interleave(student, layers)
        return StageOutcome(clean(student), tuple(findings))

    def _upsample(
        self, student: GraphModule, layers: dict[str, tuple[Node, Transposed]], context: StageContext
    ) -> list[Finding]:
        samples = context.data.train[: self.calibration_samples] if context.data else ()
        findings: list[Finding] = []
        forms: list[tuple[Node, Upsampled]] = []
        for layer, (node, module) in layers.items():
            reason = why_not(module)
            if reason:
                findings.append(Finding(f"left as it is: {reason}", layer))
                continue
            form, lost = nearest_kernel(module)
            lost = fit_output(student, layer, form, samples) if samples else lost
            forms.append((node, form))
            findings.append(_approximation(layer, module, form, lost, "output's" if samples else "kernel's"))
        for node, form in forms:
            replace_with_chain(student, node, form.chain)
        return findings


def _approximation(layer: str, module: Transposed, form: Upsampled, lost: float, whose: str) -> Finding:
    added = form.conv.weight.numel() - module.weight.numel()
    return Finding(
        f"{lost:.2%} of the {whose} energy is lost, {added:,} weights added",
        layer,
        {"relative_error": lost, "weights_added": added},
    )


def _interleave(student: GraphModule, layers: dict[str, tuple[Node, Transposed]]) -> list[Finding]:
    findings = []
    for layer, (node, module) in layers.items():
        conv, interleave = polyphase(module)
        replace_with_chain(student, node, {"_phases": conv, "_interleave": interleave})
        added = conv.weight.numel() - module.weight.numel()
        findings.append(Finding(f"{conv.out_channels} phase channels, {added:,} weights added", layer))
    return findings


def polyphase(module: nn.ConvTranspose1d | nn.ConvTranspose2d) -> tuple[nn.Conv1d | nn.Conv2d, Interleave]:
    """Return a plain convolution and the interleaving that together equal a transposed convolution.

    Adds no weights where the stride divides the kernel size; otherwise, and for dilation, some of its weights are zero.
    """
    axes = len(module.kernel_size)
    strides = tuple(module.stride)
    kernel = _spread(module.weight.detach(), tuple(module.dilation))
    taps = tuple(math.ceil(size / stride) for size, stride in zip(kernel.shape[2:], strides, strict=True))
    extra, crops = _borders(module, tuple(kernel.shape[2:]), taps)
    flat = nn.Conv1d if axes == 1 else nn.Conv2d
    conv = flat(
        module.in_channels,
        module.out_channels * math.prod(strides),
        taps,  # type: ignore[arg-type]
        padding=tuple(tap - 1 + more for tap, more in zip(taps, extra, strict=True)),  # type: ignore[arg-type]
        groups=module.groups,
        bias=module.bias is not None,
    )
    with torch.no_grad():
        conv.weight.copy_(_phase_weights(kernel, strides, taps, module.groups))
        if module.bias is not None and conv.bias is not None:
            by_group = module.bias.reshape(module.groups, 1, -1)
            conv.bias.copy_(by_group.expand(-1, math.prod(strides), -1).reshape(-1))
    return conv, Interleave(strides, module.groups, crops)


def _spread(weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Write a dilated kernel as an undilated one with zeros between its taps."""
    if all(step == 1 for step in dilation):
        return weight
    sizes = [step * (size - 1) + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *sizes)
    taps = tuple(slice(None, None, step) for step in dilation)
    spread[(slice(None), slice(None), *taps)] = weight
    return spread


def _borders(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d, kernel: tuple[int, ...], taps: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Return, per axis, how much more padding the plain convolution needs and what is cropped afterwards."""
    extra: list[int] = []
    crops: list[tuple[int, int]] = []
    for axis, (size, tap) in enumerate(zip(kernel, taps, strict=True)):
        stride, start = int(module.stride[axis]), int(module.padding[axis])
        end = stride * tap + start - size - int(module.output_padding[axis])
        more = max(0, math.ceil(-end / stride))
        extra.append(more)
        crops.append((start + stride * more, end + stride * more))
    return tuple(extra), tuple(crops)


def _phase_weights(kernel: Tensor, strides: tuple[int, ...], taps: tuple[int, ...], groups: int) -> Tensor:
    """Turn (in, out / groups, *kernel) into (groups * phases * out / groups, in / groups, *taps)."""
    axes = len(strides)
    missing = [stride * tap - size for stride, tap, size in zip(strides, taps, kernel.shape[2:], strict=True)]
    kernel = functional.pad(kernel, [value for size in reversed(missing) for value in (0, size)])
    for axis, (tap, stride) in enumerate(zip(taps, strides, strict=True)):
        before = 2 + 2 * axis
        kernel = kernel.reshape(*kernel.shape[:before], tap, stride, *kernel.shape[before + 1 :])
    # Tap `m` of a phase meets the input `m` samples back: a plain convolution wants the oldest tap first.
    kernel = kernel.flip([2 + 2 * axis for axis in range(axes)])
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    # (groups, in, out, tap0, stride0, tap1, stride1, …) -> (groups, *strides, out, in, *taps)
    order = [0, *(4 + 2 * axis for axis in range(axes)), 2, 1, *(3 + 2 * axis for axis in range(axes))]
    return kernel.permute(order).flatten(0, 1 + axes)
