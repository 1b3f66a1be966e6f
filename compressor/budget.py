"""Limits in numbers, the choices that meet them, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.allocation import Choices, allocate
from compressor.errors import BudgetError
from compressor.report import Measurement, Verdict
from compressor.strategy import Candidate

if TYPE_CHECKING:
    from compressor.metric import Metric
    from compressor.recipe import Limit
    from compressor.rehearsing import Rehearsal

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


def following_rates(
    metrics: Sequence[Metric], limits: Mapping[str, Limit], teacher: Sequence[Measurement]
) -> dict[str, tuple[str, float]]:
    """Return, for limited metrics that follow another one, which that is and how much of this the teacher has per that.

    Raises:
        BudgetError: the metric followed is not measured.
    """
    values = {entry.metric: entry.value for entry in teacher if entry.value}
    rates = {}
    for metric in metrics:
        if metric.name in limits and metric.follows and metric.name in values:
            if metric.follows not in values:
                raise BudgetError(f"a limit of '{metric.name}' needs '{metric.follows}' among the recipe's metrics")
            rates[metric.name] = (metric.follows, values[metric.name] / values[metric.follows])
    return rates


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


def solve(offers: Mapping[str, Sequence[Candidate]], limits: Mapping[str, float], rehearsal: Rehearsal) -> Choices:
    """Choose what each stage does so that the student meets the limits at the end of the recipe.

    Candidates say what they save in the student as it is; stages without candidates change that, and no candidate
    knows what a clock will show. So each choice is rehearsed to the end of the recipe, and what the rehearsal costs
    beyond the prediction is added to the costs that the allocation is handed, until the rehearsed student keeps the
    limits and wastes little.

    Args:
        offers: candidates by stage, each saving something in every limited metric that it bears on.
        limits: what the student may cost in the end, by metric.
        rehearsal: what the student costs now, and after which choices.

    Raises:
        BudgetError: no choice does.
    """
    now = rehearsal.costs_now()
    choices: Choices = {}
    best: Choices | None = None
    predicted, final = now, rehearsal.costs_after(choices)
    for attempt in range(ATTEMPTS):
        meets = all(final[name] <= limits[name] for name in limits)
        if meets:
            best = choices
            if not choices or all(final[name] >= (1 - WASTE) * limits[name] for name in limits):
                break
        margin = 0.0 if meets else MARGIN * attempt
        ahead = {name: now[name] + final[name] - predicted[name] + margin * limits[name] for name in limits}
        try:
            following = allocate(offers, ahead, limits)
        except BudgetError:
            if best is None:
                raise
            break
        if following == choices and meets:
            break
        choices = following
        predicted, final = _predicted(offers, choices, now), rehearsal.costs_after(choices)
    if best is None:
        listed = ", ".join(f"{name} {final[name]:,.0f} of {limits[name]:,.0f}" for name in limits)
        raise BudgetError(f"no choice meets the budget; the nearest found is {listed}")
    return best


def chosen(offers: Mapping[str, Sequence[Candidate]], choices: Choices) -> list[tuple[str, Candidate]]:
    """Return the candidates that were chosen, with their stages."""
    return [
        (stage, candidate)
        for stage, offered in offers.items()
        for candidate in offered
        if choices.get(stage, {}).get(candidate.layer) == candidate.setting
    ]


def _predicted(
    offers: Mapping[str, Sequence[Candidate]], choices: Choices, now: Mapping[str, float]
) -> dict[str, float]:
    """Return what the student costs after the choices if every candidate saves what it says."""
    taken = [candidate for _, candidate in chosen(offers, choices)]
    return {name: cost - sum(candidate.saving.get(name, 0.0) for candidate in taken) for name, cost in now.items()}


def limited(metrics: Sequence[Metric], limits: Mapping[str, float]) -> tuple[Metric, ...]:
    """Return the metrics that the budget names."""
    return tuple(metric for metric in metrics if metric.name in limits)
