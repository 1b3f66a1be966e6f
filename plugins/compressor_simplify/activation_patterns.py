"""Activations in a graph: as modules, or spelt out in arithmetic as ONNX files have them.

Each stretch of element-wise operations between one node and another is computed on random numbers and compared with
the known activations, so that it does not matter how an exporter spells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from compressor.graph_editing import module_of
from compressor_simplify.constants import constant_values, evaluated

KNOWN: Mapping[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "ELU": (functional.elu,),
    "GELU": (
        functional.gelu,
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "Hardswish": (functional.hardswish,),
    "Mish": (functional.mish,),
    "SELU": (functional.selu,),
    "SiLU": (functional.silu,),
    "Sigmoid": (torch.sigmoid,),
    "Softplus": (functional.softplus,),
    "Softsign": (functional.softsign,),
    "Tanh": (torch.tanh,),
}
"""What activations compute where they have no parameters; those of modules go by their class."""

CLASSES = frozenset((*KNOWN, "CELU"))
"""Modules that are activations by their class, whatever their parameters."""

# fmt: off
ELEMENTWISE_MODULES = CLASSES | {
    "Hardsigmoid", "OnnxBinaryMathOperation", "OnnxErf", "OnnxFunction", "OnnxHardSigmoid", "OnnxNeg", "OnnxPow",
    "OnnxReciprocal", "OnnxSqrt",
}
ELEMENTWISE_FUNCTIONS = frozenset({
    "add", "sub", "mul", "truediv", "div", "neg", "pow", "square", "reciprocal", "sqrt", "exp", "log1p", "sin", "cos",
    "erf", "tanh", "sigmoid", "softplus", "elu", "celu", "selu", "silu", "gelu", "mish", "hardswish", "softsign",
})
# fmt: on
"""Names of functions and methods, whichever of `operator`, `torch` and `torch.nn.functional` they are from."""

LARGEST = 16
"""Operations that an activation is spelt in, at most."""

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Activation:
    """`output` is an activation of `source`, element by element or channel by channel."""

    name: str
    source: Node
    output: Node


def find_activations(graph: GraphModule, shapes: Mapping[Node, torch.Size]) -> list[Activation]:
    """Return the activations of a graph in execution order; none is part of another.

    Args:
        graph: the graph to look through.
        shapes: of what each node puts out on some input; nodes that are missing are not looked at.
    """
    search = _Search(graph, shapes)
    found: list[Activation] = []
    claimed: set[Node] = set()
    # From the end: an activation is found before those that it is made of.
    for node in reversed(graph.graph.nodes):
        match = search.ending_at(node) if node not in claimed else None
        if match is not None:
            activation, inside = match
            found.insert(0, activation)
            claimed |= inside
    return found


class _Search:
    def __init__(self, graph: GraphModule, shapes: Mapping[Node, torch.Size]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.constants = constant_values(graph)
        self.order = {node: position for position, node in enumerate(graph.graph.nodes)}

    def ending_at(self, output: Node) -> tuple[Activation, set[Node]] | None:
        """Return the smallest activation whose value is that of `output`, and its nodes."""
        for source, inside in self._stretches(output):
            if self.shapes.get(source) == self.shapes[output]:
                name = self._name(source, inside)
                if name:
                    return Activation(name, source, output), set(inside)
        return None

    def _stretches(self, output: Node) -> Iterator[tuple[Node, list[Node]]]:
        """Yield growing stretches of element-wise operations, in execution order, that read one node only."""
        inside: list[Node] = []
        frontier = {output}
        while frontier and len(inside) < LARGEST:
            last = max(frontier, key=self.order.__getitem__)
            if last not in self.shapes or not _elementwise(self.graph, last):
                return
            frontier.remove(last)
            frontier |= {each for each in last.all_input_nodes if each not in self.constants}
            inside.insert(0, last)
            if len(frontier) == 1:
                yield next(iter(frontier)), list(inside)

    def _name(self, source: Node, inside: list[Node]) -> str:
        """Return what a stretch computes, or nothing if it is no known activation."""
        kind = type(module_of(self.graph, inside[0])).__name__
        if len(inside) == 1 and kind in CLASSES:
            return kind
        generator = torch.Generator().manual_seed(0)
        read, other = (3 * torch.randn(self.shapes[source], generator=generator) for _ in range(2))
        values = self._values(source, inside, read)
        for name, functions in KNOWN.items():
            if any(_near(values[inside[-1]], function(read)) for function in functions):
                return name
        return "Snake" if self._is_snake(inside, read, values, other, self._values(source, inside, other)) else ""

    def _values(self, source: Node, inside: list[Node], read: Tensor) -> dict[Node, Tensor]:
        values = {**self.constants, source: read}
        with torch.no_grad():
            for node in inside:
                values[node] = evaluated(self.graph, node, values)
        return values

    def _is_snake(
        self, inside: list[Node], read: Tensor, values: dict[Node, Tensor], other: Tensor, others: dict[Node, Tensor]
    ) -> bool:
        """Say whether it is the value and its squared sine over a constant (Snake, arXiv 2006.08195; BigVGAN's too)."""
        sines = [node for node in inside if _is_sine(self.graph, node)]
        if len(sines) != 1:
            return False
        shares = [
            (each[inside[-1]] - x) / each[sines[0]].square().clamp_min(1e-30)
            for each, x in ((values, read), (others, other))
        ]
        clear = (values[sines[0]].abs() > 0.3) & (others[sines[0]].abs() > 0.3)
        return bool(clear.any()) and _near(shares[0][clear], shares[1][clear], 1e-2)


def _near(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)


def _elementwise(graph: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        return type(module_of(graph, node)).__name__ in ELEMENTWISE_MODULES
    return node.op in ("call_function", "call_method") and _called(node) in ELEMENTWISE_FUNCTIONS


def _called(node: Node) -> str:
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))


def _is_sine(graph: GraphModule, node: Node) -> bool:
    function = getattr(module_of(graph, node), "function", None)
    return function is torch.sin or (node.op != "call_module" and _called(node) == "sin")
