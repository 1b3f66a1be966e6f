"""Least squares by streaming normal equations: what a layer reads against what it should put out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class NormalEquations:
    """Sums over rows seen so far, in float64; memory does not grow with their number.

    A column of ones is added to what is read: the bias is solved for with the weights.
    """

    gram: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """Xᵀ X, (columns + 1, columns + 1)."""
    cross: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """Xᵀ Y, (columns + 1, outputs)."""
    energy: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """Sum of Y², (outputs,)."""
    rows: int = 0

    def add(self, read: Tensor, wanted: Tensor) -> None:
        """Add rows of what is read (rows, columns) and what is wanted there (rows, outputs)."""
        read = torch.cat([read, read.new_ones(len(read), 1)], 1)
        self.gram = self.gram + (read.T @ read).double()
        self.cross = self.cross + (read.T @ wanted).double()
        self.energy = self.energy + wanted.double().square().sum(0)
        self.rows += len(read)

    def solve(self, prior: Tensor, ridge: float) -> Tensor:
        """Return the weights (columns + 1, outputs) of least squared error, drawn towards `prior`.

        `ridge` is relative to the mean energy of the columns.
        """
        missing = self.cross - self.gram @ prior.double()
        regular = self.gram.clone()
        regular.diagonal().add_(ridge * self.gram.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(regular)
        step: Tensor = torch.linalg.solve(regular, missing) if failed else torch.cholesky_solve(missing, factor)
        return prior.double() + step

    def error(self, weights: Tensor) -> Tensor:
        """Return the squared error of weights (columns + 1, outputs), by output and summed over rows."""
        weights = weights.double()
        found: Tensor = self.energy - 2 * (weights * self.cross).sum(0) + (weights * (self.gram @ weights)).sum(0)
        return found.clamp_min(0.0)

    def relative_error(self, weights: Tensor) -> float:
        """Return the squared error as a share of the wanted energy."""
        return float(self.error(weights).sum() / self.energy.sum().clamp_min(1e-300))
