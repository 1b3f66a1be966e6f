"""From a training's options to its phases, each with its schedule and what learns in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.processes import Company
from compressor.progress import Reporter
from compressor_distill.adversary import AdversarialLearner
from compressor_distill.feature_points import Point
from compressor_distill.learner import Learner
from compressor_distill.objective import Objective
from compressor_distill.phases import AdversarialPhase, Phase
from compressor_distill.processor import Precision
from compressor_distill.schedule import Schedule

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_distill.distillation import Distillation

BLOCK_WISE, END_TO_END, ADVERSARIAL = "block-wise", "end-to-end", "adversarial"


@dataclass(frozen=True)
class PlannedPhase:
    """A phase and when it is done."""

    label: str
    options: Phase
    schedule: Schedule

    @property
    def compares_features(self) -> bool:
        """Say whether the teacher's features are looked at in it."""
        return self.label == BLOCK_WISE or self.options.feature_weight > 0


def planned_phases(options: Distillation) -> list[PlannedPhase]:
    """Return the phases in order; each has its share, by steps, of the time that is allowed."""
    named: list[tuple[str, Phase]] = [
        (BLOCK_WISE, options.block_wise),
        (END_TO_END, options.end_to_end),
        (ADVERSARIAL, options.adversarial),
    ]
    allowed = 60 * options.max_minutes if options.max_minutes else math.inf
    total = max(1, sum(phase.steps for _, phase in named))
    planned, before = [], 0
    for label, phase in named:
        schedule = Schedule(
            steps=phase.steps,
            learning_rate=phase.learning_rate,
            warmup_steps=options.warmup_steps,
            starts_at_seconds=allowed * before / total if before else 0.0,
            ends_at_seconds=allowed * (before + phase.steps) / total if before + phase.steps else 0.0,
            falls=phase.schedule == "cosine",
        )
        planned.append(PlannedPhase(label, phase, schedule))
        before += phase.steps
    return planned


def learner_for(
    options: Distillation,
    phase: PlannedPhase,
    student: GraphModule,
    points: Sequence[Point],
    company: Company,
    precision: Precision,
    reporter: Reporter,
) -> Learner:
    """Return what trains a student in a phase."""
    compared = points if phase.options.feature_weight else [point for point in points if point.same_width]
    objective = Objective(student, compared, options.losses, options.features)
    if isinstance(phase.options, AdversarialPhase):
        return AdversarialLearner(options, phase.options, objective, company, precision, reporter=reporter)
    blocks_apart = phase.label == BLOCK_WISE
    return Learner(options, phase.options, objective, company, precision, reporter=reporter, blocks_apart=blocks_apart)
