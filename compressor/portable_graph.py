"""A graph as it goes to another process of the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule

KEPT = ("tensor_spec", "tensor_specs")
"""What of a node's `meta` the project's own code reads."""


@dataclass(frozen=True)
class PortableGraph:
    """A graph that survives pickling: torch traces its code anew, which loses the names of nodes and what they mean."""

    graph: GraphModule
    names: tuple[str, ...]
    meta: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, graph: GraphModule) -> PortableGraph:
        """Wrap a graph; nothing is copied."""
        nodes = list(graph.graph.nodes)
        meta = tuple({key: node.meta[key] for key in KEPT if key in node.meta} for node in nodes)
        return cls(graph, tuple(node.name for node in nodes), meta)

    def unpacked(self) -> GraphModule:
        """Return the graph with its nodes' names and meanings."""
        for node, name, meta in zip(self.graph.graph.nodes, self.names, self.meta, strict=True):
            node.name = name
            node.meta.update(meta)
        self.graph.recompile()
        return self.graph
