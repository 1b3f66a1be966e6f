"""Stages that work on the finished student's file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.graph_editing import input_specs
from compressor.measuring import MeasuredFile, MeasuredModel, measure
from compressor.planning import PlannedStage
from compressor.report import StageRecord
from compressor.stage_running import Workbench, blamed_on, stage_record
from compressor.stored_model import onnx_session
from compressor.strategy import FileStrategy
from compressor.tensor_spec import TensorSpec, random_inputs
from compressor.verification import PROOF_SIZES

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Finished:
    """A student's file, measured, and what the stages that made it have to tell."""

    content: bytes
    measured: MeasuredModel
    records: tuple[StageRecord, ...] = ()


def check_files(stages: Sequence[PlannedStage], content: bytes) -> None:
    """Hear what is wrong with stages that work on a file before hours of training come before them.

    Raises:
        CompressorError: a stage cannot do what it is to do with such a file.
    """
    for stage in stages:
        with blamed_on(stage):
            _on_file(stage).check(content)


def finish(
    bench: Workbench,
    stages: Sequence[PlannedStage],
    student: GraphModule,
    content: bytes,
    records: Sequence[StageRecord],
    announce: Callable[[StageRecord], None],
) -> Finished:
    """Run the stages that work on a file; without any, the student is finished as it is.

    `records` are those of the stages that worked on the graph.

    Raises:
        StageError: a strategy failed, or made a file that does not take the student's place.
    """
    finished = Finished(content, bench.measured(student))
    before = records[-1] if records else None
    for stage in stages:
        bench.reporter.say(f"[file] {stage.label}")
        begun = time.monotonic()
        fingerprint = bench.fingerprint(stage, {}, before.fingerprint if before else "")
        with blamed_on(stage):
            outcome = _on_file(stage).rewrite(finished.content, student, bench.context(stage, {}))
            check_file(finished.content, outcome.content, input_specs(student))
        measured = MeasuredFile(student, bench.teacher, bench.data, bench.baseline, file=outcome.content)
        seconds = time.monotonic() - begun
        before = stage_record(stage, outcome.findings, fingerprint, measure(measured, bench.metrics), seconds)
        finished = Finished(outcome.content, measured, (*finished.records, before))
        announce(before)
    return finished


def check_file(before: bytes, after: bytes, inputs: Sequence[TensorSpec]) -> None:
    """Check that a file takes another's place: names, shapes and finite values.

    Raises:
        ValueError: it does not; says in what.
    """
    sessions = [onnx_session(each) for each in (before, after)]
    names = [[[value.name for value in role()] for role in (each.get_inputs, each.get_outputs)] for each in sessions]
    if names[0] != names[1]:
        raise ValueError(f"inputs and outputs are {names[1]}, before they were {names[0]}")
    for size in PROOF_SIZES:
        arrays = random_inputs(tuple(inputs), size, seed=size)
        wanted, found = (session.run(None, arrays) for session in sessions)
        if [each.shape for each in found] != [each.shape for each in wanted]:
            shapes = [[each.shape for each in values] for values in (found, wanted)]
            raise ValueError(f"at size {size} the file puts out {shapes[0]}, before {shapes[1]}")
        if not all(np.isfinite(each).all() for each in found):
            raise ValueError(f"at size {size} the file puts out values that are not finite")


def _on_file(stage: PlannedStage) -> FileStrategy:
    if not isinstance(stage.strategy, FileStrategy):
        raise TypeError(f"{stage.label} works on the graph")
    return stage.strategy
