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
from compressor.figures import in_full
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
    enough = [_saving(offers, metric, at_least=costs[metric] - limit) for metric, limit in limits.items()]
    taken = _solved([candidate.error for _, candidate in offers], [*enough, _one_change_per_layer(offers)])
    if taken is None:
        raise BudgetError(_shortfall(offers, costs, limits))
    choices: Choices = {}
    for (stage, candidate), is_taken in zip(offers, taken, strict=True):
        if is_taken:
            choices.setdefault(stage, {})[candidate.layer] = candidate.setting
    return choices


def _solved(errors: Sequence[float], constraints: Sequence[LinearConstraint]) -> list[bool] | None:
    """Return which offers to take for the least sum of errors, or None where nothing meets the constraints."""
    if not errors:
        return None
    known = np.abs([error for error in errors if error])
    solution = milp(
        # Of about the size of one, whatever the unit: the solver's tolerances are absolute.
        c=np.array(errors) / (np.median(known) if len(known) else 1.0),
        integrality=np.ones(len(errors)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 1e-4, "time_limit": 20.0},
    )
    return None if solution.x is None else [bool(share > 0.5) for share in solution.x]


def _saving(offers: Sequence[tuple[str, Candidate]], metric: str, at_least: float) -> LinearConstraint:
    savings = np.array([candidate.saving.get(metric, 0.0) for _, candidate in offers])
    scale = float(np.abs(savings).max(initial=abs(at_least))) or 1.0
    return LinearConstraint(savings / scale, lb=at_least / scale)


def _one_change_per_layer(offers: Sequence[tuple[str, Candidate]]) -> LinearConstraint:
    rows: dict[tuple[str, str], int] = {}
    places = [
        (rows.setdefault(key, len(rows)), column)
        for column, (stage, candidate) in enumerate(offers)
        for key in {("", layer) for layer in candidate.touches or (candidate.layer,)} | {(stage, candidate.layer)}
    ]
    row, column = zip(*places, strict=True) if places else ((), ())
    return LinearConstraint(csr_array((np.ones(len(places)), (row, column)), shape=(len(rows), len(offers))), ub=1)


def _lowest(offers: Sequence[tuple[str, Candidate]], cost: float, metric: str) -> float:
    """Return the least that a metric can come down to when only it counts."""
    savings = [candidate.saving.get(metric, 0.0) for _, candidate in offers]
    taken = _solved([-saving for saving in savings], [_one_change_per_layer(offers)]) or [False] * len(savings)
    return cost - sum(saving for saving, is_taken in zip(savings, taken, strict=True) if is_taken)


def _shortfall(offers: Sequence[tuple[str, Candidate]], costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    lines = [
        f"{metric}: limit {in_full(limit)}, now {in_full(costs[metric])}, "
        f"at least {in_full(_lowest(offers, costs[metric], metric))} with every layer at its smallest"
        for metric, limit in limits.items()
    ]
    return "\n  ".join(
        [
            "no choice meets the budget:",
            *lines,
            "Raise the limit, let the stages change more layers (targets), or add a stage that saves more.",
        ]
    )
