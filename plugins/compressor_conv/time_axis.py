"""What is known about the length of tensors along time, whatever the length of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

from compressor.graph_editing import module_of, placeholders
from compressor.tensor_spec import TensorSpec
from compressor_conv.transposed import Interleave
from compressor_conv.two_dimensional import ELEMENTWISE_FUNCTIONS, ELEMENTWISE_MODULES

KEEPING_FUNCTIONS = (*ELEMENTWISE_FUNCTIONS, torch.unsqueeze, torch.squeeze)


@dataclass(frozen=True)
class Length:
    """`slope * n + offset` for some whole number n."""

    slope: int
    offset: int

    @property
    def divisor(self) -> int:
        """The largest number that is known to divide it; 0 for a length of nothing."""
        return math.gcd(self.slope, self.offset)


ANY = Length(1, 0)


def length_divisors(graph: GraphModule) -> dict[Node, int]:
    """Return for each node a number that divides its last axis for inputs of every size; 1 if none is known."""
    lengths: dict[Node, Length] = {}
    specs: dict[Node, TensorSpec] = {node: node.meta["tensor_spec"] for node in placeholders(graph)}
    for node in graph.graph.nodes:
        if node in specs:
            last = specs[node].shape[-1] if specs[node].shape else "any"
            lengths[node] = Length(0, last) if isinstance(last, int) else ANY
        elif node.op in ("call_module", "call_function") and node.all_input_nodes:
            lengths[node] = _after(graph, node, lengths.get(node.all_input_nodes[0], ANY))
    return {node: length.divisor for node, length in lengths.items()}


def _after(graph: GraphModule, node: Node, length: Length) -> Length:
    module = module_of(graph, node)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and not isinstance(module.padding, str) and module.stride[-1] == 1:
        grown = 2 * int(module.padding[-1]) - module.dilation[-1] * (module.kernel_size[-1] - 1)
        return Length(length.slope, length.offset + grown)
    if isinstance(module, Interleave):
        stride = module.strides[-1]
        return Length(length.slope * stride, length.offset * stride - sum(module.crops[-1]))
    kept = isinstance(module, ELEMENTWISE_MODULES) or (module is None and node.target in KEEPING_FUNCTIONS)
    return length if kept else ANY
