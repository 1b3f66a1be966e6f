"""Where a student's intermediate tensors are held against its teacher's, and how a graph is run past those points.

A point is a node through which everything flows (an articulation point between input and output), that teacher and
student both have, with the same channels. The student's blocks lie between its points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import fit_shape, input_specs, placeholders
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


def find_points(teacher: GraphModule, student: GraphModule) -> tuple[str, ...]:
    """Return the points that end a block: the last of each run of articulation points of equal length in time."""
    shapes_of_teacher = _shapes(teacher, _articulation_points(teacher))
    shapes_of_student = _shapes(student, _articulation_points(student))
    shared = [
        name
        for name, shape in shapes_of_student.items()
        # What has no channels, such as audio without its axis of one, is no feature.
        if len(shape) > 2 and name in shapes_of_teacher and fit(shapes_of_teacher[name]) == fit(shape)
    ]
    order = list(shapes_of_student)
    ends = [
        name
        for name in shared
        if (following := order.index(name) + 1) < len(order)
        and shapes_of_student[order[following]][-1:] != shapes_of_student[name][-1:]
    ]
    merges = [name for name in shared if _merges(student, name)] or ends
    return tuple(name for name in shared if name in set(_before(order, ends, merges)))


def fit(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out axes of size one between the channels and time: a student may be two-dimensional."""
    return (shape[1], shape[-1]) if len(shape) > 2 else shape


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
    return {node.name: tuple(runner.found[node.name].shape) for node in nodes}


def student_inputs(student: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give the teacher's inputs the student's shapes."""
    ranks = [len(node.meta["tensor_spec"].shape) for node in placeholders(student)]
    return tuple(fit_shape(value, rank) for value, rank in zip(inputs, ranks, strict=True))
