"""A whole run: teacher in, student out, and everything one wants to know on the way."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compressor.artifacts import write_report, write_student
from compressor.budget import judge
from compressor.errors import CompressorError
from compressor.finishing import check_files, finish
from compressor.gates import judge_gates
from compressor.listening import listening_samples
from compressor.measuring import MeasuredModel, measure_finished
from compressor.memory import Memory
from compressor.onnx_export import export_onnx
from compressor.planning import Plan
from compressor.preparing import RunSettings, prepare
from compressor.progress import RecordingReporter, Reporter, SilentReporter
from compressor.report import Measurement, Report, StageRecord
from compressor.report_building import Outcome, build_report, student_metadata
from compressor.run_folder import RunFolder
from compressor.sidecars import student_sidecars
from compressor.spending import keep, kept
from compressor.stage_line import StageLine
from compressor.stage_running import Workbench
from compressor.teacher_loading import Teacher, load_teacher
from compressor.tensor_spec import random_inputs
from compressor.verification import check_export

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.whole_model import WholeModel

PROBE_SIZE = 32
"""Size of dynamic axes where no data says what inputs look like."""


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run made."""

    report: Report
    student: GraphModule
    folder: Path

    @property
    def budget_met(self) -> bool:
        """Say whether every limit of the budget is kept."""
        return all(verdict.met for verdict in self.report.verdicts)

    @property
    def gates_passed(self) -> bool:
        """Say whether the student passes every quality gate."""
        return all(gate.met for gate in self.report.gates)


def run(
    plan: Plan,
    settings: RunSettings,
    reporter: Reporter | None = None,
    announce: Callable[[StageRecord], None] = lambda _: None,
    memory: Memory | None = None,
) -> RunResult:
    """Run a plan and write its run folder; an interrupted run of the same plan goes on where it stopped.

    Runs that are given one `memory` make once what leads to the same: teacher, data, stages that begin alike.

    Raises:
        CompressorError: what the user can act on; nothing is written before the structural stages are through.
    """
    begun = time.monotonic()
    telling = RecordingReporter(reporter or SilentReporter())
    check_device(settings.device)
    shared = memory or Memory()
    source = plan.recipe.teacher
    teacher = shared.once(
        ["teacher", source.model_dump(mode="json")], lambda: load_teacher(source.onnx, plan.converters, source.region)
    )
    folder = RunFolder(settings.out, _identity(plan, teacher), resume=settings.resume, beside=settings.beside)
    bench, measured = prepare(plan, teacher, settings, telling, shared)
    line = StageLine(plan, bench, announce, kept(folder))
    untrained = _before_training(plan, line)
    with folder:
        if line.spending is not None:
            keep(line.spending, folder)
        line.run_to(len(plan.graph_stages), folder)
        content, outcome = _finished(plan, line, folder, measured, untrained)
        _deliver(plan, line, folder, content)
        measured = (*measured, *measure_finished(bench.baseline, plan.metrics))
        report = build_report(plan, settings, bench, measured, outcome, time.monotonic() - begun)
        folder.write("run.log", "\n".join([*telling.lines, ""]).encode())
        write_report(folder, report)
        folder.finish()
    return RunResult(report, line.student, settings.out)


def _before_training(plan: Plan, line: StageLine) -> MeasuredModel | None:
    """Run the stages up to the first that trains, and look at what comes after it; returns the student if one does."""
    first = _first_training(plan)
    line.run_to(first, None)
    line.look_ahead()
    if plan.file_stages:
        check_files(plan.file_stages, export_onnx(line.rehearsed_end(), line.bench.teacher.opset))
    return line.bench.measured(line.student) if first < len(plan.graph_stages) else None


def _finished(
    plan: Plan,
    line: StageLine,
    folder: RunFolder,
    measured: Sequence[Measurement],
    untrained: MeasuredModel | None,
) -> tuple[bytes, Outcome]:
    """Return the student's file after the last stages, and what came of it, judged by what was `measured` before."""
    bench = line.bench
    content = export_onnx(line.student, bench.teacher.opset, student_metadata(plan, bench.teacher))
    checks = check_export(content, line.student)
    if plan.file_stages:
        folder.write("student_float.onnx", content)
    student = finish(bench, plan.file_stages, line.student, content, line.records, line.announce)
    records = (*line.records, *student.records)
    bench.reporter.say("measuring the finished student")
    finished = measure_finished(student.measured, plan.metrics)
    return student.content, Outcome(
        records=records,
        finished=finished,
        curve=line.curve,
        allocation=line.allocation,
        verdicts=judge(plan.limits, measured, records[-1].measurements),
        gates=judge_gates(plan.recipe.gates, plan.metrics, (*records[-1].measurements, *finished)),
        checks=checks,
        samples=listening_samples(folder, student.measured, untrained),
        student=line.student,
    )


def _deliver(plan: Plan, line: StageLine, folder: RunFolder, content: bytes) -> None:
    """Write the student, in its place where it is a part of a model, with what lies beside its teacher."""
    teacher = line.bench.teacher
    if teacher.whole is not None:
        folder.write("student_region.onnx", content)
        content = in_its_place(teacher.whole, line.bench, line.student, content, student_metadata(plan, teacher))
    write_student(folder, line.student, content)
    for name, beside in student_sidecars(teacher.source, "student.onnx").items():
        folder.write(name, beside)


def in_its_place(
    whole: WholeModel, bench: Workbench, student: GraphModule, content: bytes, metadata: Mapping[str, str]
) -> bytes:
    """Return the whole model with the student in its region, checked on one of the model's own inputs.

    Raises:
        VerificationError: there the student does not compute what it computes by itself.
    """
    complete = whole.with_student(content, metadata)
    origin = bench.data.origin if bench.data else None
    inputs = origin.inputs if origin else random_inputs(whole.inputs, PROBE_SIZE)
    worst = whole.check(complete, student, inputs)
    bench.reporter.say(f"in its place in the whole model the student equals itself: {worst:.1e} of the largest value")
    return complete


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that this machine does not have.

    Raises:
        CompressorError: names what there is.
    """
    there = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise CompressorError(f"--device {device}: no such device; this machine has {', '.join(there)}") from error
    beyond = found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()
    if found.type not in there or beyond:
        raise CompressorError(f"--device {device}: not on this machine, which has {', '.join(there)}")


def _first_training(plan: Plan) -> int:
    """Return the position of the first stage that trains, or the number of those on the graph."""
    stages = plan.graph_stages
    return next((at for at, stage in enumerate(stages) if stage.strategy.trains), len(stages))


def _identity(plan: Plan, teacher: Teacher) -> str:
    """Name a run: the same recipe on the same teacher.

    Where it is written, how it is judged and what becomes of the finished file does not matter: no training is lost.
    """
    recipe = plan.recipe.model_dump(mode="json", exclude={"out", "teacher", "gates"})
    recipe["stages"] = recipe["stages"][: len(plan.graph_stages)]
    facts = [recipe, teacher.sha256]
    if teacher.whole is not None:
        # What is trained on comes out of what lies before the region.
        facts.append(teacher.whole.before_sha256)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
