"""The error that a change makes at a model's output: the change tried out on a piece of data, nothing assumed.

A model runs once and all its tensors are kept; a trial then computes only what depends on the changed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import fitted_inputs, layer_name, output_nodes
from compressor.sensitivity import Balance

Replacement = Callable[..., Any]
"""From what a node reads, tensors only and in order, to what it puts out instead."""


def output_errors(
    model: GraphModule, trials: Mapping[str, Replacement], inputs: Iterable[tuple[Tensor, ...]]
) -> dict[str, float]:
    """Return, by layer or node name, the output's relative error energy when that node computes something else.

    Errors are weighed as in `sensitivities`.
    """
    nodes = {layer_name(node): node for node in model.graph.nodes}
    after = {name: _dependent(nodes[name]) for name in trials}
    sums = dict.fromkeys(trials, 0.0)
    count = 0
    for values in inputs:
        run = _Run(model, values)
        for name, replacement in trials.items():
            sums[name] += run.error(nodes[name], replacement, after[name])
        count += 1
    return {name: value / max(1, count) for name, value in sums.items()}


def _dependent(start: Node) -> list[Node]:
    """Return the nodes that a node's value flows into, in execution order."""
    found = {start}
    ordered = []
    node = start.next
    while node.op != "root":
        if node.op != "output" and found.intersection(node.all_input_nodes):
            found.add(node)
            ordered.append(node)
        node = node.next
    return ordered


class _Run:
    """One input and every tensor that a model computes from it."""

    def __init__(self, model: GraphModule, inputs: tuple[Tensor, ...]) -> None:
        self.interpreter = Interpreter(model, garbage_collect_values=False)
        with torch.no_grad():
            self.interpreter.run(*fitted_inputs(model, inputs))
        self.values = dict(self.interpreter.env)
        self.output = output_nodes(model)[0]
        self.balance = Balance(self.values[self.output])

    def error(self, place: Node, replacement: Replacement, dependent: Iterable[Node]) -> float:
        self.interpreter.env = dict(self.values)
        with torch.no_grad():
            self.interpreter.env[place] = replacement(*(self.values[source] for source in place.all_input_nodes))
            for node in dependent:
                self.interpreter.env[node] = self.interpreter.run_node(node)
        off = self.interpreter.env[self.output] - self.values[self.output]
        return float(self.balance.weighted(off).square().sum()) / self.balance.energy
