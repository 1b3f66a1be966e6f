"""Operations that scale and shift by constants: batch normalisation, and arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.graph_editing import module_of

_ARITHMETIC: dict[Any, str] = {
    **{method: method for method in ("add", "sub", "mul", "div")},
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    torch.add: "add",
    torch.sub: "sub",
    torch.mul: "mul",
    torch.div: "div",
}


@dataclass(frozen=True)
class ScaleShift:
    """`output = scale * source + shift`; both broadcast against the source, in float64."""

    source: Node
    scale: Tensor
    shift: Tensor

    @property
    def idle(self) -> bool:
        """Say whether it changes nothing."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    def by_channel(self, rank: int, axis: int, channels: int) -> tuple[Tensor, Tensor] | None:
        """Return scale and shift, both (channels,), or None where they vary along another axis than `axis`."""
        scale, shift = (_by_channel(each, rank, axis, channels) for each in (self.scale, self.shift))
        return None if scale is None or shift is None else (scale, shift)


def scale_and_shift(graph: GraphModule, node: Node, rank: int, constants: Mapping[Node, Tensor]) -> ScaleShift | None:
    """Return what a node scales and shifts by, or None if it does something else.

    Args:
        graph: the graph that the node is in.
        node: any node.
        rank: number of axes of what it puts out.
        constants: values of the nodes that do not depend on the inputs.
    """
    module: Any = module_of(graph, node)
    if isinstance(module, _BatchNorm):
        affine = (module.weight, module.bias) if module.affine else (1.0, 0.0)
        return _normalisation(node, rank, [*affine, module.running_mean, module.running_var], module.eps)
    if type(module).__name__ == "OnnxBatchNorm":
        # onnx2torch's, where the statistics are tensors of the graph.
        statistics = [constants.get(each) for each in node.args[1:] if isinstance(each, Node)]
        return _normalisation(node, rank, statistics, module.epsilon)
    return _arithmetic(node, _kind(node, module), constants)


def _normalisation(node: Node, rank: int, statistics: Sequence[Any], epsilon: float) -> ScaleShift | None:
    if len(statistics) != 4 or any(each is None for each in statistics) or not isinstance(node.args[0], Node):
        return None
    weight, bias, mean, variance = statistics
    scale = weight / (variance.double() + epsilon).sqrt()
    shift = bias - mean.double() * scale
    sizes = (-1, *(1,) * (rank - 2))
    return ScaleShift(node.args[0], scale.detach().reshape(sizes), shift.detach().reshape(sizes))


def _kind(node: Node, module: Any) -> str:
    """Return the name of an arithmetic operation of two operands; nothing for any other node."""
    if node.kwargs or len(node.args) != 2:
        return ""
    if node.op in ("call_function", "call_method"):
        return _ARITHMETIC.get(node.target, "")
    if type(module).__name__ == "OnnxBinaryMathOperation" and module.broadcast is None:
        return str(module.math_op_function.__name__).removeprefix("_onnx_")
    return ""


def _arithmetic(node: Node, kind: str, constants: Mapping[Node, Tensor]) -> ScaleShift | None:
    operands = [_constant(each, constants) for each in node.args]
    if not kind or sum(each is None for each in operands) != 1:
        return None
    position = next(position for position, each in enumerate(operands) if each is None)
    source, constant = node.args[position], operands[1 - position]
    if not isinstance(source, Node) or constant is None or (kind == "div" and position == 1):
        return None
    one, nothing = constant.new_ones(()), constant.new_zeros(())
    if kind in ("mul", "div"):
        return ScaleShift(source, constant if kind == "mul" else 1 / constant, nothing)
    if kind == "sub" and position == 1:
        return ScaleShift(source, -one, constant)
    return ScaleShift(source, one, constant if kind == "add" else -constant)


def _constant(operand: object, constants: Mapping[Node, Tensor]) -> Tensor | None:
    if isinstance(operand, float | int):
        return torch.tensor(operand, dtype=torch.float64)
    value = constants.get(operand) if isinstance(operand, Node) else None
    return None if value is None else value.double()


def _by_channel(constant: Tensor, rank: int, axis: int, channels: int) -> Tensor | None:
    if constant.dim() > rank:
        return None
    sizes = [1] * (rank - constant.dim()) + list(constant.shape)
    along = sizes.pop(axis)
    if any(size != 1 for size in sizes) or along not in (1, channels):
        return None
    return constant.reshape(-1).expand(channels)
