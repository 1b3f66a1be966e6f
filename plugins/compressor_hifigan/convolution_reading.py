"""Convolutions of a graph as the student's module writes them: dense, or a sum of depthwise-separable terms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn
from torch.fx import GraphModule, Node

from compressor.graph_editing import module_of
from compressor_hifigan.fusion import summands

Interleaving = tuple[int, tuple[int, int]]
"""The rate at which phases are interleaved, and what is cropped at both ends."""


class NotHiFiGAN(Exception):  # noqa: N818 - it says what the graph is, and nobody raises it to a user
    """The graph is no two-dimensional, polyphase HiFi-GAN; says where it differs."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution of the architecture, with all of the graph's that stand for it."""

    source: Node
    """What it reads."""
    nodes: tuple[Node, ...]
    layers: tuple[nn.Conv2d, ...]
    """One dense convolution, or depthwise and pointwise in turn, the pointwise one with the bias first."""
    interleaving: Interleaving | None = None
    """For an up-sampling in polyphase form."""

    @property
    def rank(self) -> int:
        """Number of depthwise-separable terms; 0 for a dense convolution."""
        return len(self.layers) // 2

    @property
    def kernel_size(self) -> int:
        """Taps along time; of each phase, for an up-sampling."""
        return self.layers[0].kernel_size[1]

    @property
    def dilation(self) -> int:
        """Distance of the taps."""
        return self.layers[0].dilation[1]

    @property
    def out_channels(self) -> int:
        """Channels it puts out; those of all phases, for a dense up-sampling."""
        return self.layers[-1].out_channels


def convolution_before(graph: GraphModule, node: Node) -> Convolution:
    """Return the convolution that `node` is, or that the activations and changes of shape before it come from.

    Raises:
        NotHiFiGAN: something else is there.
    """
    node = _origin(graph, node)
    terms = [_term(graph, summand) for summand in summands(node)]
    if len(terms) == 1:
        return terms[0]
    read = {(_origin(graph, term.source), term.interleaving) for term in terms}
    if not all(term.rank for term in terms) or len(read) > 1:
        raise NotHiFiGAN(f"'{node.name}' is a sum, and not that of a factorised convolution's terms")
    return Convolution(
        source=terms[0].source,
        nodes=tuple(node for term in terms for node in term.nodes),
        layers=tuple(layer for term in terms for layer in term.layers),
        interleaving=terms[0].interleaving,
    )


def _origin(graph: GraphModule, node: Node) -> Node:
    """Go back over activations and changes of shape."""
    while len(node.all_input_nodes) == 1 and not _is_part(graph, node) and summands(node) == [node]:
        node = node.all_input_nodes[0]
    return node


def _is_part(graph: GraphModule, node: Node) -> bool:
    module = module_of(graph, node)
    return isinstance(module, nn.Conv2d) or _interleaving(module) is not None


def _term(graph: GraphModule, end: Node) -> Convolution:
    """Return a dense convolution, or a depthwise and a pointwise one, either with the interleaving of its phases."""
    module = module_of(graph, end)
    interleaving = _interleaving(module)
    if interleaving is not None:
        return _interleaved(convolution_before(graph, end.all_input_nodes[0]), interleaving, end)
    if not isinstance(module, nn.Conv2d):
        raise NotHiFiGAN(f"'{end.name}' is no two-dimensional convolution")
    before = end.all_input_nodes[0]
    if module.kernel_size == (1, 1) and _is_part(graph, before):
        depthwise = _term(graph, before)
        if _is_depthwise(depthwise):
            return replace(depthwise, nodes=(*depthwise.nodes, end), layers=(*depthwise.layers, module))
    if _is_part(graph, before):
        raise NotHiFiGAN(f"'{end.name}' reads '{before.name}' with no activation between, and is not separable")
    return Convolution(before, (end,), (module,))


def _interleaving(module: nn.Module | None) -> Interleaving | None:
    """Return what a module does that interleaves phases, as `transposed-to-standard-conv` leaves them."""
    strides, crops = getattr(module, "strides", None), getattr(module, "crops", None)
    return (int(strides[-1]), crops[-1]) if isinstance(strides, tuple) and isinstance(crops, tuple) else None


def _interleaved(phases: Convolution, interleaving: Interleaving, node: Node) -> Convolution:
    if phases.rank:
        raise NotHiFiGAN(
            f"'{node.name}' interleaves a factorised convolution; transposed ones are to be factorised before "
            "transposed-to-standard-conv (depthwise-separable-conv: {transposed: true})"
        )
    return replace(phases, interleaving=interleaving)


def _is_depthwise(conv: Convolution) -> bool:
    return all(layer.groups == layer.in_channels and layer.bias is None for layer in conv.layers)
