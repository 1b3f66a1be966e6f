"""Limits in numbers, the choices that meet them, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.allocation import Choice, allocate
from compressor.errors import BudgetError
from compressor.report import Measurement, Verdict
from compressor.strategy import BudgetedStrategy

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.metric import Metric
    from compressor.recipe import Limit
    from compressor.strategy import StageContext
    from compressor.stage_running import Rehearsal

ATTEMPTS = 8
"""How often limits are tightened because later stages, or layers that share channels, cost more than was foreseen."""


def limit_values(limits: Mapping[str, Limit], teacher: Sequence[Measurement]) -> dict[str, float]:
    """Return each limit as a number in its metric's unit."""
    known = {measurement.metric: measurement.value for measurement in teacher}
    return {name: limit.value(float(known[name] or 0.0)) for name, limit in limits.items()}


def costs(measurements: Sequence[Measurement], limits: Mapping[str, float]) -> dict[str, float]:
    """Return the measured values of the limited metrics."""
    return {entry.metric: float(entry.value or 0.0) for entry in measurements if entry.metric in limits}


def judge(limits: Mapping[str, Limit], teacher: Sequence[Measurement], student: Sequence[Measurement]) -> tuple[Verdict, ...]:
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
    each choice is rehearsed to the end of the recipe, and the limits handed to the allocation are moved until the
    rehearsed student keeps the real ones.

    Raises:
        BudgetError: no choice does.
    """
    candidates = strategy.candidates(student, context)
    if not candidates:
        return {}
    now = rehearsal.costs_now(student)
    aims = dict(limits)
    choices: dict[str, Choice] = {}
    for _ in range(ATTEMPTS):
        choices = allocate(candidates, now, aims)
        final = rehearsal.costs_after(student, choices)
        if all(final[name] <= limits[name] for name in limits):
            return choices
        aims = {name: aims[name] - max(0.0, final[name] - limits[name]) for name in limits}
    raise BudgetError(
        "no choice of widths meets the budget: "
        + ", ".join(f"{name} {final[name]:,.0f} of {limits[name]:,.0f}" for name in limits)
    )


def limited(metrics: Sequence[Metric], limits: Mapping[str, float]) -> tuple[Metric, ...]:
    """Return the metrics that the budget names."""
    return tuple(metric for metric in metrics if metric.name in limits)
