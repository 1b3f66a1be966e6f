"""Which converter serves which version of an operator's definition. Imports torch only once something is converted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from onnx2torch.onnx_graph import OnnxGraph
    from onnx2torch.onnx_node import OnnxNode

    from compressor.hookspecs import Converter, Converters

# fmt: off
MODULES: Mapping[str, str] = {
    "activations": "Acosh Asinh Atanh Cosh Dropout Gelu GroupNormalization Hardmax LayerNormalization "
                   "LpNormalization MeanVarianceNormalization Mish RMSNormalization Selu Shrink Sinh SwiGLU Swish "
                   "ThresholdedRelu",
    "convolutions": "Col2Im Conv ConvInteger ConvTranspose DeformConv",
    "images": "AffineGrid GridSample Resize Upsample",
    "indexing": "Compress GatherElements GatherND NonZero OneHot ReverseSequence Scatter ScatterElements ScatterND "
                "TensorScatter TopK Unique",
    "narrow": "Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Sub",
    "numeric": "BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Clip CumProd CumSum "
               "Det IsInf Mod Pow Size",
    "pooling": "AveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxUnpool",
    "quantisation": "DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear",
    "random_numbers": "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
    "recurrent": "GRU LSTM RNN",
    "reductions": "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
                  "ReduceSumSquare",
    "shapes": "CenterCropPad DepthToSpace EyeLike Flatten Pad Range Reshape Shape Slice SpaceToDepth Split Squeeze "
              "Trilu Unsqueeze",
    "signals": "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT",
}
# fmt: on
"""Operators that this plugin computes itself, by module."""

NARROW = (onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64)

ONLY_MORE_TYPES = (
    "Acos Asin Atan BatchNormalization Celu Concat Constant ConstantOfShape Cos Einsum Elu "
    "GlobalAveragePool HardSigmoid HardSwish Identity InstanceNormalization IsNaN "
    "RoiAlign Round Sin Softplus Softsign Tan Transpose"
)
"""Operators of onnx2torch whose later definitions differ from those that it knows in the types they take."""


@cache
def all_converters() -> Converters:
    """Return converters for every version of the operators that this plugin knows."""
    modules = {name: module for module, names in MODULES.items() for name in names.split()}
    modules |= dict.fromkeys(ONLY_MORE_TYPES.split(), "")
    return {
        (schema.name, schema.since_version): _converter(schema.name, schema.since_version, modules[schema.name])
        for schema in onnx.defs.get_all_schemas_with_history()
        if not schema.domain and schema.name in modules
    }


def _converter(name: str, version: int, module: str) -> Converter:
    def convert(node: OnnxNode, graph: OnnxGraph) -> Any:
        theirs = onnx2torchs(name, version)
        if not module:
            if theirs is None:
                raise NotImplementedError(f"{name} of operator set {version}")
            return theirs(node, graph)
        import_module(f"compressor_onnx_ops.{module}")
        from compressor_onnx_ops.operators import FALLBACKS, convert_operator

        if (
            name in FALLBACKS
            and theirs is not None
            and not _is_narrow(node, graph)
            and not _is_beyond(name, node, graph)
        ):
            try:
                return theirs(node, graph)
            except Exception:  # It refuses by whatever exception an option that it lacks leads to.
                return convert_operator(node, graph)
        return convert_operator(node, graph)

    return convert


def _is_beyond(name: str, node: OnnxNode, graph: OnnxGraph) -> bool:
    """Say whether a node has what onnx2torch takes without a word and computes otherwise."""
    given = node.attributes
    if name in ("AveragePool", "MaxPool"):
        kernel = list(given["kernel_shape"])
        if any(2 * pad > size for pad, size in zip(given.get("pads", []), 2 * kernel, strict=False)):
            return True
    if name == "Flatten":
        return bool(given.get("axis", 1) != 1) or _rank(node, graph) == 1
    if name == "Pad":
        return len(node.input_values) > 3
    if name in ("LayerNormalization", "Dropout", "MaxPool"):
        return len(node.output_values) > 1
    options = {
        "AveragePool": {"ceil_mode", "dilations"},
        "ConvTranspose": {"output_shape"},
        "Shape": {"start", "end"},
        "Split": {"num_outputs"},
    }
    return bool(options.get(name, set()) & given.keys())


def _rank(node: OnnxNode, graph: OnnxGraph) -> int | None:
    """Return how many axes a node's first input has, None where the file does not say."""
    known = graph.value_info.get(node.input_values[0])
    return len(known.type.tensor_type.shape.dim) if known is not None else None


def _is_narrow(node: OnnxNode, graph: OnnxGraph) -> bool:
    """Say whether a node reads whole numbers of a type that torch stores but hardly computes with."""
    for name in node.input_values:
        known = graph.value_info.get(name)
        kind = known.type.tensor_type.elem_type if known is not None else None
        if name in graph.initializers:
            kind = graph.initializers[name].proto.data_type
        if kind in NARROW:
            return True
    return False


@cache
def onnx2torchs(name: str, version: int) -> Converter | None:
    """Return onnx2torch's own converter for the newest definition that is not after a version."""
    from compressor.onnx_converters import ORIGINAL

    known = [at for kind, at in ORIGINAL if kind == name and at <= version]
    return ORIGINAL[name, max(known)] if known else None
