"""Plainer graphs from onnx2torch's: arithmetic as torch functions, scalar constants as numbers, no idle steps.

Strategies look for shapes such as "branches, summed, scaled"; after this there is one way to write each of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compressor.graph_editing import clean, module_of

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "_onnx_div": operator.truediv,
}


def normalise(graph: GraphModule) -> GraphModule:
    """Rewrite in place, exactly: inline scalar constants, call torch's arithmetic, drop `x + 0` and identities."""
    scalars = _scalar_constants(graph)
    for node in list(graph.graph.nodes):
        function = _arithmetic(module_of(graph, node))
        if function is not None:
            _call_function(graph, node, function, scalars)
        elif isinstance(module_of(graph, node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is operator.add and 0.0 in node.args[1:]:
            node.replace_all_uses_with(node.args[0])
    return clean(graph)


def _scalar_constants(graph: GraphModule) -> dict[Node, float]:
    """Return the nodes that hand out one float, such as a scale or a divisor."""
    scalars: dict[Node, float] = {}
    for node in graph.graph.nodes:
        value = _constant(graph, node)
        if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point():
            scalars[node] = float(value)
    return scalars


def _constant(graph: GraphModule, node: Node) -> object:
    """Return what a node without inputs hands out: an initializer, or the value of an ONNX `Constant`."""
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(graph)
    return None if node.args else getattr(module_of(graph, node), "value", None)


def _arithmetic(module: nn.Module | None) -> Callable[[Any, Any], Any] | None:
    """Return the torch function of an onnx2torch arithmetic module that broadcasts as torch does."""
    if type(module).__name__ != "OnnxBinaryMathOperation" or getattr(module, "broadcast", None) is not None:
        return None
    function = getattr(module, "math_op_function", None)
    return _ARITHMETIC.get(getattr(function, "__name__", ""))


def _call_function(
    graph: GraphModule, node: Node, function: Callable[[Any, Any], Any], scalars: dict[Node, float]
) -> None:
    operands = tuple(scalars.get(arg, arg) if isinstance(arg, Node) else arg for arg in node.args)
    only_integers_differ = function is operator.truediv and operands == node.args
    if only_integers_differ or not any(isinstance(operand, Node) for operand in operands):
        return
    if function in (operator.add, operator.mul) and not isinstance(operands[0], Node):
        operands = operands[::-1]
    with graph.graph.inserting_before(node):
        plain = graph.graph.call_function(function, operands)
    name = node.name
    node.replace_all_uses_with(plain)
    graph.graph.erase_node(node)
    plain.name = name
