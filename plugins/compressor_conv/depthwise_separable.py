"""`depthwise-separable-conv`: a trained convolution as depthwise and pointwise convolutions.

Network decoupling (Guo et al., arXiv 1808.05517): for each input channel the matrix of its filters (taps x output
channels) is cut to `rank` singular values. The left vectors become depthwise filters, the right ones pointwise weights.
From there on both are fitted to what the layer puts out on calibration data: see `separable_fit`. Rank two and more is a sum of such pairs: engines have fast kernels for one filter a channel only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node
    from torch.nn.modules.conv import _ConvNd

    from compressor.calibration import Reading


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
    calibration_samples: int = Field(
        default=4, ge=0, description="training samples on which the output is kept; 0 keeps the weights instead"
    )
    rounds: int = Field(default=3, ge=1, description="how often both factors are solved in turn, with calibration")
    keep_ends: bool = Field(default=True, description="leave the model's first and last convolution dense")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.calibration import readings
        from compressor.graph_editing import clean, layer_name

        findings, worthwhile = [], []
        for node, conv in self._chosen(student):
            reason = self._why_dense(conv)
            if reason:
                findings.append(Finding(f"left dense: {reason}", layer_name(node)))
            else:
                worthwhile.append((node, conv))
        samples = context.data.train[: self.calibration_samples] if context.data else ()
        if self.calibration_samples and not samples:
            findings.append(Finding("no data to calibrate on: filters are decomposed without regard to what they read"))
        read = readings(student, [layer_name(node) for node, _ in worthwhile], samples) if samples else {}
        findings += [self._factorise(student, node, conv, read.get(layer_name(node))) for node, conv in worthwhile]
        return StageOutcome(clean(student), tuple(findings))

    def _chosen(self, student: GraphModule) -> list[tuple[Node, _ConvNd]]:
        from compressor.graph_editing import layer_name, select

        convolutions = self._convolutions(student)
        names = [layer_name(node) for node, _ in convolutions]
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        if self.keep_ends:
            chosen -= {names[0], names[-1]} if names else set()
        return [
            (node, conv)
            for node, conv in convolutions
            if layer_name(node) in chosen and conv.in_channels >= self.min_channels
        ]

    def _convolutions(self, student: GraphModule) -> list[tuple[Node, _ConvNd]]:
        from torch import nn

        from compressor.graph_editing import module_nodes

        kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d)
        if self.transposed:
            kinds += (nn.ConvTranspose1d, nn.ConvTranspose2d)
        return list(module_nodes(student, *kinds))  # type: ignore[arg-type]

    def _why_dense(self, conv: _ConvNd) -> str:
        before, after = self._weights(conv)
        if conv.groups != 1:
            return f"it is grouped already (now {before:,})"
        if conv.padding_mode != "zeros":
            return f"it pads with {conv.padding_mode} (now {before:,})"
        taps = int(conv.weight[0, 0].numel())
        return f"{taps} taps would cost {after:,} weights (now {before:,})" if self._saves_nothing(conv) else ""

    def _saves_nothing(self, conv: _ConvNd) -> bool:
        before, after = self._weights(conv)
        return conv.weight[0, 0].numel() < self.min_kernel_size or after >= before

    def _weights(self, conv: _ConvNd) -> tuple[int, int]:
        """Return the number of weights as a dense and as a separable convolution."""
        taps = int(conv.weight[0, 0].numel())
        return conv.weight.numel(), conv.in_channels * self.rank * (taps + conv.out_channels)

    def _factorise(self, student: GraphModule, node: Node, conv: _ConvNd, reading: Reading | None) -> Finding:
        from compressor.graph_editing import layer_name, replace_with_sum

        before, after = self._weights(conv)
        terms, kept = separable(conv, self.rank, reading, self.rounds)
        names = [f"_{number}" if number else "" for number in range(len(terms))]
        replace_with_sum(
            student,
            node,
            [
                {f"_depthwise{name}": depthwise, f"_pointwise{name}": pointwise}
                for name, (depthwise, pointwise) in zip(names, terms, strict=True)
            ],
        )
        of = "output" if reading else "filters"
        return Finding(
            f"rank {self.rank} keeps {kept:.1%} of the {of}'{'s' if reading else ''} energy, "
            f"{before:,} to {after:,} weights",
            layer_name(node),
            {"energy_kept": kept, "weights_before": before, "weights_after": after},
        )


def separable(
    conv: _ConvNd, rank: int, reading: Reading | None = None, rounds: int = 3
) -> tuple[list[tuple[_ConvNd, _ConvNd]], float]:
    """Return pairs of depthwise and pointwise convolutions that add up, and the share of energy that they keep.

    The energy is the output's where `reading` says what the layer reads, else that of the filters. Exact when `rank`
    reaches the number of taps or of output channels.
    """
    import torch

    from compressor.unfolding import matrix, set_matrix
    from compressor_conv.separable_fit import decomposed, fitted, output_error

    filters = matrix(conv)[0].detach().double().unflatten(0, (conv.in_channels, -1))
    found = decomposed(filters, min(rank, *filters.shape[1:]))
    if reading is not None:
        found = fitted(filters, reading.covariance, found, rounds)
        lost = output_error(filters, reading.covariance, found)
    else:
        lost = float((filters - found.product).square().sum() / filters.square().sum().clamp_min(1e-30))
    terms = []
    for number, (taps, mixing) in enumerate(zip(found.depthwise, found.pointwise, strict=True)):
        depthwise, pointwise = _build(conv, bias=conv.bias is not None and number == 0)
        set_matrix(depthwise, taps[:, :, None])
        set_matrix(pointwise, mixing[None])
        if conv.bias is not None and pointwise.bias is not None:
            moved = (filters - found.product).flatten(0, 1).T @ reading.mean if reading else 0.0
            with torch.no_grad():
                pointwise.bias.copy_(conv.bias.double() + moved)
        terms.append((depthwise, pointwise))
    return terms, 1.0 - lost


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
