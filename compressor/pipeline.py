"""A whole run: teacher in, student out, and everything one wants to know on the way."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compressor.artifacts import write_report, write_student
from compressor.budget import following_rates, judge, limit_values
from compressor.cache_folder import default_cache_dir
from compressor.data_source import DataContext
from compressor.dataset import Dataset
from compressor.errors import CompressorError, DataError
from compressor.finishing import finish
from compressor.gates import judge_gates, missed_beforehand
from compressor.graph_editing import copy_graph
from compressor.listening import listening_samples
from compressor.measuring import MeasuredModel, measure, measure_finished
from compressor.onnx_export import export_onnx
from compressor.planning import Plan
from compressor.progress import RecordingReporter, Reporter, SilentReporter
from compressor.rehearsal import Rehearsal, budgeted, look_ahead
from compressor.rehearsing import spend_budget
from compressor.report import AllocationRecord, CurvePoint, Measurement, Report, StageRecord
from compressor.report_building import Outcome, build_report, student_metadata
from compressor.run_folder import RunFolder
from compressor.sidecars import student_sidecars
from compressor.spending import Spending, keep, kept
from compressor.stage_running import Workbench, run_stage
from compressor.teacher_loading import Teacher, load_teacher
from compressor.tensor_spec import random_inputs
from compressor.verification import check_export

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.whole_model import WholeModel

PROBE_SIZE = 32
"""Size of dynamic axes where no data says what inputs look like."""


@dataclass(frozen=True)
class RunSettings:
    """What belongs to one run and not to the recipe."""

    out: Path
    name: str = "student"
    device: str = "cpu"
    resume: bool = False
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Where data sources keep what is costly to make."""


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
) -> RunResult:
    """Run a plan and write its run folder; an interrupted run of the same plan goes on where it stopped.

    Raises:
        CompressorError: what the user can act on; nothing is written before the structural stages are through.
    """
    begun = time.monotonic()
    telling = RecordingReporter(reporter or SilentReporter())
    check_device(settings.device)
    teacher = load_teacher(plan.recipe.teacher.onnx, plan.converters, plan.recipe.teacher.region)
    folder = RunFolder(settings.out, _identity(plan, teacher), resume=settings.resume)
    bench, measured = prepare(plan, teacher, settings, telling)
    line = StageLine(plan, bench, announce, kept(folder))
    line.run_to(_first_training(plan), None)
    line.look_ahead()
    before_training = bench.measured(line.student) if _first_training(plan) < len(plan.graph_stages) else None
    with folder:
        if line.spending is not None:
            keep(line.spending, folder)
        line.run_to(len(plan.graph_stages), folder)
        content = export_onnx(line.student, teacher.opset, student_metadata(plan, teacher))
        checks = check_export(content, line.student)
        student = finish(bench, plan.file_stages, line.student, content, line.records[-1] if line.records else None)
        records = (*line.records, *student.records)
        telling.say("measuring the finished student")
        finished = measure_finished(student.measured, plan.metrics)
        outcome = Outcome(
            records=records,
            finished=finished,
            curve=line.curve,
            allocation=line.allocation,
            verdicts=judge(plan.limits, measured, records[-1].measurements),
            gates=judge_gates(plan.recipe.gates, plan.metrics, (*records[-1].measurements, *finished)),
            checks=checks,
            samples=listening_samples(folder, student.measured, before_training),
        )
        if plan.file_stages:
            folder.write("student_float.onnx", content)
            content = student.content
        if teacher.whole is not None:
            folder.write("student_region.onnx", content)
            content = in_its_place(teacher.whole, bench, line.student, content, student_metadata(plan, teacher))
        write_student(folder, line.student, content)
        for name, beside in student_sidecars(teacher.source, "student.onnx").items():
            folder.write(name, beside)
        measured = (*measured, *measure_finished(bench.baseline, plan.metrics))
        report = build_report(plan, settings.name, bench, measured, outcome, time.monotonic() - begun)
        folder.write("run.log", "\n".join([*telling.lines, ""]).encode())
        write_report(folder, report)
        folder.finish()
    return RunResult(report, line.student, settings.out)


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

    def run_to(self, end: int, folder: RunFolder | None) -> None:
        """Run the stages that come before position `end` and are not done yet."""
        for position in range(len(self.records), end):
            stage = self.stages[position]
            before = self.records[-1] if self.records else None
            self.bench.reporter.say(f"[{position + 1}/{len(self.stages)}] {stage.label}")
            if self.spending is None and self.bench.limits and budgeted(stage):
                choices, allocation = spend_budget(self.bench, self.stages[position:], self.student)
                self.spending = Spending(choices=choices, allocation=allocation)
                if folder is not None:
                    keep(self.spending, folder)
            own = self.spending.choices.get(stage.label, {}) if self.spending else {}
            result = run_stage(self.bench, stage, own, self.student, before, folder)
            self.student = result.student
            self.records.append(result.record)
            self.curve += result.curve
            self.announce(result.record)


def prepare(
    plan: Plan, teacher: Teacher, settings: RunSettings, reporter: Reporter
) -> tuple[Workbench, tuple[Measurement, ...]]:
    """Load the data and measure the teacher.

    Raises:
        DataError: the data cannot be used for this teacher.
    """
    reporter.say(f"teacher {teacher.source}: opset {teacher.opset}, equal to onnxruntime")
    data = _load_data(plan, teacher, settings, reporter)
    baseline = MeasuredModel(teacher.graph, teacher, data)
    measured = measure(baseline, plan.metrics)
    for warning in missed_beforehand(plan.recipe.gates, measured):
        reporter.say(warning)
    bench = Workbench(
        teacher=teacher,
        data=data,
        baseline=baseline,
        metrics=plan.metrics,
        limits=limit_values(plan.limits, measured),
        rates=following_rates(plan.metrics, plan.limits, measured),
        workdir=settings.out / "stages",
        device=settings.device,
        seed=plan.recipe.seed,
        reporter=reporter,
    )
    return bench, measured


def _load_data(plan: Plan, teacher: Teacher, settings: RunSettings, reporter: Reporter) -> Dataset | None:
    if plan.data is None:
        return None
    about = teacher.whole or teacher
    context = DataContext(about.inputs, about.outputs, plan.recipe.seed, settings.cache_dir, reporter, teacher.source)
    data = plan.data.load(context)
    if teacher.whole is not None:
        data = teacher.whole.recorded(data, plan.recipe.seed, teacher.inputs)
    reporter.say(f"data: {data.description}")
    for finding in data.findings:
        reporter.say(f"  {finding}")
    _check_lengths(teacher, data)
    return data


def _check_lengths(teacher: Teacher, data: Dataset) -> None:
    """Refuse data whose references are not as long as what the teacher puts out for them, or that validate nothing."""
    if not data.validation:
        raise DataError(f"the data has no validation samples ({data.description}): use more of it")
    sample = min(data.validation, key=lambda sample: next(iter(sample.inputs.values())).size)
    if sample.reference is None:
        return
    made = MeasuredModel(teacher.graph, teacher, Dataset((), (sample,), "", sample_rate=data.sample_rate)).outputs[0]
    if len(made) != len(sample.reference):
        raise DataError(
            f"the teacher puts out {len(made):,} samples where the recording of '{sample.name}' has "
            f"{len(sample.reference):,}: it works at another hop length or is no model for this data. "
            "Set the data's analysis (mel: {hop_length: …}) to the teacher's."
        )


def _identity(plan: Plan, teacher: Teacher) -> str:
    """Name a run: the same recipe on the same teacher (where it is written, and how it is judged, does not matter)."""
    facts = [plan.recipe.model_dump(mode="json", exclude={"out", "teacher", "gates"}), teacher.sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
