"""Folding what is constant in ONNX models, through onnxslim; what draws random numbers is no constant."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnxslim

from compressor.shared_draws import RANDOM_OPERATORS

SLOW = ["weight_tying"]
"""Steps of onnxslim whose time grows with the square of the number of weights; this one compares each with each."""

DANGEROUS = ["constant_folding", "subexpression_elimination"]
"""Steps of onnxslim that draw once and for all, or take two draws for one."""

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "PRelu", "LSTM", "GRU", "RNN"})
"""Operators that become a torch layer with weights of its own where these are stored."""


def slimmed(model: onnx.ModelProto, **options: int) -> onnx.ModelProto:
    """Return a model that computes the same with less; options are onnxslim's, such as `size_threshold` in bytes."""
    random = any(node.op_type in RANDOM_OPERATORS for node in model.graph.node)
    slim: onnx.ModelProto = onnxslim.slim(model, skip_optimizations=SLOW + (DANGEROUS if random else []), **options)
    _drop_unused(slim.graph)
    return slim


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop weights that nothing reads: onnxslim leaves those that stood for shapes, under ever longer names."""
    read = {output.name for output in graph.output} | set(_reads(graph))
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all tensors that nodes read, those of the graphs inside them too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _reads(inner)
                yield from (output.name for output in inner.output)


def has_computed_weights(model: onnx.ModelProto) -> bool:
    """Say whether a layer's weights are computed from constants instead of stored, as some exporters write them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    computed: set[str] = set()
    for node in model.graph.node:
        if node.op_type in LAYERS and computed.intersection(node.input[1:]):
            return True
        constant = all(not name or name in stored or name in computed for name in node.input)
        if constant and node.op_type not in (*RANDOM_OPERATORS, "Constant"):
            computed.update(node.output)
        elif node.op_type == "Constant":
            stored.update(node.output)
    return False
