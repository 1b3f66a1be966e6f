"""Spend the budget: ask the stages what they could do, choose for all of them at once, try it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.allocation import Choices
from compressor.budget import chosen, costs, limited, solve
from compressor.calibration import PROBE_SIZE, calibration_inputs
from compressor.graph_editing import copy_graph, input_specs
from compressor.measuring import measure
from compressor.planning import PlannedStage
from compressor.report import AllocationRecord
from compressor.sensitivity import sensitivities
from compressor.stage_running import Workbench, apply_stage
from compressor.strategy import BudgetedStrategy, Candidate
from compressor.teacher_loading import random_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

SAMPLES = 2
"""Training samples that sensitivity is measured on."""

LENGTH = 64
"""Size that their dynamic axis is cut to: all tensors on the way are kept for the backward passes."""


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What a student costs, and what it would cost at the end of the recipe after which choices."""

    bench: Workbench
    stages: Sequence[PlannedStage]
    """Those still to come."""
    student: GraphModule

    def costs_now(self) -> dict[str, float]:
        """Measure the limited metrics of the student."""
        return self._costs(self.student)

    def costs_after(self, choices: Choices) -> dict[str, float]:
        """Apply the stages, except training, to a copy, and measure that."""
        student = self.student
        for stage in self.stages:
            if not stage.strategy.trains:
                context = self.bench.context(stage, choices.get(stage.label, {}), rehearsing=True)
                student = apply_stage(stage, student, context).student
        return self._costs(student)

    def _costs(self, student: GraphModule) -> dict[str, float]:
        metrics = limited(self.bench.metrics, self.bench.limits)
        return costs(measure(self.bench.measured(student), metrics), self.bench.limits)


def spend_budget(
    bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule
) -> tuple[Choices, tuple[AllocationRecord, ...]]:
    """Choose what the stages to come do, jointly, for the least predicted error within the limits.

    Raises:
        BudgetError: no choice meets the limits.
    """
    offers = _offers(bench, stages, student)
    choices = solve(offers, bench.limits, Rehearsal(bench, stages, student)) if any(offers.values()) else {}
    records = tuple(
        AllocationRecord(
            stage=stage,
            layer=candidate.layer,
            setting=candidate.setting,
            saving=dict(candidate.saving),
            predicted_error=candidate.error,
        )
        for stage, candidate in chosen(offers, choices)
    )
    return choices, records


def budgeted(stage: PlannedStage) -> bool:
    """Say whether a stage leaves its choice to the budget."""
    return isinstance(stage.strategy, BudgetedStrategy) and not stage.strategy.fixed


def _offers(bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule) -> dict[str, list[Candidate]]:
    offers: dict[str, list[Candidate]] = {}
    reach: dict[str, float] = {}
    for stage in stages:
        if isinstance(stage.strategy, BudgetedStrategy) and not stage.strategy.fixed:
            bench.reporter.say(f"what {stage.label} could do")
            found = stage.strategy.candidates(copy_graph(student), bench.context(stage, {}))
            if not reach and any(candidate.disturbs for candidate in found):
                reach = sensitivities(copy_graph(student), _inputs(bench, student), bench.seed)
            offers[stage.label] = [_at_the_output(candidate, reach) for candidate in found]
    return {stage: _with_followers(bench, found) for stage, found in offers.items()}


def _inputs(bench: Workbench, student: GraphModule) -> Iterable[tuple[Tensor, ...]]:
    specs = input_specs(student)
    if bench.data is not None:
        return calibration_inputs(specs, bench.data.train[:SAMPLES], LENGTH)
    arrays = random_inputs(specs, PROBE_SIZE, seed=bench.seed)
    return [tuple(torch.from_numpy(array) for array in arrays.values())]


def _at_the_output(candidate: Candidate, reach: Mapping[str, float]) -> Candidate:
    if not candidate.disturbs:
        return candidate
    return replace(candidate, error=candidate.error * sum(reach.get(place, 0.0) for place in candidate.disturbs))


def _with_followers(bench: Workbench, found: Sequence[Candidate]) -> list[Candidate]:
    """Predict savings in limited metrics that no candidate knows, such as time, by the metrics that those follow."""
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
