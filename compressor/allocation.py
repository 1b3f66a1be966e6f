"""Solve a budget: choose among the candidates of all layers for the least predicted error within the limits.

A pure function of candidates and limits. Each layer takes at most one of its candidates, so this is a multiple-choice
knapsack problem, which scipy's HiGHS solves as a mixed-integer linear programme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from compressor.errors import BudgetError
from compressor.strategy import Candidate

Choice = int | float | str


def allocate(
    candidates: Sequence[Candidate], costs: Mapping[str, float], limits: Mapping[str, float]
) -> dict[str, Choice]:
    """Return a setting for each layer that must change so that every cost comes down to its limit.

    Args:
        candidates: what could be done; `saving` and `costs` share their units.
        costs: what the model costs now, by metric.
        limits: what it may cost, by metric.

    Raises:
        BudgetError: no choice meets the limits; the message says how near the candidates get.
    """
    if all(costs[metric] <= limit for metric, limit in limits.items()):
        return {}
    metrics = list(limits)
    savings = np.array([[candidate.saving.get(metric, 0.0) for candidate in candidates] for metric in metrics])
    needed = np.array([costs[metric] - limits[metric] for metric in metrics])
    _refuse_hopeless(candidates, costs, limits)
    solution = milp(
        c=np.array([candidate.error for candidate in candidates]),
        integrality=np.ones(len(candidates)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(savings, lb=needed), LinearConstraint(_one_per_layer(candidates), ub=1)],
    )
    if solution.x is None:
        raise BudgetError(_shortfall(candidates, costs, limits))
    return {
        candidate.layer: candidate.setting
        for candidate, taken in zip(candidates, solution.x, strict=True)
        if taken > 0.5
    }


def _one_per_layer(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    layers = sorted({candidate.layer for candidate in candidates})
    return np.array([[float(candidate.layer == layer) for candidate in candidates] for layer in layers])


def _lowest(candidates: Sequence[Candidate], cost: float, metric: str) -> float:
    best: dict[str, float] = {}
    for candidate in candidates:
        best[candidate.layer] = max(best.get(candidate.layer, 0.0), candidate.saving.get(metric, 0.0))
    return cost - sum(best.values())


def _refuse_hopeless(candidates: Sequence[Candidate], costs: Mapping[str, float], limits: Mapping[str, float]) -> None:
    if not candidates or any(_lowest(candidates, costs[metric], metric) > limits[metric] for metric in limits):
        raise BudgetError(_shortfall(candidates, costs, limits))


def _shortfall(candidates: Sequence[Candidate], costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    lines = [
        f"{metric}: limit {limit:,.0f}, now {costs[metric]:,.0f}, "
        f"at least {_lowest(candidates, costs[metric], metric):,.0f} with every layer at its smallest"
        for metric, limit in limits.items()
    ]
    return "\n  ".join(
        [
            "no choice of widths meets the budget:",
            *lines,
            "Raise the limit, let the stage change more layers (targets), or add a stage that saves more.",
        ]
    )
