"""Spend the budget: ask the stages what they could do, choose for all of them at once, try it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compressor.allocation import Choice, Choices
from compressor.budget import chosen, solve
from compressor.error_prediction import at_the_output
from compressor.graph_editing import copy_graph
from compressor.planning import PlannedStage
from compressor.rehearsal import Rehearsal, budgeted, changes_costs
from compressor.report import AllocationRecord
from compressor.stage_running import Workbench, apply_stage, blamed_on
from compressor.strategy import BudgetedStrategy, Candidate
from compressor.time_prediction import TimePrediction

if TYPE_CHECKING:
    from torch.fx import GraphModule


CLOCK_AIM, CLOCK_MARGIN = 0.04, 0.03
"""By what shares a limit of time is to be undercut, and is at least: a clock will not say the same at the end."""


def spend_budget(
    bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule
) -> tuple[Choices, tuple[AllocationRecord, ...]]:
    """Choose what the stages to come do, jointly, for the least predicted error within the limits.

    Raises:
        BudgetError: no choice meets the limits.
    """
    rehearsal = Rehearsal(bench, stages, student)
    offers, errors = _offers(rehearsal)
    clocked = {metric.name for metric in bench.metrics if metric.clocked}
    limits = {name: limit * (1 - CLOCK_MARGIN * (name in clocked)) for name, limit in bench.limits.items()}
    aims = {name: limit * (1 - CLOCK_AIM) for name, limit in bench.limits.items() if name in clocked}
    choices = solve(offers, limits, rehearsal, aims) if any(offers.values()) else {}
    records = tuple(
        AllocationRecord(
            stage=stage,
            layer=candidate.layer,
            setting=candidate.setting,
            layers=candidate.touches,
            saving=dict(candidate.saving),
            error=errors[stage, candidate.layer, candidate.setting],
            output_error=candidate.error,
        )
        for stage, candidate in chosen(offers, choices)
    )
    return choices, records


def _offers(
    whole: Rehearsal,
) -> tuple[dict[str, list[Candidate]], dict[tuple[str, str, Choice], float]]:
    """Return the candidates by stage, their errors at the output; and their errors where these arise."""
    bench, stages, student = whole.bench, whole.stages, whole.student
    found: dict[str, list[Candidate]] = {}
    errors: dict[tuple[str, str, Choice], float] = {}
    asked: dict[str, Sequence[Candidate]] = {}
    last = max((at for at, stage in enumerate(stages) if budgeted(stage)), default=-1)
    times = TimePrediction(bench)
    for at, stage in enumerate(stages[: last + 1]):
        if budgeted(stage):
            bench.reporter.say(f"asking {stage.label} what it could do")
            asked[stage.label] = _asked(bench, stage, student)
            ahead = whole if student is whole.student else Rehearsal(bench, stages[at:], student)
            timed = times.added(asked[stage.label], stage.label, ahead)
            found[stage.label] = _with_followers(bench, timed)
            errors |= {(stage.label, each.layer, each.setting): each.error for each in asked[stage.label]}
        if at == last or (not budgeted(stage) and changes_costs(stage)):
            # All that were asked since the last change were asked about one student: their errors compare.
            open_stages = {label: found[label] for label in asked}
            found |= at_the_output(bench, student, open_stages) if asked else {}
            asked = {}
        if not budgeted(stage) and changes_costs(stage):
            # Layers get new names and shapes: a stage is asked about those that it will find.
            student = apply_stage(stage, student, bench.context(stage, {}, rehearsing=True)).student
    return found, errors


def _asked(bench: Workbench, stage: PlannedStage, student: GraphModule) -> Sequence[Candidate]:
    if not isinstance(stage.strategy, BudgetedStrategy):
        return ()
    with blamed_on(stage):
        return stage.strategy.candidates(copy_graph(student), bench.context(stage, {}))


def _with_followers(bench: Workbench, found: Sequence[Candidate]) -> list[Candidate]:
    """Predict savings in limited metrics that no candidate knows, such as bytes, by the metrics that those follow."""
    rates = bench.rates
    return [
        replace(
            candidate,
            saving={
                **{
                    name: rate * candidate.saving[followed]
                    for name, (followed, rate) in rates.items()
                    if followed in candidate.saving
                },
                **candidate.saving,
            },
        )
        for candidate in found
    ]
