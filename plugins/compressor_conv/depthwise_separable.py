"""`depthwise-separable-conv`: a trained convolution as depthwise and pointwise convolutions, by SVD.

Network decoupling (Guo et al., arXiv 1808.05517): for each input channel the matrix of its filters (output channels x
taps) is cut to `rank` singular values. The right vectors become depthwise filters, the left ones pointwise weights.
Rank two and more is a sum of such pairs: engines have fast kernels for one filter a channel only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node
    from torch.nn.modules.conv import _ConvNd


class DepthwiseSeparableConv(Strategy):
    """Factorise trained convolutions; layers where it would save nothing stay dense.

    ```yaml
    - depthwise-separable-conv: {rank: 1, ignore: ["conv_post*"]}
    ```
    """

    name: ClassVar[str] = "depthwise-separable-conv"

    targets: tuple[str, ...] = Field(default=("*",), description="layers to factorise, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    rank: int = Field(default=1, ge=1, description="depthwise filters per input channel")
    min_kernel_size: int = Field(default=3, ge=2, description="smallest number of taps worth factorising")
    min_channels: int = Field(default=1, ge=1, description="leave narrower layers, by their input channels")
    transposed: bool = Field(default=False, description="factorise transposed convolutions too")
    keep_ends: bool = Field(default=True, description="leave the model's first and last convolution dense")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean, layer_name, select

        convolutions = self._convolutions(student)
        names = [layer_name(node) for node, _ in convolutions]
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        if self.keep_ends:
            chosen -= {names[0], names[-1]} if names else set()
        findings = [
            self._factorise(student, node, conv)
            for node, conv in convolutions
            if layer_name(node) in chosen and conv.in_channels >= self.min_channels
        ]
        return StageOutcome(clean(student), tuple(findings))

    def _convolutions(self, student: GraphModule) -> list[tuple[Node, _ConvNd]]:
        from torch import nn

        from compressor.graph_editing import module_nodes

        kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d)
        if self.transposed:
            kinds += (nn.ConvTranspose1d, nn.ConvTranspose2d)
        return list(module_nodes(student, *kinds))  # type: ignore[arg-type]

    def _factorise(self, student: GraphModule, node: Node, conv: _ConvNd) -> Finding:
        from compressor.graph_editing import layer_name, replace_with_sum

        layer = layer_name(node)
        taps = int(conv.weight[0, 0].numel())
        before = conv.in_channels * conv.out_channels * taps
        after = conv.in_channels * self.rank * (taps + conv.out_channels)
        if conv.groups != 1 or taps < self.min_kernel_size or conv.padding_mode != "zeros" or after >= before:
            reason = "it is grouped already" if conv.groups != 1 else f"{taps} taps would cost {after:,} weights"
            return Finding(f"left dense: {reason} (now {before:,})", layer)
        terms, kept = separable(conv, self.rank)
        names = [f"_{number}" if number else "" for number in range(len(terms))]
        replace_with_sum(
            student,
            node,
            [
                {f"_depthwise{name}": depthwise, f"_pointwise{name}": pointwise}
                for name, (depthwise, pointwise) in zip(names, terms, strict=True)
            ],
        )
        return Finding(
            f"rank {self.rank} keeps {kept:.0%} of the filters' energy, {before:,} to {after:,} weights",
            layer,
            {"energy_kept": kept, "weights_before": before, "weights_after": after},
        )


def separable(conv: _ConvNd, rank: int) -> tuple[list[tuple[_ConvNd, _ConvNd]], float]:
    """Return pairs of depthwise and pointwise convolutions that add up, and the share of the filters' energy they keep.

    Exact when `rank` reaches the number of taps or of output channels.
    """
    import torch

    filters = _filters_by_input(conv)
    left, values, right = torch.linalg.svd(filters.double(), full_matrices=False)
    rank = min(rank, values.shape[1])
    energy = values.square()
    kept = float(energy[:, :rank].sum() / energy.sum().clamp_min(1e-30))
    root = values.sqrt()
    terms = []
    for term in range(rank):
        depthwise, pointwise = _build(conv, bias=conv.bias is not None and term == 0)
        with torch.no_grad():
            depthwise.weight.copy_((root[:, term, None] * right[:, term]).reshape(depthwise.weight.shape))
            pointwise.weight.copy_((left[:, :, term] * root[:, term, None]).T.reshape(pointwise.weight.shape))
            if conv.bias is not None and pointwise.bias is not None:
                pointwise.bias.copy_(conv.bias)
        terms.append((depthwise, pointwise))
    return terms, kept


def _filters_by_input(conv: _ConvNd) -> Tensor:
    """Return the weight as (input channels, output channels, taps)."""
    weight = conv.weight.detach()
    by_input = weight if conv.transposed else weight.transpose(0, 1)
    return by_input.flatten(2)


def _build(conv: _ConvNd, *, bias: bool) -> tuple[_ConvNd, _ConvNd]:
    from torch import nn

    width = conv.in_channels
    shape: tuple[Any, ...] = (width, width, conv.kernel_size, conv.stride, conv.padding)
    kind: Any = type(conv)
    if conv.transposed:
        depthwise = kind(*shape, conv.output_padding, groups=width, bias=False, dilation=conv.dilation)
    else:
        depthwise = kind(*shape, conv.dilation, groups=width, bias=False)
    flat = nn.Conv1d if conv.weight.dim() == 3 else nn.Conv2d
    return depthwise, flat(width, conv.out_channels, 1, bias=bias)
