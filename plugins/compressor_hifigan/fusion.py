"""Multi-receptive-field fusion (HiFi-GAN, arXiv 2010.05646), found in a graph by its shape and not by names.

A fusion is K branches that start at one tensor, are summed in any order, and divided by K (or multiplied by 1 / K). A
branch is a chain of residual units, each `x + f(x)` where `f` is activations and convolutions one after the other; a
branch that has lost all its units is the tensor itself.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
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


def summands(node: Node) -> list[Node]:
    """Unfold a sum such as `(a + b) + c` or `a + (b + c)` from left to right; anything else is its only summand."""
    if not _is_sum(node):
        return [node]
    first, second = _operands(node)
    return summands(first) + summands(second)


def _fusion(graph: GraphModule, node: Node) -> Fusion | None:
    divisor = _divisor(node)
    if divisor is None or round(divisor) < 2 or abs(divisor - round(divisor)) > 1e-3:
        return None
    total = node.all_input_nodes[0]
    # A branch may go back through the units of what precedes the fusion: all start where the shortest one starts.
    for source in _starts(graph, total):
        branches = _branches(graph, total, source)
        if branches is not None and len(branches) == round(divisor):
            return Fusion(source, node, divisor, tuple(branches))
    return None


def _divisor(node: Node) -> float | None:
    numbers = [arg for arg in node.args if isinstance(arg, float | int)]
    if node.op != "call_function" or len(node.args) != 2 or len(numbers) != 1 or len(node.all_input_nodes) != 1:
        return None
    if node.target is operator.truediv and node.args[1] is numbers[0]:
        return float(numbers[0])
    if node.target is operator.mul and numbers[0]:
        return 1.0 / float(numbers[0])
    return None


def _starts(graph: GraphModule, end: Node) -> Iterator[Node]:
    """Yield where the branches that end in `end` may start, the latest first: places on the way of the first one."""
    yield end
    unit = _unit(graph, end)
    if unit is not None:
        yield from _starts(graph, unit.source)
    elif _is_sum(end):
        yield from _starts(graph, _operands(end)[0])


def _branches(graph: GraphModule, end: Node, source: Node) -> list[tuple[ResidualUnit, ...]] | None:
    """Return the branches from `source` that are summed in `end`, if that is all that `end` is."""
    units: list[ResidualUnit] = []
    unit = None if end is source else _unit(graph, end)
    while unit is not None:
        units.insert(0, unit)
        end = unit.source
        unit = None if end is source else _unit(graph, end)
    if end is source:
        return [tuple(units)]
    if units or not _is_sum(end):
        return None
    first, second = (_branches(graph, summand, source) for summand in _operands(end))
    return None if first is None or second is None else first + second


def _is_sum(node: Node) -> bool:
    return node.op == "call_function" and node.target is operator.add and all(isinstance(a, Node) for a in node.args)


def _operands(total: Node) -> tuple[Node, Node]:
    first, second = total.args
    return first, second  # type: ignore[return-value]  # `_is_sum` has seen that both are nodes


def _unit(graph: GraphModule, node: Node) -> ResidualUnit | None:
    if not _is_sum(node):
        return None
    first, second = _operands(node)
    for added, source in ((first, second), (second, first)):
        convs = _chain(graph, added, source)
        if convs:
            return ResidualUnit(node, source, tuple(convs))
    return None


def _chain(graph: GraphModule, end: Node, start: Node) -> list[Node]:
    """Return the convolutions between `start` and `end`, in execution order, if nothing else is read on the way."""
    between: set[Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node is start or node in between:
            continue
        if not _may_lie_between(graph, node, start):
            return []
        between.add(node)
        stack += node.all_input_nodes
    return [node for node in _in_order(between, end) if _is_convolution(graph, node)]


def _in_order(nodes: set[Node], last: Node) -> list[Node]:
    """Return nodes in execution order, walking back from the last one: they lie close together in a large graph."""
    found: list[Node] = []
    node = last
    while len(found) < len(nodes):
        if node in nodes:
            found.append(node)
        node = node.prev
    return found[::-1]


def _may_lie_between(graph: GraphModule, node: Node, start: Node) -> bool:
    """Allow convolutions, activations, and sums of the terms of a factorised convolution."""
    if _is_sum(node):
        # Were `start` itself a term, this would be a unit inside, or two branches of which one is `start`.
        return all(term is not start and (_is_sum(term) or _is_convolution(graph, term)) for term in _operands(node))
    module = module_of(graph, node)
    return module is not None and (isinstance(module, _ConvNd) or _is_activation(module))


def _is_convolution(graph: GraphModule, node: Node) -> bool:
    return isinstance(module_of(graph, node), _ConvNd)


def _is_activation(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None
