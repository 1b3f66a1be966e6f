"""Spend the budget: ask the stages what they could do, choose for all of them at once, try it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.allocation import Choice, Choices
from compressor.budget import chosen, solve
from compressor.calibration import PROBE_SIZE, calibration_inputs
from compressor.errors import StageError
from compressor.graph_editing import copy_graph, input_specs
from compressor.planning import PlannedStage
from compressor.rehearsal import Rehearsal, changes_costs
from compressor.report import AllocationRecord
from compressor.sensitivity import sensitivities
from compressor.stage_running import Workbench, apply_stage, blamed_on
from compressor.strategy import BudgetedStrategy, Candidate
from compressor.teacher_loading import random_inputs
from compressor.time_prediction import TimePrediction

if TYPE_CHECKING:
    from torch.fx import GraphModule

SAMPLES = 2
"""Training samples that sensitivity is measured on."""

LENGTH = 64
"""Size that their dynamic axis is cut to: all tensors on the way are kept for the backward passes."""


def spend_budget(
    bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule
) -> tuple[Choices, tuple[AllocationRecord, ...]]:
    """Choose what the stages to come do, jointly, for the least predicted error within the limits.

    Raises:
        BudgetError: no choice meets the limits.
    """
    offers, errors = _offers(bench, stages, student)
    choices = solve(offers, bench.limits, Rehearsal(bench, stages, student)) if any(offers.values()) else {}
    records = tuple(
        AllocationRecord(
            stage=stage,
            layer=candidate.layer,
            setting=candidate.setting,
            saving=dict(candidate.saving),
            error=errors[stage, candidate.layer, candidate.setting],
            output_error=candidate.error,
        )
        for stage, candidate in chosen(offers, choices)
    )
    return choices, records


def budgeted(stage: PlannedStage) -> bool:
    """Say whether a stage leaves its choice to the budget."""
    return isinstance(stage.strategy, BudgetedStrategy) and not stage.strategy.fixed


def _offers(
    bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule
) -> tuple[dict[str, list[Candidate]], dict[tuple[str, str, Choice], float]]:
    """Return the candidates by stage, their errors at the output; and their errors where these arise."""
    found: dict[str, list[Candidate]] = {}
    errors: dict[tuple[str, str, Choice], float] = {}
    reach: dict[str, float] | None = None
    last = max((at for at, stage in enumerate(stages) if budgeted(stage)), default=-1)
    times = TimePrediction(bench)
    for at, stage in enumerate(stages[: last + 1]):
        if budgeted(stage):
            bench.reporter.say(f"asking {stage.label} what it could do")
            candidates = _asked(bench, stage, student)
            errors |= {(stage.label, candidate.layer, candidate.setting): candidate.error for candidate in candidates}
            if reach is None and any(candidate.disturbs for candidate in candidates):
                reach = sensitivities(copy_graph(student), _inputs(bench, student), bench.seed)
            at_the_output = [_at_the_output(stage, candidate, reach or {}) for candidate in candidates]
            timed = times.added(at_the_output, stage.label, Rehearsal(bench, stages[at:], student))
            found[stage.label] = _with_followers(bench, timed)
        elif changes_costs(stage):
            # Layers get new names and shapes: a stage is asked about those that it will find.
            student = apply_stage(stage, student, bench.context(stage, {}, rehearsing=True)).student
            reach = None
    return found, errors


def _asked(bench: Workbench, stage: PlannedStage, student: GraphModule) -> Sequence[Candidate]:
    if not isinstance(stage.strategy, BudgetedStrategy):
        return ()
    with blamed_on(stage):
        return stage.strategy.candidates(copy_graph(student), bench.context(stage, {}))


def _inputs(bench: Workbench, student: GraphModule) -> Iterable[tuple[Tensor, ...]]:
    specs = input_specs(student)
    if bench.data is not None and bench.data.train:
        return calibration_inputs(specs, bench.data.train[:SAMPLES], LENGTH)
    arrays = random_inputs(specs, PROBE_SIZE, seed=bench.seed)
    return [tuple(torch.from_numpy(array) for array in arrays.values())]


def _at_the_output(stage: PlannedStage, candidate: Candidate, reach: Mapping[str, float]) -> Candidate:
    if not candidate.disturbs:
        return candidate
    unknown = [place for place in candidate.disturbs if place not in reach]
    if unknown:
        message = f"a candidate for '{candidate.layer}' disturbs '{unknown[0]}', which no layer of the student is"
        raise StageError(stage.label, message)
    return replace(candidate, error=candidate.error * sum(reach[place] for place in candidate.disturbs))


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
