"""Keep tensors in onnxruntime's blocked layout (NCHWc) from one convolution to the next. Exact.

onnxruntime fuses a residual sum into the convolution before it, and leaves out the changes of layout, only where all
that is summed comes out of blocked nodes; of activations it knows LeakyRelu as part of a convolution only. So a tensor
that is reshaped into being goes through a pooling of size one, and a LeakyReLU that follows no convolution gets a
depthwise one of ones in front of it: both compute nothing, and both are blocked.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

from compressor.graph_editing import clean, input_specs, module_of
from compressor.tensor_spec import random_inputs
from compressor_conv.transposed import Interleave
from compressor_conv.upsampled import NearestUpsampling

BLOCK = 16
"""Channels of a block; widths that are no multiple of it gain nothing."""

SIZE = 16
"""Of dynamic axes, to learn the shapes."""


def block(student: GraphModule) -> int:
    """Insert what keeps four-dimensional tensors blocked; returns how many nodes were inserted."""
    arrays = random_inputs(input_specs(student), SIZE)
    with torch.no_grad():
        ShapeProp(student).propagate(*(torch.from_numpy(array) for array in arrays.values()))
    anchored = [node for node in student.graph.nodes if _is_reshaped(student, node) and _channels(node)]
    for node in anchored:
        _insert_after(student, node, "_anchor", nn.MaxPool2d(1))
    fed: dict[Node, Node] = {}
    for node in list(student.graph.nodes):
        if isinstance(module_of(student, node), nn.LeakyReLU) and not _fused(student, node):
            _feed_by_identity(student, node, fed)
    clean(student)
    return len(anchored) + len(fed)


def _is_reshaped(student: GraphModule, node: Node) -> bool:
    return isinstance(module_of(student, node), Interleave | NearestUpsampling)


def _channels(node: Node) -> int:
    """Return the channels of a four-dimensional tensor that can be blocked, or none."""
    known = node.meta.get("tensor_meta")
    if known is None or len(known.shape) != 4 or known.shape[1] % BLOCK:
        return 0
    return int(known.shape[1])


def _fused(student: GraphModule, activation: Node) -> bool:
    """Say whether an activation is all that reads a convolution: onnxruntime fuses the two."""
    source = activation.all_input_nodes[0]
    return isinstance(module_of(student, source), nn.Conv2d) and len(source.users) == 1


def _insert_after(student: GraphModule, node: Node, suffix: str, module: nn.Module) -> None:
    name = f"{node.target}{suffix}"
    student.add_submodule(name, module)
    with student.graph.inserting_after(node):
        added = student.graph.call_module(name, (node,))
    for user in [user for user in node.users if user is not added]:
        user.replace_input_with(node, added)


def _feed_by_identity(student: GraphModule, activation: Node, fed: dict[Node, Node]) -> None:
    source = activation.all_input_nodes[0]
    channels = _channels(source) or _channels(activation)
    if not channels:
        return
    if source not in fed:
        identity = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        nn.init.ones_(identity.weight)
        name = f"{activation.target}_identity"
        student.add_submodule(name, identity)
        with student.graph.inserting_after(source):
            fed[source] = student.graph.call_module(name, (source,))
    activation.replace_input_with(source, fed[source])
