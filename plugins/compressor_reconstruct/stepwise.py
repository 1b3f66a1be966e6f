"""Run a graph node by node over all samples at once, keeping only the values that are still needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import fitted_inputs


class StepwiseRun:
    """A graph under way: all samples stand at the same node, so each node is computed once for each sample.

    Args:
        graph: what is run.
        samples: its inputs, sample by sample.
        kept_until: nodes whose values are needed at a later node than their last user, and that node.
    """

    def __init__(
        self, graph: GraphModule, samples: Sequence[tuple[Tensor, ...]], kept_until: Mapping[Node, Node]
    ) -> None:
        self.runs = [_Single(graph, fitted_inputs(graph, values)) for values in samples]
        self.nodes = list(graph.graph.nodes)
        self.position = {node: position for position, node in enumerate(self.nodes)}
        self.done = 0
        """How many nodes are computed."""
        self.last_use = self._last_uses(kept_until)

    def _last_uses(self, kept_until: Mapping[Node, Node]) -> dict[Node, int]:
        at = self.position
        uses = {node: max((at[user] for user in node.users), default=position) for node, position in at.items()}
        for node, until in kept_until.items():
            uses[node] = max(uses[node], at[until])
        return uses

    def run_to(self, node: Node) -> None:
        """Compute everything up to and with a node, if that is still to be done."""
        end = self.position[node] + 1
        while self.done < end:
            self._forget()
            for run in self.runs:
                run.compute(self.nodes[self.done])
            self.done += 1

    def compute_again(self, nodes: Iterable[Node]) -> None:
        """Compute nodes again, in the order given, after their weights changed."""
        for node in nodes:
            for run in self.runs:
                run.compute(node)

    def values(self, node: Node) -> list[Tensor]:
        """Return a computed node's value for each sample."""
        return [run.env[node] for run in self.runs]

    def _forget(self) -> None:
        """Drop what no node from here on reads, and nobody wants to look at."""
        for run in self.runs:
            for node in [node for node in run.env if self.last_use[node] < self.done - 1]:
                del run.env[node]


class _Single(Interpreter):
    """One sample's values."""

    def __init__(self, graph: GraphModule, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.args_iter = iter(inputs)
        self.env: dict[Node, Any] = {}

    def compute(self, node: Node) -> None:
        with torch.no_grad():
            self.env[node] = self.run_node(node)
