"""Small models as the graphs that stages work on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from compressor.dataset import Sample
from compressor.graph_editing import input_specs, placeholders
from compressor.tensor_spec import Dimension, TensorSpec, random_inputs

SIZE = 20


def traced(model: nn.Module, *shapes: tuple[Dimension, ...]) -> GraphModule:
    """Return a model's graph with specs for inputs of `shapes`; the last axis of each output counts as dynamic."""
    graph = symbolic_trace(model.eval())
    nodes = placeholders(graph)
    inputs = tuple(TensorSpec(node.name, shape) for node, shape in zip(nodes, shapes, strict=True))
    for node, spec in zip(nodes, inputs, strict=True):
        node.meta["tensor_spec"] = spec
    with torch.no_grad():
        made = graph(*(torch.from_numpy(array) for array in random_inputs(inputs, SIZE).values()))
    values: list[Tensor] = list(made) if isinstance(made, tuple | list) else [made]
    output = next(node for node in graph.graph.nodes if node.op == "output")
    output.meta["tensor_specs"] = tuple(
        TensorSpec(f"y{number}", (*value.shape[:-1], "out_time")) for number, value in enumerate(values)
    )
    return graph


def chain(*layers: nn.Module) -> nn.Sequential:
    """Return layers one after the other with weights that do not depend on the tests before."""
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(len(layers))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return model.eval()


def inputs_of(graph: GraphModule, size: int = SIZE, seed: int = 1) -> tuple[Tensor, ...]:
    """Return random inputs for a graph, of the shapes that its own inputs have."""
    specs = tuple(node.meta["tensor_spec"] for node in placeholders(graph))
    return tuple(torch.from_numpy(array) for array in random_inputs(specs, size, seed).values())


def samples_of(graph: GraphModule, *arrays: NDArray[Any]) -> tuple[Sample, ...]:
    """Return arrays as samples for a graph of one input, in float32."""
    (spec,) = input_specs(graph)
    return tuple(Sample(f"sample {at}", {spec.name: array.astype(np.float32)}) for at, array in enumerate(arrays))
