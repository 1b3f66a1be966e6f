"""Where a student's intermediate tensors are held against its teacher's, and how a graph is run past those points.

A point is a node through which everything flows (an articulation point between input and output) and that teacher and
student both have. The student's blocks lie between those of its points that are as wide as the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import input_specs, select
from compressor.tensor_spec import random_inputs

PROBE_SIZE = 16


class PointRunner(Interpreter):
    """Runs a graph and keeps what it computes at the points.

    With `given`, what flows on from a point is not the graph's own value but the given one: each block then sees what
    it should have seen.
    """

    def __init__(self, graph: GraphModule, points: tuple[str, ...]) -> None:
        super().__init__(graph)
        self.points = frozenset(points)
        self.found: dict[str, Tensor] = {}
        self.given: Mapping[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.points:
            return value
        self.found[n.name] = value
        return self.given[n.name].reshape(value.shape) if n.name in self.given else value

    def forward(self, inputs: tuple[Tensor, ...], given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the first output; `found` then holds the values at the points."""
        self.found, self.given = {}, given or {}
        result = self.run(*inputs, enable_io_processing=False)
        output: Tensor = result[0] if isinstance(result, list | tuple) else result
        return output


@dataclass(frozen=True)
class Point:
    """A node that teacher and student both have, and how many channels each has there."""

    name: str
    student_width: int
    teacher_width: int

    @property
    def same_width(self) -> bool:
        """Say whether the one can stand for the other."""
        return self.student_width == self.teacher_width

    def __str__(self) -> str:
        return self.name if self.same_width else f"{self.name} ({self.student_width} of {self.teacher_width} channels)"


def find_points(teacher: GraphModule, student: GraphModule, named: tuple[str, ...] = ()) -> tuple[Point, ...]:
    """Return the points that end a block: the last of each run of articulation points of equal length in time.

    Where the student has been made narrower the last that is as wide as the teacher's is preferred; one of another
    width is taken where its run has no such point.

    Args:
        teacher: graph with input specs.
        student: graph with input specs.
        named: patterns of node names, to compare these instead.

    Raises:
        SelectionError: a pattern matches no node that both have.
    """
    if named:
        shared = _shared(_shapes(teacher, _inner_nodes(teacher)), _shapes(student, _inner_nodes(student)))
        return tuple(shared[name] for name in select(list(shared), named, ()))
    shapes = _shapes(student, _articulation_points(student))
    shared = _shared(_shapes(teacher, _articulation_points(teacher)), shapes)
    as_wide = _block_ends(student, shapes, [name for name, point in shared.items() if point.same_width])
    lengths = {shapes[name][-1] for name in as_wide}
    others = {name for name in _block_ends(student, shapes, list(shared)) if shapes[name][-1] not in lengths}
    return tuple(shared[name] for name in shapes if name in as_wide | others)


def _shared(teacher: Mapping[str, tuple[int, ...]], student: Mapping[str, tuple[int, ...]]) -> dict[str, Point]:
    """Return the nodes that both have, of the same length in time, in the student's order."""
    return {
        name: Point(name, shape[1], teacher[name][1])
        for name, shape in student.items()
        # What has no channels, such as audio without its axis of one, is no feature.
        if len(shape) > 2 and len(teacher.get(name, ())) > 2 and teacher[name][-1] == shape[-1]
    }


def _block_ends(student: GraphModule, shapes: Mapping[str, tuple[int, ...]], shared: list[str]) -> set[str]:
    """Return the last merge of branches before each change of length, or what stands there where nothing merges."""
    order = list(shapes)
    ends = [
        name
        for name in shared
        if (following := order.index(name) + 1) < len(order) and shapes[order[following]][-1:] != shapes[name][-1:]
    ]
    merges = [name for name in shared if _merges(student, name)] or ends
    return set(_before(order, ends, merges))


def _before(order: list[str], ends: list[str], merges: list[str]) -> list[str]:
    """Return, for each place where the length changes and for the end, the last merge of branches before it."""
    found = []
    for stop in [*(order.index(name) for name in ends), len(order)]:
        earlier = [name for name in merges if order.index(name) <= stop]
        if earlier:
            found.append(earlier[-1])
    return found


def _merges(graph: GraphModule, name: str) -> bool:
    """Say whether a node scales or activates what several branches were merged into, or merges them itself."""
    node = next(node for node in graph.graph.nodes if node.name == name)
    return any(len(source.all_input_nodes) > 1 for source in (node, *node.all_input_nodes))


def _inner_nodes(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op in ("call_module", "call_function") and node.users]


def _articulation_points(graph: GraphModule) -> list[Node]:
    """Return the nodes that every path from input to output passes, in order.

    Walking in execution order, a node is one if it is the only value that later nodes still need.
    """
    last_use: dict[Node, int] = {}
    nodes = list(graph.graph.nodes)
    for position, node in enumerate(nodes):
        for source in node.all_input_nodes:
            last_use[source] = position
    found = []
    alive: set[Node] = set()
    for position, node in enumerate(nodes):
        alive = {value for value in alive if last_use.get(value, -1) > position}
        alive.add(node)
        is_inner = node.op in ("call_module", "call_function") and node in last_use
        if is_inner and alive == {node}:
            found.append(node)
    return found


def _shapes(graph: GraphModule, nodes: list[Node]) -> dict[str, tuple[int, ...]]:
    runner = PointRunner(graph, tuple(node.name for node in nodes))
    arrays = random_inputs(input_specs(graph), PROBE_SIZE)
    with torch.no_grad():
        runner.forward(tuple(torch.from_numpy(array) for array in arrays.values()))
    found = {node.name: runner.found[node.name] for node in nodes}
    return {name: tuple(value.shape) for name, value in found.items() if isinstance(value, Tensor)}
