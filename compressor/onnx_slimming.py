"""Folding what is constant in ONNX models, through onnxslim; what draws random numbers is no constant."""

from __future__ import annotations

import onnx
import onnxslim

from compressor.shared_draws import RANDOM_OPERATORS

DANGEROUS = ["constant_folding", "subexpression_elimination"]
"""Steps of onnxslim that draw once and for all, or take two draws for one."""


def slimmed(model: onnx.ModelProto, **options: int) -> onnx.ModelProto:
    """Return a model that computes the same with less; options are onnxslim's, such as `size_threshold` in bytes."""
    random = any(node.op_type in RANDOM_OPERATORS for node in model.graph.node)
    slim: onnx.ModelProto = onnxslim.slim(model, skip_optimizations=DANGEROUS if random else [], **options)
    return slim
