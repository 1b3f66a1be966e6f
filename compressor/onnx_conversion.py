"""From an ONNX model to a torch graph, through onnx2torch and the converters of plugins."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Set
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx2torch import convert
from onnx2torch.node_converters.registry import get_converter
from onnx2torch.onnx_tensor import OnnxTensor
from torch import nn

from compressor.errors import TeacherError
from compressor.graph_editing import module_of
from compressor.hookspecs import Converters
from compressor.onnx_converters import additional_converters, values_from
from compressor.onnx_names import python_safe
from compressor.onnx_preparing import is_function, prepared
from compressor.onnx_slimming import has_computed_weights, slimmed
from compressor.weights_apart import Weights, completed

if TYPE_CHECKING:
    from torch.fx import GraphModule


def newest_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a model imports; 0 if it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


INITIALIZERS = "initializers"
"""Where onnx2torch keeps the initializers that are no layer's own."""

WEIGHING = {"OnnxMatMul", "OnnxGemm", "OnnxBinaryMathOperation"}
"""onnx2torch's modules whose constants are weights."""


class Support(StrEnum):
    """What becomes of an operator."""

    CONVERTED = "converted"
    WRITTEN_OUT = "written out as simpler operators"
    MISSING = "missing"


def support_of(node: onnx.NodeProto, model: onnx.ModelProto, converters: Converters) -> Support:
    """Return what becomes of a node's operator in the version that a model imports."""
    version = next((entry.version for entry in model.opset_import if entry.domain == node.domain), 1)
    with additional_converters(converters):
        if _has_converter(node, version):
            return Support.CONVERTED
    local = any((function.domain, function.name) == (node.domain, node.op_type) for function in model.functions)
    return Support.WRITTEN_OUT if local or is_function(node, version) else Support.MISSING


def convert_model(
    source: str, model: onnx.ModelProto, converters: Converters, weights: Weights = MappingProxyType({})
) -> GraphModule:
    """Return a model's torch graph, in which a weight that several nodes share is one parameter.

    `weights` are the values that the model only refers to.

    Raises:
        TeacherError: operators without a torch form, or one that cannot be converted with its options.
    """
    with additional_converters(converters), values_from(weights):
        converted, graph = _converted(source, model, weights)
        _name_initializers(graph)
        _make_weights_parameters(graph)
        _tie_shared_weights(graph, converted)
    return graph


def _converted(source: str, model: onnx.ModelProto, weights: Weights) -> tuple[onnx.ModelProto, GraphModule]:
    """Convert a model as it is or, where that fails or weights are computed ones, with its constants folded.

    Returns the model that was converted, too.
    """
    told = {node.name for node in model.graph.node}
    plain = prepared(_folded(model, weights) if has_computed_weights(model) else model, _has_converter)
    try:
        return plain, _convert(source, plain, told)
    except TeacherError as reason:
        folded = prepared(_folded(model, weights), _has_converter)
        try:
            return folded, _convert(source, folded, told)
        except TeacherError:
            # What is wrong is told in terms of the user's file.
            raise reason from None


def _folded(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    try:
        folded: onnx.ModelProto = slimmed(completed(model, weights))
    except Exception:  # What is odd about the model is better told by the one that converts it.
        return model
    return folded


def _has_converter(node: onnx.NodeProto, version: int) -> bool:
    try:
        get_converter(node.op_type, version, node.domain)
    except NotImplementedError:
        return False
    return True


def _refuse_unsupported(source: str, model: onnx.ModelProto, told: Set[str]) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    missing: dict[str, str] = {}
    for node in model.graph.node:
        if not _has_converter(node, versions.get(node.domain, 1)):
            place = node.name if node.name in told else node.output[0]
            missing.setdefault(f"{node.domain or 'ai.onnx'}.{node.op_type}", place)
    if missing:
        listed = "\n  ".join(f"{operator} (first at '{place}')" for operator, place in sorted(missing.items()))
        raise TeacherError(
            f"{source}: onnx2torch has no converter at opset {newest_opset(model)} for:\n  {listed}\n"
            "Compress a region without them (teacher: {onnx: …, region: …}; 'compress doctor' proposes some), export "
            "the model without them, or install a plugin that offers converters (hook compressor_onnx_converters)."
        )


def _convert(source: str, model: onnx.ModelProto, told: Set[str]) -> GraphModule:
    # onnx2torch warns through the root logger about what it then does right.
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    _refuse_unsupported(source, model, told)
    try:
        graph: GraphModule = convert(model, attach_onnx_mapping=False)
    except Exception as error:
        raise TeacherError(
            f"{source}: onnx2torch cannot convert it, nor with its constants folded: {type(error).__name__}: {error}"
        ) from error
    return graph


def _name_initializers(graph: GraphModule) -> None:
    """Call constants what the file calls them, and each but once: onnx2torch copies and numbers them for each use."""
    holder = dict(graph.named_children()).get(INITIALIZERS)
    if holder is None:
        return
    nodes = [node for node in graph.graph.nodes if node.op == "get_attr"]
    nodes = [node for node in nodes if str(node.target).rpartition(".")[0] == INITIALIZERS]
    values = {node: getattr(holder, str(node.target).rpartition(".")[2]) for node in nodes}
    for name in list(holder._buffers):
        delattr(holder, name)
    ours: dict[str, str] = {}
    for node, value in values.items():
        known = str(getattr(value, "onnx_name", node.name))
        if known not in ours:
            # Nor may they be those of a module's own attributes.
            name = python_safe(known)
            while hasattr(holder, name):
                name += "_"
            ours[known] = name
            holder.register_buffer(name, value)
        node.target = f"{INITIALIZERS}.{ours[known]}"
    graph.recompile()


def _make_weights_parameters(graph: GraphModule) -> None:
    """Let constants that a layer's values are multiplied with or added to be trained: onnx2torch makes them buffers."""
    for node in graph.graph.nodes:
        path, _, name = str(node.target).rpartition(".")
        if node.op != "get_attr" or path != INITIALIZERS:
            continue
        holder = graph.get_submodule(path)
        value = getattr(holder, name)
        users = {type(module_of(graph, user)).__name__ for user in node.users}
        if value.is_floating_point() and value.numel() > 1 and users & WEIGHING and name in holder._buffers:
            del holder._buffers[name]
            holder.register_parameter(name, nn.Parameter(value))


def _tie_shared_weights(graph: GraphModule, model: onnx.ModelProto) -> None:
    """Make an initializer that several nodes use one parameter again: onnx2torch copies it for each."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    shared = [OnnxTensor(tensor).to_numpy() for tensor in model.graph.initializer if uses[tensor.name] > 1]
    for array in shared:
        owners = [
            (module, name)
            for module in graph.modules()
            for name, weight in module.named_parameters(recurse=False)
            if weight.shape == array.shape and np.array_equal(weight.detach().numpy(), array)
        ]
        for module, name in owners[1:]:
            setattr(module, name, getattr(*owners[0]))
