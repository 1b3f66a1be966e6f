"""Multi-receptive-field fusion (HiFi-GAN, arXiv 2010.05646), found in a graph by its shape and not by names.

A fusion is K branches that start at one tensor, are summed, and divided by K; a branch is a chain of residual units,
each `x + f(x)` where `f` is activations and convolutions one after the other.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import module_of


@dataclass(frozen=True, eq=False)
class ResidualUnit:
    """`output = source + convolved(source)`."""

    output: Node
    source: Node
    convs: tuple[Node, ...]
    """Nodes of its convolutions in execution order; the last one's output is what the unit adds."""

    @property
    def name(self) -> str:
        """The unit's name: that of its last convolution."""
        return str(self.convs[-1].target)

    @property
    def added(self) -> Node:
        """What the unit adds to its source."""
        return next(node for node in self.output.all_input_nodes if node is not self.source)


@dataclass(frozen=True, eq=False)
class Fusion:
    """Branches of residual units from one tensor, summed and scaled."""

    source: Node
    output: Node
    """The scaled sum."""
    divisor: float
    branches: tuple[tuple[ResidualUnit, ...], ...]


def find_fusions(graph: GraphModule) -> list[Fusion]:
    """Return the fusions of a graph in execution order."""
    found = (_fusion(graph, node) for node in graph.graph.nodes)
    return [fusion for fusion in found if fusion is not None]


def _fusion(graph: GraphModule, node: Node) -> Fusion | None:
    divisor = _divisor(node)
    if divisor is None or round(divisor) < 2 or abs(divisor - round(divisor)) > 1e-4:
        return None
    leaves = _summands(node.all_input_nodes[0], round(divisor))
    if leaves is None:
        return None
    branches = [_branch(graph, leaf) for leaf in leaves]
    # A branch may go back through the units of what precedes the fusion: all start where the shortest one starts.
    sources = [_sources(leaf, branch) for leaf, branch in zip(leaves, branches, strict=True)]
    common = [source for source in sources[0] if all(source in others for others in sources[1:])]
    if not common or not any(branches):
        return None
    source = common[0]
    cut = [_from(source, leaf, branch) for leaf, branch in zip(leaves, branches, strict=True)]
    return Fusion(source, node, divisor, tuple(cut))


def _divisor(node: Node) -> float | None:
    if node.op != "call_function" or len(node.args) != 2 or not isinstance(node.args[1], float | int):
        return None
    if node.target is operator.truediv:
        return float(node.args[1])
    if node.target is operator.mul and node.args[1]:
        return 1.0 / float(node.args[1])
    return None


def _summands(node: Node, count: int) -> list[Node] | None:
    """Unfold `((a + b) + c)` into `count` summands."""
    summands = [node]
    while len(summands) < count:
        first = summands[0]
        if not _is_sum(first):
            return None
        summands[:1] = list(first.args)  # type: ignore[arg-type]
    return summands


def _is_sum(node: Node) -> bool:
    return node.op == "call_function" and node.target is operator.add and all(isinstance(a, Node) for a in node.args)


def _branch(graph: GraphModule, leaf: Node) -> list[ResidualUnit]:
    units: list[ResidualUnit] = []
    unit = _unit(graph, leaf)
    while unit is not None:
        units.insert(0, unit)
        unit = _unit(graph, unit.source)
    return units


def _unit(graph: GraphModule, node: Node) -> ResidualUnit | None:
    if not _is_sum(node):
        return None
    first, second = node.args
    for added, source in ((first, second), (second, first)):
        convs = _chain(graph, added, source)  # type: ignore[arg-type]
        if convs:
            return ResidualUnit(node, source, tuple(convs))  # type: ignore[arg-type]
    return None


def _chain(graph: GraphModule, end: Node, start: Node) -> list[Node]:
    """Return the convolutions between `start` and `end`, in execution order, if nothing else is read on the way.

    Besides convolutions only activations and sums (of the terms of a factorised convolution) may lie between.
    """
    between: set[Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node is start or node in between:
            continue
        module = module_of(graph, node)
        if not _is_sum(node) and (module is None or (not isinstance(module, _ConvNd) and not _is_activation(module))):
            return []
        between.add(node)
        stack += node.all_input_nodes
    return [node for node in graph.graph.nodes if node in between and isinstance(module_of(graph, node), _ConvNd)]


def _is_activation(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None


def _sources(leaf: Node, units: list[ResidualUnit]) -> list[Node]:
    return [leaf, *(unit.source for unit in reversed(units))]


def _from(source: Node, leaf: Node, units: list[ResidualUnit]) -> tuple[ResidualUnit, ...]:
    if leaf is source:
        return ()
    first = next(position for position, unit in enumerate(units) if unit.source is source)
    return tuple(units[first:])
