"""What in a graph does not depend on its inputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from compressor.graph_editing import layer_name, module_of
from compressor.strategy import Finding


def constant_values(graph: GraphModule) -> dict[Node, Tensor]:
    """Return the tensors that nodes hand out whatever the inputs are: initializers, and what is computed of them."""
    values: dict[Node, Tensor] = {}
    for node in graph.graph.nodes:
        given = _given(graph, node)
        value = _computed(graph, node, values) if given is None else given
        if value is not None:
            values[node] = value
    return values


def fold_constants(graph: GraphModule) -> list[Finding]:
    """Compute float constants once and for all, such as a weight that is a gain times a direction (arXiv 1602.07868).

    What has more values than it is made of, such as an expanded constant, stays as it is.
    """
    values = constant_values(graph)
    findings: list[Finding] = []
    for node, value in values.items():
        read = any(user not in values for user in node.users)
        if read and node.all_input_nodes and value.is_floating_point():
            operations, given = _made_of(node)
            if value.numel() <= max(values[each].numel() for each in given):
                _replace_with_constant(graph, node, value)
                findings.append(Finding(f"{len(operations)} operations on constants computed", layer_name(node)))
    return findings


def drop_unread(graph: GraphModule) -> None:
    """Delete the tensors that no node reads any more, so that they do not count as weights."""
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    for name in [name for name, _ in (*graph.named_buffers(), *graph.named_parameters())]:
        owner, _, leaf = name.rpartition(".")
        if name not in read and not any(owner == each or owner.startswith(f"{each}.") for each in called):
            delattr(graph.get_submodule(owner), leaf)


def _given(graph: GraphModule, node: Node) -> Tensor | None:
    """Return the value of an initializer, or of an ONNX `Constant`."""
    value = None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(graph)
    elif node.op == "call_module" and not node.args and not node.kwargs:
        value = getattr(module_of(graph, node), "value", None)
    return value.detach() if isinstance(value, Tensor) else None


def _computed(graph: GraphModule, node: Node, values: Mapping[Node, Tensor]) -> Tensor | None:
    inputs = node.all_input_nodes
    if node.op not in ("call_module", "call_function", "call_method") or not inputs:
        return None
    if not all(each in values for each in inputs):
        return None
    first, second = _run(graph, node, values), _run(graph, node, values)
    # Random numbers differ from one time to the next.
    same = isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)
    return first if same else None


def _run(graph: GraphModule, node: Node, values: Mapping[Node, Tensor]) -> Tensor | None:
    with torch.no_grad():
        return evaluated(graph, node, values)


def evaluated(graph: nn.Module, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
    """Return what a node makes of the values of its inputs."""
    args = map_arg(node.args, lambda each: values[each])
    kwargs = map_arg(node.kwargs, lambda each: values[each])
    if node.op == "call_module":
        made: Tensor = graph.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_method":
        made = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    elif callable(node.target):
        made = node.target(*args, **kwargs)
    else:
        raise TypeError(f"{node.op} computes nothing")
    return made


def _replace_with_constant(graph: GraphModule, node: Node, value: Tensor) -> None:
    name = f"{node.name}_value"
    graph.register_buffer(name, value.clone())
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(name)
    node.replace_all_uses_with(constant)


def _made_of(node: Node) -> tuple[set[Node], set[Node]]:
    """Return the operations that a constant is computed by, and the constants that those start at."""
    operations: set[Node] = set()
    given: set[Node] = set()
    stack = [node]
    while stack:
        each = stack.pop()
        (operations if each.all_input_nodes else given).add(each)
        stack += [read for read in each.all_input_nodes if read not in operations]
    return operations, given
