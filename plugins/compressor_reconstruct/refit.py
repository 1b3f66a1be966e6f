"""Solve for the weights of the layers that make up one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.normal_equations import NormalEquations
from compressor.unfolding import matrix, output_positions, rows_at, set_matrix, unfolded
from compressor_reconstruct.sites import Site

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Refit:
    """What a refit came to: error energy as a share of the wanted energy, on samples held out."""

    before: float
    after: float
    ridge: float | None
    """None: nothing that was solved for was better than the weights as they are."""


@dataclass(frozen=True)
class Evidence:
    """What the layers of a site read and what they should put out, on one sample."""

    read: tuple[Tensor, ...]
    """By term, (batch, channels, …)."""
    now: Tensor
    """The site's tensor as the student computes it."""
    wanted: Tensor
    """The same as the teacher computes it."""


class SiteWeights:
    """The weights of a site's layers as one matrix (columns + 1, outputs); the last row is the bias."""

    def __init__(self, student: GraphModule, site: Site) -> None:
        self.factors = [term.factor for term in site.terms]
        self.modules = [student.get_submodule(str(term.node.target)) for term in site.terms]

    @property
    def has_bias(self) -> bool:
        """Say whether a constant can be part of the outputs."""
        return any(module.bias is not None for module in self.modules)

    def read(self) -> Tensor:
        """Return the weights as they are."""
        parts = [matrix(module)[0].detach().double() for module in self.modules]
        bias = torch.zeros(parts[0].shape[1], dtype=torch.float64)
        for module, factor in zip(self.modules, self.factors, strict=True):
            if isinstance(module.bias, Tensor):
                bias += factor * module.bias.detach().double()
        return torch.cat([*parts, bias[None]])

    def write(self, values: Tensor) -> None:
        """Write weights back into the layers."""
        start = 0
        left = values[-1].clone()
        biased = [module for module in self.modules if isinstance(module.bias, Tensor)]
        for module, factor in zip(self.modules, self.factors, strict=True):
            columns = matrix(module).shape[1]
            set_matrix(module, values[start : start + columns][None])
            start += columns
            if isinstance(module.bias, Tensor):
                # Each carries its part of the constant.
                with torch.no_grad():
                    module.bias.copy_(left / (factor * len(biased)))

    def rows(self, read: Sequence[Tensor], positions: Tensor) -> Tensor:
        """Return what the weights meet: (rows, columns)."""
        parts = [
            factor * unfolded(module, values, positions)
            for module, values, factor in zip(self.modules, read, self.factors, strict=True)
        ]
        return torch.cat(parts, 1)


def refit(weights: SiteWeights, evidence: Sequence[Evidence], positions: int) -> Refit:
    """Solve for the weights and write them, if samples held out prefer them.

    Args:
        weights: the layers.
        evidence: samples; every third is held out.
        positions: output positions of a sample that are looked at, about.
    """
    now = weights.read()
    fit, held = NormalEquations(), NormalEquations()
    for number, each in enumerate(evidence):
        at = output_positions(each.now, weights.modules[0], positions)
        rows = weights.rows(each.read, at)
        ours = rows @ now[:-1].float() + now[-1].float()
        missing = rows_at(each.wanted, weights.modules[0], at) - rows_at(each.now, weights.modules[0], at)
        (held if number % 3 == 2 else fit).add(rows, ours + missing)
    best, ridge, before = now, None, held.relative_error(now)
    lowest = before
    for strength in RIDGES:
        solved = fit.solve(now, strength)
        if not weights.has_bias:
            solved[-1] = 0.0
        error = held.relative_error(solved)
        if error < lowest:
            best, ridge, lowest = solved, strength, error
    if ridge is not None:
        weights.write(best)
    return Refit(before, lowest, ridge)
