"""Scales and shifts into the weights of the linear layer before or behind them."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import layer_name, module_of, replace_module
from compressor.strategy import Finding
from compressor.unfolding import LinearLayer, matrix, set_matrix
from compressor_simplify.affine import ScaleShift, scale_and_shift
from compressor_simplify.constants import constant_values
from compressor_simplify.tensor_shapes import tensor_shapes


def constant_products_as_layers(graph: GraphModule) -> list[Finding]:
    """Make linear layers of products with a constant matrix (in, out) that nothing else uses."""
    constants = constant_values(graph)
    findings: list[Finding] = []
    for node in list(graph.graph.nodes):
        if not _is_product(graph, node) or len(node.args) != 2:
            continue
        read, weight = node.args
        value = constants.get(weight) if isinstance(weight, Node) else None
        if read in constants or value is None or value.dim() != 2 or len(weight.users) != 1:
            continue
        linear = nn.Linear(value.shape[0], value.shape[1], bias=False).to(value.dtype)
        with torch.no_grad():
            linear.weight.copy_(value.T)
        _call_instead(graph, node, read, linear)
        findings.append(Finding(f"now a linear layer from {value.shape[0]} to {value.shape[1]}", layer_name(node)))
    return findings


def fold_into_layers(graph: GraphModule) -> list[Finding]:
    """Fold scales and shifts into the layers before them, else into those behind them."""
    folding = _Folding(graph)
    for node in list(graph.graph.nodes):
        folding.into_the_layer_before(node)
    for node in reversed(list(graph.graph.nodes)):
        folding.into_the_layer_behind(node)
    return folding.findings


def left_out(graph: GraphModule) -> list[Finding]:
    """Say which batch normalisations remain."""
    names = [layer_name(node) for node in graph.graph.nodes if "BatchNorm" in type(module_of(graph, node)).__name__]
    reason = "no linear layer stands alone beside it, or the padding behind it would have to be shifted too"
    return [Finding(f"left: {reason}", name) for name in names]


def _is_product(graph: GraphModule, node: Node) -> bool:
    if node.op == "call_function":
        return node.target in (torch.matmul, operator.matmul)
    return type(module_of(graph, node)).__name__ == "OnnxMatMul"


def _call_instead(graph: GraphModule, node: Node, read: Node, module: nn.Module) -> None:
    """Let a module compute a node; where it called one before, the name stays."""
    if node.op == "call_module":
        replace_module(graph, node, module)
        node.args = (read,)
        return
    graph.add_submodule(node.name, module)
    with graph.graph.inserting_before(node):
        called = graph.graph.call_module(node.name, (read,))
    node.replace_all_uses_with(called)


@dataclass(frozen=True)
class _Layer:
    """A linear layer that is called once and shares its weights with no other."""

    node: Node
    module: LinearLayer

    @property
    def outputs(self) -> int:
        return self.module.out_features if isinstance(self.module, nn.Linear) else self.module.out_channels

    @property
    def inputs(self) -> int:
        return self.module.in_features if isinstance(self.module, nn.Linear) else self.module.in_channels

    def axis(self, rank: int) -> int:
        """Return the axis of channels in tensors of `rank` axes."""
        return rank - 1 if isinstance(self.module, nn.Linear) else 1

    @property
    def reads_nothing_else(self) -> bool:
        """Say whether each output is made of as many inputs: padding is read too, and is not shifted."""
        if isinstance(self.module, nn.Linear):
            return True
        plain = not self.module.transposed and not isinstance(self.module.padding, str)
        return plain and not any(self.module.padding)

    def scale_and_shift_outputs(self, scale: Tensor, shift: Tensor) -> None:
        groups = matrix(self.module).shape[0]
        set_matrix(self.module, matrix(self.module).detach().double() * scale.reshape(groups, 1, -1))
        old = 0.0 if self.module.bias is None else self.module.bias.detach().double()
        self._set_bias(old * scale + shift)

    def scale_and_shift_inputs(self, scale: Tensor, shift: Tensor) -> None:
        weights = matrix(self.module).detach().double()
        rows = (weights.shape[0], -1, 1)
        taps = weights.shape[0] * weights.shape[1] // self.inputs
        moved = (weights * shift.repeat_interleave(taps).reshape(rows)).sum(1).flatten()
        set_matrix(self.module, weights * scale.repeat_interleave(taps).reshape(rows))
        old = 0.0 if self.module.bias is None else self.module.bias.detach().double()
        self._set_bias(old + moved)

    def _set_bias(self, bias: Tensor) -> None:
        if self.module.bias is not None or bool((bias != 0).any()):
            self.module.bias = nn.Parameter(bias.to(self.module.weight.dtype))


class _Folding:
    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.constants = constant_values(graph)
        self.shapes = tensor_shapes(graph)
        self.calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
        self.owners = Counter(
            id(parameter) for module in graph.modules() for parameter in module.parameters(recurse=False)
        )
        self.findings: list[Finding] = []

    def into_the_layer_before(self, node: Node) -> None:
        found = self._scale_and_shift(node)
        if found and found.idle:
            self._leave_out(node, found, "left out: it does nothing")
            return
        layer = self._layer(found.source) if found else None
        if found is None or layer is None or list(found.source.users) != [node]:
            return
        rank = len(self.shapes[node])
        vectors = found.by_channel(rank, layer.axis(rank), layer.outputs)
        if vectors is not None:
            layer.scale_and_shift_outputs(*vectors)
            self._leave_out(node, found, f"folded into {layer_name(layer.node)}")

    def into_the_layer_behind(self, node: Node) -> None:
        found = self._scale_and_shift(node)
        layer = self._layer(next(iter(node.users))) if found and len(node.users) == 1 else None
        if found is None or layer is None:
            return
        rank = len(self.shapes[node])
        vectors = found.by_channel(rank, layer.axis(rank), layer.inputs)
        if vectors is not None and (layer.reads_nothing_else or not bool((vectors[1] != 0).any())):
            layer.scale_and_shift_inputs(*vectors)
            self._leave_out(node, found, f"folded into {layer_name(layer.node)}")

    def _scale_and_shift(self, node: Node) -> ScaleShift | None:
        if node not in self.shapes or node in self.constants:
            return None
        found = scale_and_shift(self.graph, node, len(self.shapes[node]), self.constants)
        # A constant that makes the value larger is not only a factor.
        return found if found and self.shapes.get(found.source) == self.shapes[node] else None

    def _layer(self, node: Node) -> _Layer | None:
        module = module_of(self.graph, node)
        if not isinstance(module, _ConvNd | nn.Linear) or self.calls[str(node.target)] > 1:
            return None
        shared = any(self.owners[id(parameter)] > 1 for parameter in module.parameters())
        return None if shared else _Layer(node, module)

    def _leave_out(self, node: Node, found: ScaleShift, message: str) -> None:
        self.findings.append(Finding(message, layer_name(node)))
        node.replace_all_uses_with(found.source)
        self.graph.graph.erase_node(node)
