"""Stages that work on the finished student's file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.measuring import MeasuredFile, MeasuredModel, measure
from compressor.planning import PlannedStage
from compressor.report import StageRecord
from compressor.stage_running import Workbench, blamed_on, stage_record
from compressor.strategy import FileStrategy

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Finished:
    """A student's file, measured, and what the stages that made it have to tell."""

    content: bytes
    measured: MeasuredModel
    records: tuple[StageRecord, ...] = ()


def finish(
    bench: Workbench, stages: Sequence[PlannedStage], student: GraphModule, content: bytes, before: StageRecord | None
) -> Finished:
    """Run the stages that work on a file; without any, the student is finished as it is.

    `before` is the record of the last stage that worked on the graph, if there is one.

    Raises:
        StageError: a strategy failed.
    """
    finished = Finished(content, bench.measured(student))
    for stage in stages:
        bench.reporter.say(f"[file] {stage.label}")
        begun = time.monotonic()
        fingerprint = bench.fingerprint(stage, {}, before.fingerprint if before else "")
        with blamed_on(stage):
            outcome = _on_file(stage).rewrite(finished.content, student, bench.context(stage, {}))
        measured = MeasuredFile(student, bench.teacher, bench.data, bench.baseline, file=outcome.content)
        before = stage_record(
            stage, outcome.findings, fingerprint, measure(measured, bench.metrics), time.monotonic() - begun
        )
        finished = Finished(outcome.content, measured, (*finished.records, before))
    return finished


def _on_file(stage: PlannedStage) -> FileStrategy:
    if not isinstance(stage.strategy, FileStrategy):
        raise TypeError(f"{stage.label} works on the graph")
    return stage.strategy
