"""Other names for the tensors of an ONNX graph."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping

import onnx
from torch import nn
from torch.fx import GraphModule

RESERVED = frozenset({*keyword.kwlist, *dir(nn.Module()), *dir(GraphModule), "initializers"})
"""Names that code, a module or onnx2torch has other uses for."""


def python_safe(name: str) -> str:
    """Return a name without what torch.fx, which writes it into code, would take for more than a name.

    Dots part the names of modules; quotes, backslashes and line ends would end the text that holds it.
    """
    safe = re.sub(r"[.\"\\\x00-\x1f\x7f-\x9f\u2028\u2029]", "/", name)
    return f"{safe}_" if safe in RESERVED else safe


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
