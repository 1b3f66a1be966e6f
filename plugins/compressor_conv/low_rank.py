"""`low-rank-conv`: a trained convolution or linear layer as two layers with few channels between them.

The low-rank expansions of Jaderberg et al. (arXiv 1405.3866) and Zhang et al. (arXiv 1505.06798), fitted to what the
layer puts out on calibration data: see `low_rank_fit`. The narrow place lies beside the layer's wider side, where a
1x1 convolution costs least: before the kernel, or behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome
from compressor_conv.layer_shape import Shape, Sizes, layer_sizes

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from compressor.calibration import Reading
    from compressor.unfolding import LinearLayer
    from compressor_conv.low_rank_fit import LayerFactors

SHARES = (0.9, 0.64, 0.45, 0.32, 0.23, 0.16)
"""Weights after, as a share of those before, at the ranks that the budget chooses among: evenly spaced by ratio."""


class LowRankConv(BudgetedStrategy):
    """Factorise trained convolutions, transposed ones and linear layers; where it saves nothing they stay dense.

    A convolution becomes a 1x1 convolution to `rank` channels and the kernel from there, or the kernel to `rank`
    channels and a 1x1 convolution, whichever has fewer weights (arXiv 1405.3866, 1505.06798). The rank of each layer
    follows from the budget, or is `rank` for all of them. On calibration data the two keep the layer's output, else
    its weights.

    ```yaml
    - low-rank-conv: {targets: ["ups/0/*"], rank: 96}
    ```
    """

    name: ClassVar[str] = "low-rank-conv"
    fixed_by: ClassVar[str] = "rank"

    targets: tuple[str, ...] = Field(default=("*",), description="layers to factorise, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    rank: int | None = Field(
        default=None, ge=1, description="channels between the two layers; the budget decides if null"
    )
    round_to: int = Field(default=8, ge=1, description="ranks that the budget may choose are multiples of this")
    min_channels: int = Field(default=16, ge=1, description="leave layers with fewer input or output channels")
    calibration_samples: int = Field(
        default=4, ge=0, description="training samples on which the output is kept; 0 keeps the weights instead"
    )
    keep_ends: bool = Field(default=True, description="leave the model's first and last layer dense")

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        from compressor.graph_editing import layer_name

        layers = {layer_name(node): layer for node, layer in self._chosen(student)}
        sizes = layer_sizes(student, layers, context.data.sample_rate if context.data else None)
        read = self._readings(student, list(layers), context)
        return [
            _candidate(name, layer, rank, read.get(name), factors, sizes[name])
            for name, layer in layers.items()
            if layer_groups(layer) == 1
            for factors in [layer_factors(layer, read.get(name))]
            for rank in self._ranks(layer)
        ]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean, layer_name

        findings: list[Finding] = []
        worthwhile: dict[str, tuple[Node, LinearLayer, int]] = {}
        for node, layer in self._chosen(student):
            name = layer_name(node)
            rank = int(context.choices.get(name, 0)) if self.rank is None else self.rank
            reason = _why_dense(layer, rank) if rank else "the budget is met at less loss elsewhere"
            if reason:
                findings.append(Finding(f"left dense: {reason}", name))
            else:
                worthwhile[name] = (node, layer, rank)
        if self.calibration_samples and context.data is None:
            findings.append(
                Finding("no data to calibrate on: weights are cut to a rank without regard to what is read")
            )
        read = self._readings(student, list(worthwhile), context)
        findings += [
            _factorise(student, node, layer, rank, read.get(name)) for name, (node, layer, rank) in worthwhile.items()
        ]
        return StageOutcome(clean(student), tuple(findings))

    def _ranks(self, layer: LinearLayer) -> list[int]:
        """Return the ranks that the budget may choose among, the largest first."""
        each = Shape.of(layer).weights(1)
        steps = {int(share * layer.weight.numel() / each) // self.round_to for share in SHARES}
        return [step * self.round_to for step in sorted(steps, reverse=True) if step]

    def _readings(self, student: GraphModule, layers: list[str], context: StageContext) -> dict[str, Reading]:
        from compressor.calibration import readings

        samples = context.data.train[: self.calibration_samples] if context.data else ()
        return readings(student, layers, samples) if samples else {}

    def _chosen(self, student: GraphModule) -> list[tuple[Node, LinearLayer]]:
        from torch import nn

        from compressor.graph_editing import layer_name, module_nodes, select

        kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
        layers: list[tuple[Node, LinearLayer]] = list(module_nodes(student, *kinds))  # type: ignore[arg-type]
        names = [layer_name(node) for node, _ in layers]
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        if self.keep_ends:
            chosen -= {names[0], names[-1]} if names else set()
        return [
            (node, layer)
            for node, layer in layers
            if layer_name(node) in chosen and min(Shape.of(layer).channels) >= self.min_channels
        ]


def low_rank(
    layer: LinearLayer, rank: int, reading: Reading | None = None, factors: LayerFactors | None = None
) -> tuple[tuple[LinearLayer, LinearLayer], float]:
    """Return two layers that together stand for one of one group, and the share of energy that they keep.

    The energy is the output's where `reading` says what the layer reads, else that of the weights. `factors` are the
    layer's, where they are at hand.
    """
    import torch

    from compressor.unfolding import set_matrix

    shape = Shape.of(layer)
    factors = factors or layer_factors(layer, reading)
    filters = factors.filters
    found = factors.mixing_first(rank) if shape.mixes_first else factors.kernel_first(rank)
    first, second = _build(layer, found.first.shape[1], mixes_first=shape.mixes_first)
    set_matrix(first, found.first[None])
    set_matrix(second, found.second[None])
    if layer.bias is not None and second.bias is not None:
        moved = (filters - found.product).flatten(0, 1).T @ reading.mean if reading else 0.0
        with torch.no_grad():
            second.bias.copy_(layer.bias.double() + moved)
    return (first, second), 1.0 - factors.lost_energy(found)


def layer_factors(layer: LinearLayer, reading: Reading | None) -> LayerFactors:
    """Return what a layer's factors of any rank follow from."""
    from compressor.unfolding import matrix
    from compressor_conv.low_rank_fit import LayerFactors

    shape = Shape.of(layer)
    filters = matrix(layer)[0].detach().double().reshape(shape.inputs, shape.taps, shape.outputs)
    return LayerFactors(filters, _moment(layer, reading))


def layer_groups(layer: LinearLayer) -> int:
    """Return a layer's groups; a linear layer is one."""
    return int(getattr(layer, "groups", 1))


def _moment(layer: LinearLayer, reading: Reading | None) -> Tensor | None:
    """Return what the error is weighted with: the bias, where there is one, takes care of the mean."""
    if reading is None:
        return None
    return reading.covariance if layer.bias is not None else reading.covariance + reading.mean.outer(reading.mean)


def _build(layer: LinearLayer, rank: int, *, mixes_first: bool) -> tuple[LinearLayer, LinearLayer]:
    from torch import nn

    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias)
    flat = nn.Conv1d if layer.weight.dim() == 3 else nn.Conv2d
    if mixes_first:
        return flat(layer.in_channels, rank, 1, bias=False), _kernel(layer, rank, layer.out_channels, bias=bias)
    return _kernel(layer, layer.in_channels, rank, bias=False), flat(rank, layer.out_channels, 1, bias=bias)


def _kernel(layer: Any, inputs: int, outputs: int, *, bias: bool) -> LinearLayer:
    """Return a convolution of other widths with a layer's geometry."""
    kind: Callable[..., LinearLayer] = type(layer)
    more = {"output_padding": layer.output_padding} if layer.transposed else {"padding_mode": layer.padding_mode}
    return kind(
        inputs, outputs, layer.kernel_size, layer.stride, layer.padding, dilation=layer.dilation, bias=bias, **more
    )


def _why_dense(layer: LinearLayer, rank: int) -> str:
    before, after = layer.weight.numel(), Shape.of(layer).weights(rank)
    if layer_groups(layer) != 1:
        return f"it is grouped already (now {before:,})"
    return f"rank {rank} would cost {after:,} weights (now {before:,})" if after >= before else ""


def _candidate(
    name: str, layer: LinearLayer, rank: int, reading: Reading | None, factors: LayerFactors, sizes: Sizes
) -> Candidate:
    shape, before = Shape.of(layer), layer.weight.numel()
    (first, second), kept = low_rank(layer, rank, reading, factors)
    macs = before * (sizes.read if shape.transposed else sizes.made)
    saving = {"parameters": float(before - shape.weights(rank)), "macs": float(macs - shape.macs(rank, sizes))}
    return Candidate(
        layer=name,
        setting=rank,
        saving=saving,
        error=1.0 - kept,
        disturbs=(name,),
        replacement=lambda read: second(first(read)),
    )


def _factorise(student: GraphModule, node: Node, layer: LinearLayer, rank: int, reading: Reading | None) -> Finding:
    from compressor.graph_editing import layer_name, replace_with_chain

    shape, before = Shape.of(layer), layer.weight.numel()
    after, name = shape.weights(rank), layer_name(node)
    (first, second), kept = low_rank(layer, rank, reading)
    suffixes = ("_mixing", "_kernel") if shape.mixes_first else ("_kernel", "_mixing")
    replace_with_chain(student, node, dict(zip(suffixes, (first, second), strict=True)))
    whose = "the output's" if reading else "the weights'"
    return Finding(
        f"rank {rank} keeps {kept:.1%} of {whose} energy, {before:,} to {after:,} weights",
        name,
        {"rank": rank, "energy_kept": kept, "weights_before": before, "weights_after": after},
    )
