"""Other names for the tensors of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx


def rename_tensors(graph: onnx.GraphProto, renamed: Callable[[str], str]) -> None:
    """Give every tensor of a graph, its subgraphs' among them, the name that a function makes of its own."""
    for node in graph.node:
        for names in (node.input, node.output):
            made = [renamed(name) if name else "" for name in names]
            del names[:]
            names.extend(made)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename_tensors(attribute.g, renamed)
            for inner in attribute.graphs:
                rename_tensors(inner, renamed)
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        named.name = renamed(named.name)


def rename_border(graph: onnx.GraphProto, wanted: Mapping[str, str]) -> None:
    """Give inputs and outputs the wanted names; another tensor that has one of them gives way."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(wanted.values())
    names = dict(wanted)
    for name in sorted(set(wanted.values()) & taken - set(wanted)):
        other = f"{name}_inner"
        while other in taken:
            other += "_"
        taken.add(other)
        names[name] = other
    rename_tensors(graph, lambda name: names.get(name, name))
