"""Small, safe steps on a `torch.fx.GraphModule`: look up, replace, insert, copy, clean."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compressor.errors import SelectionError
from compressor.named_options import did_you_mean
from compressor.tensor_spec import TensorSpec


def module_of(graph: GraphModule, node: object) -> nn.Module | None:
    """Return the module that a node calls, or None for any other node."""
    if isinstance(node, Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def module_nodes(graph: GraphModule, *kinds: type[nn.Module]) -> Iterator[tuple[Node, nn.Module]]:
    """Yield the nodes that call a module of one of `kinds` (subclasses too), in execution order."""
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        if isinstance(module, kinds):
            yield node, module


def layer_name(node: Node) -> str:
    """Return the name of a node in recipes, reports and errors: the teacher's own, such as `ups/0/ConvTranspose`."""
    return str(node.target) if node.op == "call_module" else node.name


def replace_module(graph: GraphModule, node: Node, module: nn.Module) -> None:
    """Let `node` call `module` in place of what it called; the name stays."""
    path, _, leaf = str(node.target).rpartition(".")
    parent = graph.get_submodule(path)
    setattr(parent, leaf, module)


def replace_with_chain(graph: GraphModule, node: Node, modules: Mapping[str, nn.Module]) -> None:
    """Replace a module call by modules one after the other, each named after the node with its suffix."""
    replace_with_sum(graph, node, [modules])


def replace_with_sum(graph: GraphModule, node: Node, chains: Sequence[Mapping[str, nn.Module]]) -> None:
    """Replace a module call by the sum of chains of modules, each named after the node with its suffix."""
    terms: list[Node] = []
    with graph.graph.inserting_before(node):
        for chain in chains:
            value = node.all_input_nodes[0]
            for suffix, module in chain.items():
                name = f"{layer_name(node)}{suffix}"
                graph.add_submodule(name, module)
                value = graph.graph.call_module(name, (value,))
            terms.append(value)
        total = terms[0]
        for term in terms[1:]:
            total = graph.graph.call_function(operator.add, (total, term))
    node.replace_all_uses_with(total)
    graph.graph.erase_node(node)


def placeholders(graph: GraphModule) -> list[Node]:
    """Return the input nodes in order."""
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def output_nodes(graph: GraphModule) -> list[Node]:
    """Return the nodes whose values the graph returns, in order."""
    returned = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    return list(returned) if isinstance(returned, list | tuple) else [returned]


def input_specs(graph: GraphModule) -> tuple[TensorSpec, ...]:
    """Return the specs of the inputs, as teacher loading or a strategy left them on the placeholders."""
    return tuple(node.meta["tensor_spec"] for node in placeholders(graph))


def output_specs(graph: GraphModule) -> tuple[TensorSpec, ...]:
    """Return the specs of the outputs."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return tuple(output.meta["tensor_specs"])


def clean(graph: GraphModule) -> GraphModule:
    """Drop what nothing uses any more, check the graph and compile it; returns the same object."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


def copy_graph(graph: GraphModule) -> GraphModule:
    """Return an independent copy: no weight is shared with the original."""
    return copy.deepcopy(graph)


def named_weights(graph: nn.Module) -> dict[str, Tensor]:
    """Return every weight once: parameters, and float buffers of more than one value; shared ones count once."""
    weights: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        identity = (tensor.data_ptr(), tuple(tensor.shape))
        is_weight = isinstance(tensor, nn.Parameter) or (tensor.is_floating_point() and tensor.numel() > 1)
        if is_weight and identity not in seen:
            seen.add(identity)
            weights[name] = tensor
    return weights


def parameter_count(graph: nn.Module) -> int:
    """Count the weights of a model, a shared one once."""
    return sum(tensor.numel() for tensor in named_weights(graph).values())


def select(names: list[str], targets: tuple[str, ...], ignore: tuple[str, ...]) -> list[str]:
    """Return the names that match a pattern of `targets` and none of `ignore` (shell-style, `*` and `?`).

    Raises:
        SelectionError: a pattern matches no name.
    """
    for pattern in (*targets, *ignore):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SelectionError(f"the pattern '{pattern}' matches no layer{did_you_mean(pattern, names)}")
    return [
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in targets)
        and not any(fnmatchcase(name, pattern) for pattern in ignore)
    ]


def fit_shape(value: Tensor, rank: int) -> Tensor:
    """Add axes of size one after the batch axis, or take them away, until `value` has `rank` axes."""
    while value.dim() < rank:
        value = value.unsqueeze(1)
    while value.dim() > rank and value.shape[1] == 1:
        value = value.squeeze(1)
    return value


def fitted_inputs(graph: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give a teacher's inputs its student's shapes: a strategy may have added axes of size one after the batch axis."""
    return tuple(fit_shape(value, len(spec.shape)) for value, spec in zip(inputs, input_specs(graph), strict=True))


def run_graph(graph: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run a graph and return its outputs as a tuple, whatever it returns."""
    result = graph(*inputs)
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def feed(graph: GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run a student on its teacher's inputs."""
    with torch.no_grad():
        return run_graph(graph, fitted_inputs(graph, inputs))
