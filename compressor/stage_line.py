"""The stages of a plan in their order, with the budget spent before the first that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compressor.graph_editing import copy_graph
from compressor.planning import Plan
from compressor.rehearsal import Rehearsal, budgeted, changes_costs, look_ahead
from compressor.rehearsing import spend_budget
from compressor.report import AllocationRecord, CurvePoint, StageRecord
from compressor.run_folder import RunFolder
from compressor.spending import Spending, keep
from compressor.stage_running import Workbench, apply_stage, run_stage

if TYPE_CHECKING:
    from torch.fx import GraphModule


class StageLine:
    """The stages of a plan that work on the graph, run one after the other; holds the student between them.

    `spending` is what an earlier part of the same run spent its budget on.
    """

    def __init__(
        self,
        plan: Plan,
        bench: Workbench,
        announce: Callable[[StageRecord], None],
        spending: Spending | None = None,
    ) -> None:
        self.stages = plan.graph_stages
        self.bench = bench
        self.announce = announce
        self.student = copy_graph(bench.teacher.graph)
        self.records: list[StageRecord] = []
        self.curve: tuple[CurvePoint, ...] = ()
        self.spending = spending

    @property
    def allocation(self) -> tuple[AllocationRecord, ...]:
        """What the budget was spent on."""
        return self.spending.allocation if self.spending else ()

    def look_ahead(self) -> None:
        """Try out the structural stages to come, and tell which limits they will miss."""
        rehearsal = Rehearsal(self.bench, self.stages[len(self.records) :], self.student)
        for warning in look_ahead(rehearsal, spent=self.spending.choices if self.spending else None):
            self.bench.reporter.say(warning)

    def rehearsed_end(self) -> GraphModule:
        """Return what the graph will be at the end, but for what is trained."""
        student = self.student
        for stage in self.stages[len(self.records) :]:
            if not stage.strategy.trains:
                own = self.spending.choices.get(stage.label, {}) if self.spending else {}
                student = apply_stage(stage, student, self.bench.context(stage, own)).student
        return student

    def run_to(self, end: int, folder: RunFolder | None) -> None:
        """Run the stages that come before position `end` and are not done yet."""
        for position in range(len(self.records), end):
            stage = self.stages[position]
            before = self.records[-1] if self.records else None
            self.bench.reporter.say(f"[{position + 1}/{len(self.stages)}] {stage.label}")
            if self.spending is None and self.bench.limits and budgeted(stage):
                self.spending = self._spent(position)
                if folder is not None:
                    keep(self.spending, folder)
            own = self.spending.choices.get(stage.label, {}) if self.spending else {}
            result = run_stage(self.bench, stage, own, self.student, before, folder)
            self.student = result.student
            self.records.append(result.record)
            self.curve += result.curve
            self.announce(result.record)

    def _spent(self, position: int) -> Spending:
        """Spend the budget on the stages from a position on."""
        to_come = self.stages[position:]

        def spend() -> Spending:
            choices, allocation = spend_budget(self.bench, to_come, self.student)
            return Spending(choices=choices, allocation=allocation)

        # How long is trained, and what becomes of the finished file, does not count here.
        asked = [[stage.label, stage.strategy.model_dump(mode="json")] for stage in to_come if changes_costs(stage)]
        before = self.records[-1].fingerprint if self.records else self.bench.teacher.sha256
        data = self.bench.data.identity if self.bench.data else None
        facts = ["spending", before, asked, dict(self.bench.limits), self.bench.seed, data]
        return self.bench.memory.once(facts, spend)
