"""Limits in numbers, the choices that meet them, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.allocation import Choice, allocate
from compressor.errors import BudgetError
from compressor.report import Measurement, Verdict
from compressor.strategy import BudgetedStrategy, Candidate

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.metric import Metric
    from compressor.recipe import Limit
    from compressor.stage_running import Rehearsal
    from compressor.strategy import StageContext

ATTEMPTS = 8
"""How often a choice is corrected because later stages, or layers that share channels, cost more than was foreseen."""

WASTE = 0.01
"""Share of a limit that a choice may leave unused without being corrected."""

MARGIN = 0.0005
"""By how much more is to be saved, as a share of the limit, each time a choice still misses it."""


def limit_values(limits: Mapping[str, Limit], teacher: Sequence[Measurement]) -> dict[str, float]:
    """Return each limit as a number in its metric's unit.

    Raises:
        BudgetError: a limited metric is no cost, or cannot be measured on this teacher.
    """
    known = {measurement.metric: measurement for measurement in teacher}
    return {name: limit.value(_cost(name, known.get(name))) for name, limit in limits.items()}


def _cost(name: str, measurement: Measurement | None) -> float:
    if measurement is None or measurement.value is None:
        reason = measurement.note if measurement else "it needs data whose outputs are a signal of known sample rate"
        raise BudgetError(f"the budget limits '{name}', which cannot be measured here: {reason}")
    if measurement.better == "higher":
        raise BudgetError(f"the budget limits '{name}', which is better when it is higher; limit a cost instead")
    return measurement.value


def costs(measurements: Sequence[Measurement], limits: Mapping[str, float]) -> dict[str, float]:
    """Return the measured values of the limited metrics."""
    return {entry.metric: float(entry.value or 0.0) for entry in measurements if entry.metric in limits}


def judge(
    limits: Mapping[str, Limit], teacher: Sequence[Measurement], student: Sequence[Measurement]
) -> tuple[Verdict, ...]:
    """Hold the student against every limit."""
    values = limit_values(limits, teacher)
    before, after = costs(teacher, values), costs(student, values)
    return tuple(
        Verdict(
            metric=name,
            limit=values[name],
            limit_text=limits[name].text,
            teacher=before[name],
            student=after[name],
            met=after[name] <= values[name],
        )
        for name in limits
    )


def solve(
    strategy: BudgetedStrategy,
    student: GraphModule,
    context: StageContext,
    limits: Mapping[str, float],
    rehearsal: Rehearsal,
) -> dict[str, Choice]:
    """Choose what a stage does so that the student meets the limits at the end of the recipe.

    Candidates say what they save in the student as it is; later stages and layers that share channels change that. So
    each choice is rehearsed to the end of the recipe, and what the rehearsal costs beyond the prediction is added to
    the costs that the allocation is handed, until the rehearsed student keeps the limits and wastes little.

    Raises:
        BudgetError: no choice does.
    """
    candidates = strategy.candidates(student, context)
    if not candidates:
        return {}
    now = rehearsal.costs_now(student)
    choices: dict[str, Choice] = {}
    best: dict[str, Choice] | None = None
    predicted, final = now, rehearsal.costs_after(student, choices)
    for attempt in range(ATTEMPTS):
        meets = all(final[name] <= limits[name] for name in limits)
        if meets:
            best = choices
            if not choices or any(final[name] >= (1 - WASTE) * limits[name] for name in limits):
                break
        margin = 0.0 if meets else MARGIN * attempt
        ahead = {name: now[name] + final[name] - predicted[name] + margin * limits[name] for name in limits}
        try:
            following = allocate(candidates, ahead, limits)
        except BudgetError:
            if best is None:
                raise
            break
        if following == choices and meets:
            break
        choices = following
        predicted, final = _predicted(candidates, choices, now), rehearsal.costs_after(student, choices)
    if best is None:
        listed = ", ".join(f"{name} {final[name]:,.0f} of {limits[name]:,.0f}" for name in limits)
        raise BudgetError(f"no choice of widths meets the budget; the nearest found is {listed}")
    return best


def _predicted(
    candidates: Sequence[Candidate], choices: Mapping[str, Choice], now: Mapping[str, float]
) -> dict[str, float]:
    """Return what the student costs after the choices if every candidate saves what it says."""
    chosen = [candidate for candidate in candidates if choices.get(candidate.layer) == candidate.setting]
    return {name: cost - sum(candidate.saving.get(name, 0.0) for candidate in chosen) for name, cost in now.items()}


def limited(metrics: Sequence[Metric], limits: Mapping[str, float]) -> tuple[Metric, ...]:
    """Return the metrics that the budget names."""
    return tuple(metric for metric in metrics if metric.name in limits)
