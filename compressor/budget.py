"""Limits in numbers, the choices that meet them, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.allocation import Choices, allocate
from compressor.errors import BudgetError
from compressor.figures import in_full
from compressor.report import Measurement, Verdict
from compressor.strategy import Candidate

if TYPE_CHECKING:
    from compressor.metric import Metric
    from compressor.recipe import Limit
    from compressor.rehearsal import Rehearsal

ATTEMPTS = 8
"""How often a choice is corrected because later stages, or layers that share channels, cost more than was foreseen."""

WASTE = 0.01
"""Share of a limit that a choice may leave unused beyond what it meant to leave without being corrected."""

MOST_WORTH = 2.0
"""Savings are taken to be worth at most this times what was predicted, and at least one over this times."""

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


@dataclass(frozen=True)
class _Trial:
    """Choices, and what came of them in a rehearsal."""

    choices: Choices
    error: float
    saved: Mapping[str, float]
    """What the candidates say that they save, by limited metric."""
    costs: Mapping[str, float]
    """What the student costs at the end of the recipe."""
    expected: Mapping[str, float]
    """What it was to cost there."""

    def meets(self, limits: Mapping[str, float]) -> bool:
        """Say whether every limit is kept."""
        return all(self.costs[name] <= limit for name, limit in limits.items())

    def wastes(self, limits: Mapping[str, float]) -> bool:
        """Say whether a limit leaves more unused than the allocation meant to leave."""
        return any(self.expected[name] - self.costs[name] > WASTE * limit for name, limit in limits.items())


def solve(
    offers: Mapping[str, Sequence[Candidate]],
    limits: Mapping[str, float],
    rehearsal: Rehearsal,
    aims: Mapping[str, float] | None = None,
) -> Choices:
    """Choose what each stage does so that the student meets the limits at the end of the recipe.

    Candidates say what they save in the student as it is; stages without candidates change that, and no candidate
    knows what a clock will show. So each choice is rehearsed to the end of the recipe, and the allocation is asked
    again for as much more, or less, as the rehearsal showed to be needed, until the rehearsed student keeps the limits
    and wastes little.

    Args:
        offers: candidates by stage, each saving something in every limited metric that it bears on.
        limits: what the student may cost in the end, by metric.
        rehearsal: what the student costs after which choices.
        aims: what it is to cost, where that is to be less than the limit because the cost varies by itself.

    Raises:
        BudgetError: no choice does.
    """
    aims = {**limits, **(aims or {})}
    trials = [_tried({}, offers, [], limits, rehearsal)]
    if trials[0].meets(limits):
        return {}
    while not _settled(trials, limits) and len(trials) <= ATTEMPTS:
        try:
            choices = _allocated(offers, trials, limits, aims)
        except BudgetError:
            if not any(trial.meets(limits) for trial in trials):
                raise
            break
        if choices == trials[-1].choices and trials[-1].meets(limits):
            break
        trials.append(_tried(choices, offers, trials, limits, rehearsal))
    return _best(trials, limits).choices


def _allocated(
    offers: Mapping[str, Sequence[Candidate]],
    trials: Sequence[_Trial],
    limits: Mapping[str, float],
    aims: Mapping[str, float],
) -> Choices:
    try:
        return allocate(offers, _costs_ahead(trials, limits, aims), aims)
    except BudgetError:
        # Perhaps the limits can be met though the aims cannot.
        return allocate(offers, _costs_ahead(trials, limits, limits), limits)


def _settled(trials: Sequence[_Trial], limits: Mapping[str, float]) -> bool:
    """Say whether the last trial keeps the limits, and costs what was foreseen or gained nothing over one before it.

    Limits that do not bind are not used up, nor are they meant to be; and a clock never says the same twice.
    """
    *before, last = trials
    gained = all(last.error < (1 - WASTE) * trial.error for trial in before if trial.meets(limits))
    return last.meets(limits) and not (last.wastes(limits) and gained)


def _tried(
    choices: Choices,
    offers: Mapping[str, Sequence[Candidate]],
    before: Sequence[_Trial],
    limits: Mapping[str, float],
    rehearsal: Rehearsal,
) -> _Trial:
    taken = [candidate for _, candidate in chosen(offers, choices)]
    saved = {name: sum(candidate.saving.get(name, 0.0) for candidate in taken) for name in limits}
    found = rehearsal.costs_after(choices)
    expected = {
        name: before[-1].costs[name] - worth * (saved[name] - before[-1].saved[name])
        for name, worth in _worth(before, limits).items()
    }
    return _Trial(choices, sum(candidate.error for candidate in taken), saved, found, expected or found)


def _costs_ahead(trials: Sequence[_Trial], limits: Mapping[str, float], aims: Mapping[str, float]) -> dict[str, float]:
    """Return the costs, before anything is saved, for which an allocation will come to the aims in the end."""
    last, worth = trials[-1], _worth(trials, limits)
    margin = 0.0 if last.meets(limits) else MARGIN * max(0, len(trials) - 2)
    return {
        name: aim + last.saved[name] + (last.costs[name] - (1 - margin) * aim) / worth[name]
        for name, aim in aims.items()
    }


def _worth(trials: Sequence[_Trial], limits: Mapping[str, float]) -> dict[str, float]:
    """Return what savings that candidates speak of were worth in the last trial, by metric; empty before the first."""
    if not trials:
        return {}
    first, last = trials[0], trials[-1]
    found = {
        name: (first.costs[name] - last.costs[name]) / last.saved[name] if last.saved[name] > 0 else 1.0
        for name in limits
    }
    return {name: min(MOST_WORTH, max(1 / MOST_WORTH, worth)) for name, worth in found.items()}


def _best(trials: Sequence[_Trial], limits: Mapping[str, float]) -> _Trial:
    meeting = [trial for trial in trials if trial.meets(limits)]
    if meeting:
        return min(meeting, key=lambda trial: trial.error)
    nearest = min(trials, key=lambda trial: max(trial.costs[name] / limit for name, limit in limits.items()))
    listed = ", ".join(f"{name} {in_full(nearest.costs[name])} of {in_full(limits[name])}" for name in limits)
    raise BudgetError(f"no choice meets the budget; the nearest found is {listed}")


def chosen(offers: Mapping[str, Sequence[Candidate]], choices: Choices) -> list[tuple[str, Candidate]]:
    """Return the candidates that were chosen, with their stages."""
    return [
        (stage, candidate)
        for stage, offered in offers.items()
        for candidate in offered
        if choices.get(stage, {}).get(candidate.layer) == candidate.setting
    ]


def limited(metrics: Sequence[Metric], limits: Mapping[str, float]) -> tuple[Metric, ...]:
    """Return the metrics that the budget names."""
    return tuple(metric for metric in metrics if metric.name in limits)
