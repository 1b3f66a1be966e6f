"""What a student would be, and cost, at the end of the recipe: the stages to come tried out on a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from compressor.allocation import Choices
from compressor.budget import costs, limited
from compressor.figures import in_full
from compressor.measuring import MeasuredModel, measure
from compressor.planning import PlannedStage
from compressor.stage_running import Workbench, apply_stage
from compressor.strategy import BudgetedStrategy

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """A student and the stages that are still to come."""

    bench: Workbench
    stages: Sequence[PlannedStage]
    student: GraphModule

    def finished(self, choices: Choices) -> MeasuredModel:
        """Apply the stages that change what the student costs to a copy, ready to be measured.

        By a clock that repeats itself, so that choices differ for what they are.
        """
        student = self.student
        for stage in self.stages:
            if changes_costs(stage) and (stage.label in choices or not budgeted(stage)):
                context = self.bench.context(stage, choices.get(stage.label, {}), rehearsing=True)
                student = apply_stage(stage, student, context).student
        return replace(self.bench.measured(student), by_nodes=True)

    @cached_property
    def unchanged(self) -> MeasuredModel:
        """The student at the end of the recipe if nothing is chosen."""
        return self.finished({})

    def costs_after(self, choices: Choices) -> dict[str, float]:
        """Return what the student costs after choices, in each limited metric."""
        metrics = limited(self.bench.metrics, self.bench.limits)
        return costs(measure(self.finished(choices) if choices else self.unchanged, metrics), self.bench.limits)


def budgeted(stage: PlannedStage) -> bool:
    """Say whether a stage leaves its choice to the budget; it changes nothing where nothing is chosen."""
    return isinstance(stage.strategy, BudgetedStrategy) and not stage.strategy.fixed


def changes_costs(stage: PlannedStage) -> bool:
    """Say whether a student may cost more or less after a stage."""
    return not (stage.strategy.trains or stage.strategy.keeps_structure)


def look_ahead(rehearsal: Rehearsal, *, spent: Choices | None) -> tuple[str, ...]:
    """Try out the structural stages that come after a training, before it is begun: hours later is late for mistakes.

    Returns, in words, which limits will be missed; empty while a budget is still to be spent.

    Raises:
        CompressorError: what a stage to come raises.
    """
    if not any(map(changes_costs, rehearsal.stages)):
        return ()
    found = rehearsal.costs_after(spent or {})
    if spent is None and any(map(budgeted, rehearsal.stages)):
        return ()
    return tuple(
        f"a rehearsal of what follows the training misses the budget: {name} {in_full(found[name])} of {in_full(limit)}"
        for name, limit in rehearsal.bench.limits.items()
        if found[name] > limit
    )
