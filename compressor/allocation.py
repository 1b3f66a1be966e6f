"""Solve a budget: choose among the candidates of all stages for the least predicted error within the limits.

A pure function of candidates and limits. A layer is changed by one chosen candidate at most, so savings add up, and
this is a multiple-choice knapsack problem, which scipy's HiGHS solves as a mixed-integer linear programme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from compressor.errors import BudgetError
from compressor.strategy import Candidate

Choice = int | float | str
Choices = dict[str, dict[str, Choice]]
"""Settings by stage and layer."""


def allocate(
    candidates: Mapping[str, Sequence[Candidate]], costs: Mapping[str, float], limits: Mapping[str, float]
) -> Choices:
    """Return a setting for each layer that must change so that every cost comes down to its limit.

    Args:
        candidates: what could be done, by stage; `saving` and `costs` share their units.
        costs: what the model costs now, by metric.
        limits: what it may cost, by metric.

    Raises:
        BudgetError: no choice meets the limits; the message says how near the candidates get.
    """
    if all(costs[metric] <= limit for metric, limit in limits.items()):
        return {}
    offers = [(stage, candidate) for stage, offered in candidates.items() for candidate in offered]
    _refuse_hopeless(offers, costs, limits)
    savings = np.array([[candidate.saving.get(metric, 0.0) for _, candidate in offers] for metric in limits])
    needed = np.array([costs[metric] - limit for metric, limit in limits.items()])
    # Of about the size of one: the solver's tolerances are absolute.
    scale = np.maximum(1.0, np.abs(savings).max(axis=1))
    solution = milp(
        c=np.array([candidate.error for _, candidate in offers]),
        integrality=np.ones(len(offers)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(savings / scale[:, None], lb=needed / scale),
            LinearConstraint(_one_change_per_layer(offers), ub=1),
        ],
        options={"mip_rel_gap": 1e-4, "time_limit": 20.0},
    )
    if solution.x is None:
        raise BudgetError(_shortfall(offers, costs, limits))
    choices: Choices = {}
    for (stage, candidate), taken in zip(offers, solution.x, strict=True):
        if taken > 0.5:
            choices.setdefault(stage, {})[candidate.layer] = candidate.setting
    return choices


def _one_change_per_layer(offers: Sequence[tuple[str, Candidate]]) -> csr_array:
    rows: dict[tuple[str, str], int] = {}
    places = [
        (rows.setdefault(key, len(rows)), column)
        for column, (stage, candidate) in enumerate(offers)
        for key in {("", layer) for layer in candidate.touches or (candidate.layer,)} | {(stage, candidate.layer)}
    ]
    row, column = zip(*places, strict=True)
    return csr_array((np.ones(len(places)), (row, column)), shape=(len(rows), len(offers)))


def _lowest(offers: Sequence[tuple[str, Candidate]], cost: float, metric: str) -> float:
    """Return a cost below which no choice gets, whatever else it does."""
    best: dict[tuple[str, str], float] = {}
    for stage, candidate in offers:
        key = (stage, candidate.layer)
        best[key] = max(best.get(key, 0.0), candidate.saving.get(metric, 0.0))
    return max(0.0, cost - sum(best.values()))


def _refuse_hopeless(
    offers: Sequence[tuple[str, Candidate]], costs: Mapping[str, float], limits: Mapping[str, float]
) -> None:
    if not offers or any(_lowest(offers, costs[metric], metric) > limits[metric] for metric in limits):
        raise BudgetError(_shortfall(offers, costs, limits))


def _shortfall(offers: Sequence[tuple[str, Candidate]], costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    lines = [
        f"{metric}: limit {limit:,.0f}, now {costs[metric]:,.0f}, "
        f"at least {_lowest(offers, costs[metric], metric):,.0f} with every layer at its smallest"
        for metric, limit in limits.items()
    ]
    return "\n  ".join(
        [
            "no choice meets the budget:",
            *lines,
            "Raise the limit, let the stages change more layers (targets), or add a stage that saves more.",
        ]
    )
