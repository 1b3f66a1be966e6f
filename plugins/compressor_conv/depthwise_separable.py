"""`depthwise-separable-conv`: a trained convolution as depthwise and pointwise convolutions.

Network decoupling (Guo et al., arXiv 1808.05517): for each input channel the matrix of its filters (taps x output
channels) is cut to `rank` singular values. The left vectors become depthwise filters, the right ones pointwise weights.
From there on both are fitted to what the layer puts out on calibration data: see `separable_fit`. Rank two and more is
a sum of such pairs: engines have fast kernels for one filter a channel only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node
    from torch.nn.modules.conv import _ConvNd

    from compressor.calibration import Reading


class DepthwiseSeparableConv(BudgetedStrategy):
    """Factorise trained convolutions; layers where it would save nothing stay dense.

    The rank of each layer follows from the budget, or is `rank` for all of them.

    ```yaml
    - depthwise-separable-conv: {rank: 1, ignore: ["conv_post*"]}
    ```
    """

    name: ClassVar[str] = "depthwise-separable-conv"
    fixed_by: ClassVar[str] = "rank"

    targets: tuple[str, ...] = Field(default=("*",), description="layers to factorise, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    rank: int | None = Field(
        default=None, ge=1, description="depthwise filters per input channel; the budget decides if null"
    )
    max_rank: int = Field(default=3, ge=1, description="largest rank that the budget may choose")
    min_kernel_size: int = Field(default=3, ge=2, description="smallest number of taps worth factorising")
    min_channels: int = Field(default=1, ge=1, description="leave narrower layers, by their input channels")
    transposed: bool = Field(default=False, description="factorise transposed convolutions too")
    calibration_samples: int = Field(
        default=4, ge=0, description="training samples on which the output is kept; 0 keeps the weights instead"
    )
    rounds: int = Field(default=3, ge=1, description="how often both factors are solved in turn, with calibration")
    keep_ends: bool = Field(default=True, description="leave the model's first and last convolution dense")

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        from compressor.calibration import layer_positions
        from compressor.graph_editing import layer_name

        positions = layer_positions(student, context.data.sample_rate if context.data else None)
        convolutions = {layer_name(node): conv for node, conv in self._chosen(student)}
        read = self._readings(student, list(convolutions), context)
        return [
            self._candidate(layer, conv, rank, read.get(layer), positions)
            for layer, conv in convolutions.items()
            for rank in range(1, self.max_rank + 1)
            if not self._why_dense(conv, rank)
        ]

    def _candidate(
        self, layer: str, conv: _ConvNd, rank: int, reading: Reading | None, positions: dict[str, int]
    ) -> Candidate:
        before, after = _weights(conv, rank)
        terms, kept = separable(conv, rank, reading, rounds=1)
        return Candidate(
            layer=layer,
            setting=rank,
            saving={
                "parameters": float(before - after),
                "macs": float(_macs_saved(conv, rank) * positions[layer]),
            },
            error=_error(conv, kept, reading),
            disturbs=(layer,),
            replacement=lambda read: sum(pointwise(depthwise(read)) for depthwise, pointwise in terms),
        )

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean, layer_name

        findings: list[Finding] = []
        worthwhile: dict[str, tuple[Node, _ConvNd, int]] = {}
        for node, conv in self._chosen(student):
            layer = layer_name(node)
            rank = int(context.choices.get(layer, 0)) if self.rank is None else self.rank
            reason = self._why_dense(conv, rank) if rank else "the budget is met at less loss elsewhere"
            if reason:
                findings.append(Finding(f"left dense: {reason}", layer))
            else:
                worthwhile[layer] = (node, conv, rank)
        if self.calibration_samples and context.data is None:
            findings.append(Finding("no data to calibrate on: filters are decomposed without regard to what they read"))
        read = self._readings(student, list(worthwhile), context)
        findings += [
            self._factorise(student, node, conv, rank, read.get(layer))
            for layer, (node, conv, rank) in worthwhile.items()
        ]
        return StageOutcome(clean(student), tuple(findings))

    def _readings(self, student: GraphModule, layers: list[str], context: StageContext) -> dict[str, Reading]:
        from compressor.calibration import readings

        samples = context.data.train[: self.calibration_samples] if context.data else ()
        return readings(student, layers, samples) if samples else {}

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

    def _why_dense(self, conv: _ConvNd, rank: int) -> str:
        before, after = _weights(conv, rank)
        if conv.groups != 1:
            return f"it is grouped already (now {before:,})"
        if conv.padding_mode != "zeros":
            return f"it pads with {conv.padding_mode} (now {before:,})"
        taps = int(conv.weight[0, 0].numel())
        if taps < self.min_kernel_size or after >= before:
            return f"{taps} taps would cost {after:,} weights (now {before:,})"
        return ""

    def _factorise(
        self, student: GraphModule, node: Node, conv: _ConvNd, rank: int, reading: Reading | None
    ) -> Finding:
        from compressor.graph_editing import layer_name, replace_with_sum

        before, after = _weights(conv, rank)
        terms, kept = separable(conv, rank, reading, self.rounds)
        names = [f"_{number}" if number else "" for number in range(len(terms))]
        replace_with_sum(
            student,
            node,
            [
                {f"_depthwise{name}": depthwise, f"_pointwise{name}": pointwise}
                for name, (depthwise, pointwise) in zip(names, terms, strict=True)
            ],
        )
        whose = "the output's" if reading else "the filters'"
        values = {
            "rank": rank,
            "energy_kept": kept,
            "error": _error(conv, kept, reading),
            "weights_before": before,
            "weights_after": after,
        }
        message = f"rank {rank} keeps {kept:.1%} of {whose} energy, {before:,} to {after:,} weights"
        return Finding(message, layer_name(node), values)


def _weights(conv: _ConvNd, rank: int) -> tuple[int, int]:
    """Return the number of weights as a dense and as a separable convolution."""
    taps = int(conv.weight[0, 0].numel())
    return conv.weight.numel(), conv.in_channels * rank * (taps + conv.out_channels)


def _macs_saved(conv: _ConvNd, rank: int) -> int:
    """Return how many multiply-accumulates fewer each position takes that the dense weights are applied at."""
    before, after = _weights(conv, rank)
    if not conv.transposed:
        return before - after
    # The pointwise part works at the higher rate.
    taps = int(conv.weight[0, 0].numel())
    return before - rank * conv.in_channels * (taps + conv.out_channels * prod(conv.stride))


def _error(conv: _ConvNd, kept: float, reading: Reading | None) -> float:
    """Return the error as a share of the signal's energy, to which its mean belongs."""
    from compressor.calibration import varying_share

    return (1.0 - kept) * (varying_share(conv, reading) if reading and conv.bias is not None else 1.0)


def separable(
    conv: _ConvNd, rank: int, reading: Reading | None = None, rounds: int = 3
) -> tuple[list[tuple[_ConvNd, _ConvNd]], float]:
    """Return pairs of depthwise and pointwise convolutions that add up, and the share of energy that they keep.

    The energy is the output's where `reading` says what the layer reads (about its mean, which the bias keeps, if there
    is one), else that of the filters. Exact when `rank` reaches the number of taps or of output channels.
    """
    import torch

    from compressor.unfolding import matrix, set_matrix
    from compressor_conv.separable_fit import decomposed, fitted, output_error

    dense = matrix(conv)[0].detach().double()
    filters = dense.reshape(conv.in_channels, -1, dense.shape[1])
    found = decomposed(filters, min(rank, *filters.shape[1:]))
    if reading is not None:
        # A bias takes care of the mean; without one it has to be kept as all the rest.
        moment = reading.covariance if conv.bias is not None else reading.covariance + reading.mean.outer(reading.mean)
        found = fitted(filters, moment, found, rounds)
        lost = output_error(filters, moment, found)
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
