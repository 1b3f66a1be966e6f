"""Plainer ONNX from any: what onnx2torch can walk through, computing the same.

Functions are written out, as are branches and loops that constants decide; old operator sets are converted, every node
has a name of its own, and every output of the model is made by a node that makes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
from onnx import inliner, version_converter

from compressor.control_flow import decided
from compressor.onnx_names import python_safe

OLDEST = 13
"""Older operator sets are converted to this one: attributes had become inputs by then."""

IDENTITY_SUFFIX = "_output"


def prepared(model: onnx.ModelProto, has_converter: Callable[[onnx.NodeProto, int], bool]) -> onnx.ModelProto:
    """Return a model that computes the same as a given one, which stays as it is.

    Args:
        model: a checked model.
        has_converter: whether an operator of a version of its domain's operator set can be converted as it is.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if made.functions:
        made = inliner.inline_local_functions(made, convert_version=True)
    if _opset(made) < OLDEST:
        made = _newer(made)
    made = _written_out(decided(made), has_converter)
    _name_nodes(made.graph)
    _own_outputs(made.graph)
    return made


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=OLDEST)


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OLDEST)
    except Exception:  # The old definition may have a converter of its own; what has none is told by name later.
        return model
    return converted


def _written_out(model: onnx.ModelProto, has_converter: Callable[[onnx.NodeProto, int], bool]) -> onnx.ModelProto:
    """Expand operators without a converter that the standard defines as a function of simpler ones."""
    for _ in range(8):  # Functions are made of functions, though not deeply.
        versions = {entry.domain: entry.version for entry in model.opset_import}
        expandable = {
            (node.domain, node.op_type)
            for node in model.graph.node
            if not has_converter(node, versions.get(node.domain, 1)) and is_function(node, versions.get(node.domain, 1))
        }
        if not expandable:
            break
        try:
            model = inliner.inline_selected_functions(model, sorted(expandable), inline_schema_functions=True)
        except RuntimeError:  # onnx gives up on some functions with missing inputs; the operator is told by name later.
            break
    return model


def is_function(node: onnx.NodeProto, version: int) -> bool:
    """Say whether the standard defines a node's operator as a function of simpler ones."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return False
    # The package's type stubs leave both out.
    return any(getattr(schema, kind) for kind in ("has_function", "has_context_dependent_function"))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a name of its own: the one it has, else its operator's, numbered where that is taken.

    onnx2torch numbers names too, yet may arrive at one that another node has.
    """
    wanted = [python_safe(node.name or node.op_type) for node in graph.node]
    counts = Counter(wanted)
    taken = {name for name, count in counts.items() if count == 1}
    numbers: Counter[str] = Counter()
    for node, name in zip(graph.node, wanted, strict=True):
        own = name
        while counts[name] > 1 and own in taken:
            numbers[name] += 1
            own = f"{name}_{numbers[name]}"
        taken.add(own)
        node.name = own


def _own_outputs(graph: onnx.GraphProto) -> None:
    """Let a node of one output make each output of the model: onnx2torch returns nodes, and each but once."""
    makers = {name: node for node in graph.node for name in node.output}
    seen: set[str] = set()
    for value in graph.output:
        maker = makers.get(value.name)
        plain = maker is not None and len(maker.output) == 1
        if plain and value.name not in seen:
            seen.add(value.name)
            continue
        source, value.name = value.name, f"{value.name}{IDENTITY_SUFFIX}"
        graph.node.append(onnx.helper.make_node("Identity", [source], [value.name], name=f"{value.name}/Identity"))
