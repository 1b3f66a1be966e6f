"""`If` and `Loop` that constants decide, written out: a traced model often holds what its sizes have settled already.

A branch is settled by constants, by sizes that are known, and by what is computed from both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MOST_ELEMENTS = 64
"""Larger constants decide nothing; they are weights."""

MOST_NODES = 20_000
"""That a loop may become."""

ROUNDS = 16
"""How deep branches may lie in each other."""

ARITHMETIC = frozenset(
    {"Add", "And", "Cast", "Concat", "Constant", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity"}
    | {"Less", "LessOrEqual", "Mod", "Mul", "Neg", "Not", "Or", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size"}
    | {"Slice", "Squeeze", "Sub", "Unsqueeze", "Where", "Xor"}
)
"""Operators that sizes are computed with."""

Array = NDArray[Any]


def decided(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which `If` and `Loop` are written out where constants decide them; others stay."""
    for _ in range(ROUNDS):
        if not any(node.op_type in ("If", "Loop") for node in model.graph.node):
            break
        known = _Known(model)
        written = [known.written(node) for node in model.graph.node]
        if all(each is None for each in written):
            break
        made = onnx.ModelProto()
        made.CopyFrom(model)
        del made.graph.node[:]
        for node, instead in zip(model.graph.node, written, strict=True):
            made.graph.node.extend([node] if instead is None else instead.nodes)
            made.graph.initializer.extend([] if instead is None else instead.weights)
        model = made
    return model


@dataclass
class _Written:
    """What stands in a node's place."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)


class _Known:
    """Values of a model that do not depend on its inputs, and what follows from them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opsets = list(model.opset_import)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.shapes = {
            value.name: [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            for tensor in [value.type.tensor_type]
            if tensor.HasField("shape")
        }
        self.shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        self.values: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if np.prod(tensor.dims) <= MOST_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL
        }
        self.partial: dict[str, list[int | None]] = {}
        """Shapes of which some sizes are known."""
        for node in model.graph.node:
            self._learn(node)

    def _learn(self, node: NodeProto) -> None:
        """Compute what a node puts out, if it is small and all that it reads is known."""
        if node.op_type not in ARITHMETIC or node.domain or len(node.output) != 1:
            return
        (name,) = node.output
        if node.op_type == "Shape":
            start, end = (_attribute(node, key, default) for key, default in (("start", 0), ("end", None)))
            if node.input[0] in self.shapes:
                self.partial[name] = self.shapes[node.input[0]][start:end]
        elif node.op_type in ("Gather", "Slice") and node.input[0] in self.partial:
            self._pick(node, name)
        elif all(each in self.values for each in node.input if each):
            found = self._computed(node)
            if found is not None and found.size <= MOST_ELEMENTS:
                self.values[name] = found
        sizes = self.partial.get(name)
        if sizes is not None and None not in sizes:
            self.values[name] = np.array(sizes, np.int64)

    def _pick(self, node: NodeProto, name: str) -> None:
        """Learn one size, or several, of a shape that is known in part."""
        sizes = self.partial[node.input[0]]
        # Unknown sizes are marked by a number that no size is.
        marked = np.array([-1 if size is None else size for size in sizes], np.int64)
        given = {node.input[0]: marked, **{each: self.values[each] for each in node.input[1:] if each in self.values}}
        found = self._computed(node, given) if all(each in given for each in node.input if each) else None
        if found is None:
            return
        if found.ndim == 1:
            self.partial[name] = [None if size == -1 else int(size) for size in found]
        elif not (found == -1).any():
            self.values[name] = found

    def _computed(self, node: NodeProto, given: Mapping[str, Array] | None = None) -> Array | None:
        values = self.values if given is None else given
        names = [name for name in dict.fromkeys(node.input) if name]
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
                for name in names
            ],
            [onnx.ValueInfoProto(name=node.output[0])],
        )
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self.opsets))
            (found,) = evaluator.run(None, {name: values[name] for name in names})
        except Exception:  # What cannot be computed decides nothing.
            return None
        return np.asarray(found)

    def written(self, node: NodeProto) -> _Written | None:
        """Return what stands in the place of a node that is decided; None for any other."""
        kinds = {"If": self._branch, "Loop": self._unrolled}
        if node.domain or node.op_type not in kinds:
            return None
        try:
            return kinds[node.op_type](node)
        except (ValueError, IndexError):  # Its inputs and outputs are not those of its body; it is refused by name.
            return None

    def _branch(self, node: NodeProto) -> _Written | None:
        condition = self.values.get(node.input[0])
        if condition is None:
            return None
        branch = _attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch", None)
        made = _Written()
        made.weights, made.nodes = _placed(branch, f"{_label(node)}/", {}, node.output)
        return made

    def _unrolled(self, node: NodeProto) -> _Written | None:
        """Write out as many turns as a loop has, if it cannot end before."""
        count, condition = (self.values.get(name) if name else None for name in (*node.input, "", "")[:2])
        body: onnx.GraphProto = _attribute(node, "body", None)
        goes_on = not node.input[1:2] or not node.input[1] or (condition is not None and bool(condition.reshape(-1)[0]))
        if count is None or not goes_on or not _never_ends_itself(body):
            return None
        turns = int(count.reshape(-1)[0])
        if turns * (_size(body) + len(body.output)) > MOST_NODES:
            return None
        return _turns(node, body, max(0, turns))


def _turns(node: NodeProto, body: onnx.GraphProto, turns: int) -> _Written | None:
    carried = list(node.input[2:])
    stacked: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
    if not turns and stacked:
        return None
    made = _Written()
    for turn in range(turns):
        prefix = f"{_label(node)}/{turn}/"
        counter, going = f"{prefix}/turn", f"{prefix}/going"
        made.weights.append(numpy_helper.from_array(np.asarray(turn, np.int64), counter))
        made.weights.append(numpy_helper.from_array(np.asarray(True), going))
        given = dict(zip([value.name for value in body.input], [counter, going, *carried], strict=True))
        ends = [f"{prefix}{value.name}/end" for value in body.output]
        weights, nodes = _placed(body, prefix, given, ends)
        made.weights += weights
        made.nodes += nodes
        carried = ends[1 : 1 + len(carried)]
        for names, end in zip(stacked, ends[1 + len(carried) :], strict=True):
            names.append(end)
    for name, output in zip(carried, node.output, strict=False):
        made.nodes += [_identity(name, output)] if output else []
    for names, output in zip(stacked, node.output[len(carried) :], strict=False):
        made.nodes += _stack(names, output, made.weights) if output else []
    return made


def _stack(names: Iterable[str], output: str, weights: list[TensorProto]) -> Iterator[NodeProto]:
    """Yield nodes that put values on top of each other along a new first axis."""
    axes = f"{output}/axes"
    weights.append(numpy_helper.from_array(np.array([0], np.int64), axes))
    layers = [(name, f"{name}/layer") for name in names]
    for name, layer in layers:
        yield helper.make_node("Unsqueeze", [name, axes], [layer], name=f"{layer}/Unsqueeze")
    yield helper.make_node("Concat", [layer for _, layer in layers], [output], name=f"{output}/Concat", axis=0)


def _never_ends_itself(body: onnx.GraphProto) -> bool:
    """Say whether a loop's body hands on its condition, or sets it to true."""
    name, makers = body.output[0].name, {output: node for node in body.node for output in node.output}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    if name == body.input[1].name:
        return True
    stored = {tensor.name: tensor for tensor in body.initializer}
    if name in makers and makers[name].op_type == "Constant":
        stored[name] = _attribute(makers[name], "value", None)
    return stored.get(name) is not None and bool(numpy_helper.to_array(stored[name]).reshape(-1)[0])


def _placed(
    body: onnx.GraphProto, prefix: str, given: Mapping[str, str], outputs: Iterable[str]
) -> tuple[list[TensorProto], list[NodeProto]]:
    """Return a subgraph's weights and nodes with names of their own; what it reads from outside keeps its name."""
    own = {name for node in body.node for name in node.output if name} | {each.name for each in body.initializer}
    names = {name: f"{prefix}{name}" for name in own} | dict(given)
    weights = []
    for tensor in body.initializer:
        copy = TensorProto.FromString(tensor.SerializeToString())
        copy.name = names[tensor.name]
        weights.append(copy)
    nodes = [_renamed(node, names, prefix) for node in body.node]
    ends = zip(body.output, outputs, strict=True)
    return weights, nodes + [_identity(names.get(value.name, value.name), output) for value, output in ends if output]


def _renamed(node: NodeProto, names: Mapping[str, str], prefix: str) -> NodeProto:
    made: NodeProto = NodeProto.FromString(node.SerializeToString())
    made.name = f"{prefix}{node.name or next(filter(None, node.output), node.op_type)}"
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for attribute in made.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _rename_free(attribute.g, names, prefix)
    return made


def _rename_free(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    """Rename what a subgraph reads from around it."""
    own = {name for node in graph.node for name in node.output} | {each.name for each in graph.input}
    own |= {each.name for each in graph.initializer}
    outer = {name: new for name, new in names.items() if name not in own}
    nodes = [_renamed(node, outer, prefix) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)


def _identity(source: str, output: str) -> NodeProto:
    made: NodeProto = helper.make_node("Identity", [source], [output], name=f"{output}/Identity")
    return made


def _label(node: NodeProto) -> str:
    """Return what no other node has: the first of a node's outputs."""
    return str(next(filter(None, node.output), node.name))


def _size(graph: onnx.GraphProto) -> int:
    """Return the number of nodes of a graph and of those inside it."""
    inner = [each.g for node in graph.node for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
    return len(graph.node) + sum(_size(each) for each in inner)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
