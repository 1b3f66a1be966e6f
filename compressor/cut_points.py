"""Where a model can be cut: tensors through which everything flows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import onnx

from compressor.errors import TeacherError
from compressor.region import resolve

MOST = 5
"""Regions that are told, the one of most parameters first."""

MOST_CUTS = 200
"""Places between which parts are looked for, evenly spread: there are as many parts as pairs."""

LEAST_SHARE = 0.05
"""Share of the model's weights below which a part is not worth compressing alone."""


@dataclass(frozen=True)
class RegionFact:
    """A part that could be compressed alone."""

    input: str
    output: str
    parameters: int
    nodes: int


def regions(model: onnx.ModelProto) -> tuple[RegionFact, ...]:
    """Return the parts between two tensors through which everything flows, those of most weights first.

    Weights, constants and sizes do not count as flowing.
    """
    graph = model.graph
    moving = _moving(graph)
    cuts = _cuts(graph, moving)
    if len(cuts) < 2:
        return ()
    weights = {tensor.name: _size(tensor) for tensor in graph.initializer}
    whole = sum(weights.values())
    cuts = cuts[:: len(cuts) // MOST_CUTS + 1]
    sums = [0]
    seen: set[str] = set()
    for node in graph.node:
        own = sum(weights[name] for name in node.input if name in weights and name not in seen)
        seen.update(node.input)
        sums.append(sums[-1] + own)
    best: dict[tuple[int, int], RegionFact] = {}
    for (first, start), (last, end) in combinations(cuts, 2):
        part = RegionFact(first, last, sums[end] - sums[start], end - start)
        # Of parts with the same weights the one of fewest nodes.
        known = best.setdefault((sums[start], sums[end]), part)
        if part.nodes < known.nodes:
            best[sums[start], sums[end]] = part
    large = [part for part in best.values() if part.parameters >= LEAST_SHARE * max(1, whole)]
    large.sort(key=lambda part: -part.parameters)
    return tuple(part for part in large[: 4 * MOST] if _closed(model, part))[:MOST]


def _closed(model: onnx.ModelProto, part: RegionFact) -> bool:
    """Say whether nothing else enters or leaves: sizes of tensors outside may."""
    try:
        resolve("", model, [part.input], [part.output])
    except TeacherError:
        return False
    return True


def _moving(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that depend on the model's inputs by their values, and not only by their sizes."""
    weights = {tensor.name for tensor in graph.initializer}
    moving = {value.name for value in graph.input} - weights
    for node in graph.node:
        if node.op_type != "Shape" and any(name in moving for name in node.input):
            moving.update(node.output)
    return moving


def _cuts(graph: onnx.GraphProto, moving: set[str]) -> list[tuple[str, int]]:
    """Return tensors that alone are alive at a moment, and how many nodes have run by then."""
    last: dict[str, int] = {}
    for at, node in enumerate(graph.node):
        last.update(dict.fromkeys(node.input, at))
    last.update(dict.fromkeys((value.name for value in graph.output), len(graph.node)))
    alive = {value.name for value in graph.input if value.name in moving and value.name in last}
    cuts = [(next(iter(alive)), 0)] if len(alive) == 1 else []
    for at, node in enumerate(graph.node):
        alive.update(name for name in node.output if name in moving and last.get(name, -1) > at)
        alive = {name for name in alive if last[name] > at}
        if len(alive) == 1 and not (cuts and cuts[-1][0] in alive):
            cuts.append((next(iter(alive)), at + 1))
    return cuts


def _size(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
