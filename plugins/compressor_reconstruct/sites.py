"""Where a student's layers put out what the teacher computes too: the places at which they can be refitted.

Nodes that teacher and student share by name read the same tensors at the same arguments, whatever made them. So the
student's tensor there should equal the teacher's, even where a layer was factorised or units before it were dropped.
Seen from such a tensor, layers that are only added up (and scaled) on the way to it can be solved for together.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch.fx import GraphModule, Node
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import module_of
from compressor.unfolding import unfoldable


@dataclass(frozen=True)
class Term:
    """A linear layer's output, times `factor`, is part of a sum."""

    node: Node
    factor: float

    @property
    def source(self) -> Node:
        """What the layer reads."""
        return self.node.all_input_nodes[0]


@dataclass(frozen=True)
class Site:
    """`student` = Σ factor · layer + what the other addends sum up to, and should equal `teacher`."""

    student: Node
    teacher: Node
    terms: tuple[Term, ...]
    inner: tuple[Node, ...]
    """Nodes from the layers to `student`, both included, in execution order: to be computed again after a refit."""

    @property
    def name(self) -> str:
        """The layers' names."""
        return ", ".join(str(term.node.target) for term in self.terms)


def find_sites(student: GraphModule, teacher: GraphModule) -> list[Site]:
    """Return the places where layers can be refitted, in execution order; each layer at the first of its places."""
    order = {node: position for position, node in enumerate(student.graph.nodes)}
    sites: list[Site] = []
    taken: set[Node] = set()
    shared = _shared_tensors(student, teacher)
    for node in sorted(shared, key=order.__getitem__):
        terms, inner = _terms(student, node)
        if terms and not taken & {term.node for term in terms}:
            taken |= {term.node for term in terms}
            sites.append(Site(node, shared[node], tuple(terms), tuple(sorted(inner, key=order.__getitem__))))
    return sites


def _shared_tensors(student: GraphModule, teacher: GraphModule) -> dict[Node, Node]:
    """Return the teacher's tensor for each of the student's that a node of both reads."""
    known = {node.name: node for node in teacher.graph.nodes}
    order = {node: position for position, node in enumerate(teacher.graph.nodes)}
    pairs: dict[Node, list[Node]] = {}
    for reader in student.graph.nodes:
        twin = known.get(reader.name)
        if twin is None or len(twin.args) != len(reader.args):
            continue
        for ours, theirs in zip(_tensors(reader), _tensors(twin), strict=False):
            if ours.op != "placeholder":
                pairs.setdefault(ours, []).append(theirs)
    return {
        ours: next((each for each in theirs if each.name == ours.name), max(theirs, key=order.__getitem__))
        for ours, theirs in pairs.items()
    }


def _tensors(node: Node) -> list[Node]:
    if node.op == "output" and isinstance(node.args[0], list | tuple):
        return [each for each in node.args[0] if isinstance(each, Node)]
    return [each for each in node.args if isinstance(each, Node)]


def _terms(graph: GraphModule, top: Node) -> tuple[list[Term], list[Node]]:
    """Return the layers that are added up into `top`, and the nodes between."""
    terms: list[Term] = []
    inner: list[Node] = []
    stack = [(top, 1.0)]
    while stack:
        node, factor = stack.pop()
        if node is not top and len(node.users) > 1:
            continue
        module = module_of(graph, node)
        scale = _scale(node)
        if _is_sum(node) or scale is not None:
            inner.append(node)
            stack += [(each, factor * (scale or 1.0)) for each in node.all_input_nodes]
        elif unfoldable(module) and not (isinstance(module, _ConvNd) and module.groups > 1):
            inner.append(node)
            terms.append(Term(node, factor))
    return terms, inner if terms else []


def _is_sum(node: Node) -> bool:
    if node.op != "call_function" or node.target is not operator.add or len(node.args) != 2:
        return False
    first, second = node.args
    return isinstance(first, Node) and isinstance(second, Node) and first is not second


def _scale(node: Node) -> float | None:
    """Return the constant that a node multiplies its one input with."""
    if node.op != "call_function" or len(node.args) != 2 or not isinstance(node.args[1], float | int):
        return None
    if node.target is operator.truediv and node.args[1]:
        return 1.0 / float(node.args[1])
    return float(node.args[1]) if node.target is operator.mul else None
