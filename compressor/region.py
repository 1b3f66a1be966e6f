"""A part of an ONNX model: cut out to be compressed by itself, and put back in its place.

A region is named by tensors: those that it reads and those that it makes. It must be closed: nothing else may enter or
leave, apart from weights and constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import onnx

from compressor.errors import TeacherError
from compressor.named_options import did_you_mean
from compressor.onnx_names import rename_tensors

PREFIX = "student"
"""What the names of all that is put into a region start with."""


@dataclass(frozen=True)
class Region:
    """Tensors that enter and leave a part of a model, in the order in which the part takes and returns them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def resolve(source: str, model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> Region:
    """Return the region that patterns of tensor names mean, `*` and `?` as in a shell.

    Raises:
        TeacherError: a pattern matches no tensor, or tensors enter or leave besides; all problems at once.
    """
    tensors = [value.name for value in model.graph.input]
    tensors += [name for node in model.graph.node for name in node.output if name]
    problems: list[str] = []

    def matching(patterns: Sequence[str], kind: str) -> tuple[str, ...]:
        found: list[str] = []
        for pattern in patterns:
            matches = [name for name in tensors if name == pattern or fnmatchcase(name, pattern)]
            if not matches:
                problems.append(f"{kind} '{pattern}' is no tensor of the model{did_you_mean(pattern, tensors)}")
            found += [name for name in matches if name not in found]
        return tuple(found)

    region = Region(matching(inputs, "input"), matching(outputs, "output"))
    if not problems:
        problems = _leaks(model.graph, region)
    if problems:
        listed = "\n  ".join(problems)
        raise TeacherError(f"{source}: the region cannot be cut out:\n  {listed}")
    return region


Rates = Mapping[str, Sequence[int]]
"""By tensor, how many times as long its axes are as the dynamic axes of a model's inputs."""


def cut_out(model: onnx.ModelProto, region: Region, rates: Rates = MappingProxyType({})) -> onnx.ModelProto:
    """Return a region as a model of its own; axes whose size is not known are dynamic, and tell their rate.

    Raises:
        TeacherError: the rank or type of a tensor at the border is not known.
    """
    known = _values(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    inside = _inside(model.graph, region)
    read = {name for node in inside for name in node.input}
    graph = onnx.helper.make_graph(
        inside,
        f"{model.graph.name or 'model'}, a region",
        [_border(known, name, rates) for name in region.inputs],
        [_border(known, name, rates) for name in region.outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    return onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version, functions=list(model.functions)
    )


def part_before(model: onnx.ModelProto, region: Region) -> onnx.ModelProto:
    """Return what makes a region's inputs from the model's own inputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = _inside(model.graph, Region((), region.inputs))
    read = {name for node in nodes for name in _read(node)} | set(region.inputs)
    given = {value.name: value for value in model.graph.input}
    del made.graph.node[:], made.graph.output[:], made.graph.initializer[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    made.graph.output.extend(given.get(name, onnx.ValueInfoProto(name=name)) for name in region.inputs)
    return made


def put_back(model: onnx.ModelProto, region: Region, student: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose region is a student with the same inputs and outputs; all else stays as it was.

    What only the old region used is left out. Both must have the same operator set.

    Raises:
        TeacherError: the operator sets differ and the student's cannot be converted.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    student = _at_opset(student, _opset(model))
    inside = {node.output[0] for node in _inside(model.graph, region)}
    position = min(at for at, node in enumerate(model.graph.node) if node.output[0] in inside)
    kept = [node for node in model.graph.node if node.output[0] not in inside]
    before = [node for node in model.graph.node[:position] if node.output[0] not in inside]
    _name_apart(student.graph, region)
    del made.graph.node[:]
    made.graph.node.extend(_sorted([*before, *student.graph.node, *kept[len(before) :]]))
    read = {name for node in made.graph.node for name in node.input} | {value.name for value in made.graph.output}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del made.graph.initializer[:]
    made.graph.initializer.extend(weights)
    made.graph.initializer.extend(student.graph.initializer)
    there = {name for node in made.graph.node for name in node.output}
    values = [value for value in model.graph.value_info if value.name in there]
    del made.graph.value_info[:]
    made.graph.value_info.extend(values)
    onnx.checker.check_model(made)
    return made


def _inside(graph: onnx.GraphProto, region: Region) -> list[onnx.NodeProto]:
    """Return the nodes that make a region's outputs from its inputs, in the model's order."""
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    needed: set[int] = set()
    waiting = list(region.outputs)
    while waiting:
        name = waiting.pop()
        at = makers.get(name)
        if name in region.inputs or at is None or at in needed:
            continue
        needed.add(at)
        waiting += [source for source in _read(graph.node[at]) if source]
    return [graph.node[at] for at in sorted(needed)]


def _read(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads, in its subgraphs too."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [name for inner in graph.node for name in _read(inner)]
    return names


def _leaks(graph: onnx.GraphProto, region: Region) -> list[str]:
    """Return what enters or leaves a region besides what it names."""
    inside = _inside(graph, region)
    if not inside:
        return ["no node lies between its inputs and its outputs"]
    made = {name for node in inside for name in node.output if name}
    own = {node.output[0] for node in inside}
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - weights - set(region.inputs)
    problems = [
        f"the model's input '{name}' enters too, read by '{node.name or node.op_type}': name it as an input, or a "
        "tensor on the way from it"
        for node in inside
        for name in _read(node)
        if name in inputs
    ]
    used = {name for node in inside for name in _read(node)}
    problems += [
        f"the input '{name}' leads to none of the outputs: leave it out" for name in region.inputs if name not in used
    ]
    outside = [node for node in graph.node if node.output[0] not in own]
    problems += [
        f"'{name}' leaves too, read by '{node.name or node.op_type}': name it as an output"
        for node in outside
        for name in _read(node)
        if name in made and name not in region.outputs
    ]
    problems += [
        f"'{value.name}' leaves too, as an output of the model: name it as an output"
        for value in graph.output
        if value.name in made and value.name not in region.outputs
    ]
    return list(dict.fromkeys(problems))


def _values(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}


def _border(known: dict[str, onnx.ValueInfoProto], name: str, rates: Rates) -> onnx.ValueInfoProto:
    """Return what is known of a tensor, every size that is not a number a dynamic one."""
    value = known.get(name)
    if value is None or not value.type.tensor_type.HasField("shape") or not value.type.tensor_type.elem_type:
        raise TeacherError(
            f"the number of axes of '{name}' is not known: onnx cannot infer it. Name another tensor close by."
        )
    sizes: list[int | str] = []
    for axis, size in enumerate(value.type.tensor_type.shape.dim):
        rate = rates[name][axis] if name in rates else 1
        axis_name = f"{name}_axis_{axis}"
        sizes.append(
            size.dim_value if size.HasField("dim_value") else axis_name if rate == 1 else f"{rate}*{axis_name}"
        )
    return onnx.helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, sizes)


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _at_opset(student: onnx.ModelProto, version: int) -> onnx.ModelProto:
    if _opset(student) == version:
        copy = onnx.ModelProto()
        copy.CopyFrom(student)
        return copy
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(student, version)
    except Exception as error:
        raise TeacherError(f"the student cannot be written in operator set {version}: {error}") from error
    return converted


def _name_apart(student: onnx.GraphProto, region: Region) -> None:
    """Give a student's tensors and nodes names that nothing else in the model has, but for the border's tensors."""
    border = set(region.inputs) | set(region.outputs)
    rename_tensors(student, lambda name: name if name in border else f"{PREFIX}/{name}")
    for at, node in enumerate(student.node):
        node.name = f"{PREFIX}/{node.name or f'{node.op_type}_{at}'}"


def _sorted(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes so that each comes after those whose outputs it reads, and else in the given order."""
    makers = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    done: set[int] = set()
    ordered: list[onnx.NodeProto] = []
    for first in range(len(nodes)):
        stack = [first]
        while stack:
            at = stack[-1]
            missing = [makers[name] for name in _read(nodes[at]) if name in makers and makers[name] not in done]
            if at in done:
                stack.pop()
            elif missing:
                stack += missing
            else:
                stack.pop()
                done.add(at)
                ordered.append(nodes[at])
    return ordered
