"""The shapes of the tensors on the way through a graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.calibration import PROBE_SIZE
from compressor.graph_editing import fitted_inputs, input_specs
from compressor.tensor_spec import random_inputs


def probe(graph: GraphModule) -> tuple[Tensor, ...]:
    """Return random inputs of the shapes that a graph takes."""
    arrays = random_inputs(input_specs(graph), PROBE_SIZE).values()
    return fitted_inputs(graph, tuple(torch.from_numpy(array) for array in arrays))


def tensor_shapes(graph: GraphModule) -> dict[Node, torch.Size]:
    """Return the shape of the floating tensor that each node puts out on one probe."""
    watching = _Watching(graph)
    with torch.no_grad():
        watching.run(*probe(graph))
    return watching.shapes


class _Watching(Interpreter):
    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[Node, torch.Size] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.shapes[n] = value.shape
        return value
