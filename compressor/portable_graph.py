"""A graph as it goes to another process of the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

KEPT = ("tensor_spec", "tensor_specs")
"""What of a node's `meta` the project's own code reads."""


class _Reference(NamedTuple):
    """A node that another one reads, by its name."""

    name: str


@dataclass
class PortableGraph:
    """A graph that survives pickling node by node.

    By itself a graph module is pickled as code, which torch traces anew: names of nodes, what they mean, and which of
    them read one value are lost.
    """

    graph: GraphModule

    def __getstate__(self) -> dict[str, Any]:
        from torch import nn
        from torch.fx.node import map_arg

        root = nn.Module()
        _take_over(root, self.graph)
        nodes = [
            (
                node.op,
                node.target,
                map_arg(node.args, lambda read: _Reference(read.name)),
                map_arg(node.kwargs, lambda read: _Reference(read.name)),
                node.name,
                {key: node.meta[key] for key in KEPT if key in node.meta},
            )
            for node in self.graph.graph.nodes
        ]
        return {"root": root, "nodes": nodes, "training": self.graph.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from torch.fx import Graph, GraphModule

        graph = Graph()
        made: dict[str, Any] = {}
        for op, target, args, kwargs, name, meta in state["nodes"]:
            node = graph.create_node(op, target, _with_nodes(args, made), _with_nodes(kwargs, made), name)
            # The graph may think that a name is taken.
            node.name = name
            node.meta.update(meta)
            made[name] = node
        self.graph = GraphModule(state["root"], graph)
        # All of it, in the same order: a graph module keeps what its nodes name.
        _take_over(self.graph, state["root"])
        self.graph.train(state["training"])


def _take_over(module: nn.Module, source: nn.Module) -> None:
    for kind in ("_modules", "_parameters", "_buffers"):
        held = getattr(module, kind)
        held.clear()
        held.update(getattr(source, kind))


def _with_nodes(value: Any, made: dict[str, Any]) -> Any:
    """Return arguments with nodes in place of references."""
    if isinstance(value, _Reference):
        return made[value.name]
    if isinstance(value, dict):
        return {key: _with_nodes(each, made) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(*(_with_nodes(each, made) for each in (value.start, value.stop, value.step)))
    if isinstance(value, tuple | list):
        return type(value)(_with_nodes(each, made) for each in value)
    return value
