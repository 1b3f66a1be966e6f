"""The rectifier that is nearest to an activation over what the activation reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor_simplify.activation_patterns import Activation


@dataclass(eq=False)
class RectifierFit:
    """Sums over what an activation read, x, and put out, y, in float64."""

    energy: float = 0.0
    """Of y²."""
    error_above_zero: float = 0.0
    """Of (y - x)² where x is not negative: a rectifier passes it."""
    energy_below_zero: float = 0.0
    cross_below_zero: float = 0.0
    """Of x y where x is negative."""
    square_below_zero: float = 0.0
    """Of x² there."""

    def add(self, read: Tensor, made: Tensor) -> None:
        """Add what was read and put out, of one shape."""
        x, y = read.double(), made.double()
        below = x < 0
        self.energy += float(y.square().sum())
        self.error_above_zero += float((y - x)[~below].square().sum())
        self.energy_below_zero += float(y[below].square().sum())
        self.cross_below_zero += float((x * y)[below].sum())
        self.square_below_zero += float(x[below].square().sum())

    @property
    def best_slope(self) -> float:
        """Slope below zero of the least squared error."""
        return self.cross_below_zero / self.square_below_zero if self.square_below_zero else 0.0

    def relative_error(self, slope: float) -> float:
        """Return the error of a rectifier as a share of the activation's energy."""
        below = self.energy_below_zero - 2 * slope * self.cross_below_zero + slope**2 * self.square_below_zero
        return (self.error_above_zero + max(0.0, below)) / max(self.energy, 1e-300)


def rectifier_fits(
    graph: GraphModule, activations: Sequence[Activation], inputs: Iterable[tuple[Tensor, ...]]
) -> list[RectifierFit]:
    """Run a graph on inputs of its own shapes and return a fit for each activation."""
    watching = _Watching(graph, activations)
    with torch.no_grad():
        for values in inputs:
            watching.run(*values)
    return watching.fits


class _Watching(Interpreter):
    def __init__(self, graph: GraphModule, activations: Sequence[Activation]) -> None:
        super().__init__(graph)
        self.fits = [RectifierFit() for _ in activations]
        self.by_output = {each.output: (each.source, fit) for each, fit in zip(activations, self.fits, strict=True)}
        self.sources = {each.source for each in activations}
        self.read: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n in self.by_output:
            source, fit = self.by_output[n]
            fit.add(self.read[source], value)
        if isinstance(value, Tensor) and n in self.sources:
            self.read[n] = value
        return value
