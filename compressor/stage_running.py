"""One stage at a time: apply, prove, measure, keep."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.allocation import Choice
from compressor.dataset import Dataset
from compressor.errors import CompressorError, StageError
from compressor.graph_editing import copy_graph, input_specs
from compressor.measuring import MeasuredModel, measure
from compressor.memory import Memory
from compressor.metric import Metric
from compressor.planning import PlannedStage
from compressor.progress import Reporter
from compressor.report import CurvePoint, FindingRecord, Measurement, StageRecord
from compressor.run_folder import RunFolder
from compressor.strategy import BudgetedStrategy, Finding, StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.verification import check_stage

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True, eq=False)
class Workbench:
    """What all stages of one run share."""

    teacher: Teacher
    data: Dataset | None
    baseline: MeasuredModel
    metrics: tuple[Metric, ...]
    limits: Mapping[str, float]
    """The budget in numbers."""
    rates: Mapping[str, tuple[str, float]]
    """For limited metrics that follow another: which one, and how much of this for one of that."""
    workdir: Path
    """Where stages keep files of their own; not made before one needs it."""
    device: str
    seed: int
    reporter: Reporter
    memory: Memory = field(default_factory=Memory)
    """Stages that earlier runs of the same process have been through."""

    def measured(self, student: GraphModule) -> MeasuredModel:
        """Return a student ready to be measured against the teacher."""
        return MeasuredModel(student, self.teacher, self.data, self.baseline)

    def context(self, stage: PlannedStage, choices: Mapping[str, Choice], *, rehearsing: bool = False) -> StageContext:
        """Return what a stage may know; in a rehearsal, where only costs count, it does without data if it can."""
        return StageContext(
            stage=stage.label,
            teacher=self.teacher,
            choices=choices,
            data=None if rehearsing and not _needs_data_to_choose(stage) else self.data,
            device=self.device,
            seed=self.seed,
            workdir=self.workdir / stage.label,
            reporter=self.reporter,
        )

    def fingerprint(self, stage: PlannedStage, choices: Mapping[str, Choice], before: str) -> str:
        """Name all that leads to a stage's result: what came before, the strategy, its options, the seed, the data.

        And what the budget chose for it, which a clock may have a part in.
        """
        facts = [
            before or self.teacher.sha256,
            stage.strategy.name,
            stage.origin,
            stage.strategy.model_dump(mode="json"),
            dict(choices),
            self.seed,
            self.data.identity if self.data else None,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _needs_data_to_choose(stage: PlannedStage) -> bool:
    """Say whether what a stage costs depends on data: not where the budget has chosen for it."""
    strategy = stage.strategy
    return strategy.needs_data and (strategy.fixed if isinstance(strategy, BudgetedStrategy) else True)


@dataclass(frozen=True, eq=False)
class StageResult:
    """A finished stage: the student after it, its record, and its training curve."""

    student: GraphModule
    record: StageRecord
    curve: tuple[CurvePoint, ...]


def run_stage(
    bench: Workbench,
    stage: PlannedStage,
    choices: Mapping[str, Choice],
    student: GraphModule,
    before: StageRecord | None,
    folder: RunFolder | None,
) -> StageResult:
    """Run one stage; a training stage is restored from `folder`, or a run beside it, if it was finished there before.

    `choices` is what the budget's allocation chose for it; `before` is the record of the stage before, if there is one.

    Raises:
        StageError: the strategy failed.
        CompressorError: what the strategy raises for the user, such as a budget that cannot be met.
        VerificationError: a stage that should keep the output changed it.
    """
    fingerprint = bench.fingerprint(stage, choices, before.fingerprint if before else "")
    metrics = [[metric.name, metric.model_dump(mode="json")] for metric in bench.metrics]
    kept = folder if stage.strategy.trains else None
    with kept.alone_with(fingerprint, bench.reporter.say) if kept is not None else nullcontext():
        result = bench.memory.once(
            ["stage", stage.label, fingerprint, bench.device, metrics],
            lambda: _run(bench, stage, choices, student, before, kept, fingerprint),
        )
        if kept is not None and kept.saved_weights(stage.label, fingerprint) is None:
            # Notes first: where the weights are, all is.
            kept.write(f"stages/{stage.label}.json", _notes(result).encode())
            kept.save_weights(stage.label, fingerprint, result.student.state_dict())
    return result


def _run(
    bench: Workbench,
    stage: PlannedStage,
    choices: Mapping[str, Choice],
    student: GraphModule,
    before: StageRecord | None,
    folder: RunFolder | None,
    fingerprint: str,
) -> StageResult:
    begun = time.monotonic()
    outcome = _restored(stage, student, folder, fingerprint)
    restored = outcome is not None
    if outcome is None:
        outcome = apply_stage(stage, student, bench.context(stage, choices))
    proof = ""
    if stage.strategy.preserves_output:
        proof = check_stage(stage.label, student, outcome.student, input_specs(student))
    same_output = before.measurements if before and stage.strategy.preserves_output else ()
    measurements = measure(bench.measured(outcome.student), bench.metrics, same_output)
    seconds = time.monotonic() - begun
    record = stage_record(stage, outcome.findings, fingerprint, measurements, seconds, restored=restored, proof=proof)
    curve = tuple(point.model_copy(update={"stage": stage.label}) for point in outcome.curve)
    return StageResult(outcome.student, record, curve)


def apply_stage(stage: PlannedStage, student: GraphModule, context: StageContext) -> StageOutcome:
    """Apply a strategy to a copy of the student.

    Raises:
        StageError: it failed.
        CompressorError: what it raises for the user.
    """
    with blamed_on(stage):
        return stage.strategy.apply(copy_graph(student), context)


@contextmanager
def blamed_on(stage: PlannedStage) -> Iterator[None]:
    """Name the stage in what goes wrong.

    Raises:
        StageError: for any error but those that are for the user already.
    """
    try:
        yield
    except (CompressorError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise StageError(stage.label, f"{type(error).__name__}: {error}") from error


def _notes(result: StageResult) -> str:
    findings = [finding.model_dump() for finding in result.record.findings]
    curve = [point.model_dump() for point in result.curve]
    return json.dumps({"fingerprint": result.record.fingerprint, "findings": findings, "curve": curve}, indent=1)


def _restored(
    stage: PlannedStage, student: GraphModule, folder: RunFolder | None, fingerprint: str
) -> StageOutcome | None:
    """Return a training stage's earlier result, if the same things led to it."""
    found = folder.trained(stage.label, fingerprint) if folder is not None else None
    if found is None:
        return None
    weights, notes = found
    content = json.loads(notes)
    if content.get("fingerprint", fingerprint) != fingerprint:
        # A run beside this one is just writing what it made of something else.
        return None
    trained = copy_graph(student)
    trained.load_state_dict(weights)
    return StageOutcome(
        trained,
        tuple(Finding(**entry) for entry in content["findings"]),
        tuple(CurvePoint(**point) for point in content["curve"]),
    )


def stage_record(
    stage: PlannedStage,
    findings: Sequence[Finding],
    fingerprint: str,
    measurements: tuple[Measurement, ...],
    seconds: float,
    *,
    restored: bool = False,
    proof: str = "",
) -> StageRecord:
    """Return what a report keeps of a stage."""
    return StageRecord(
        stage=stage.label,
        strategy=stage.strategy.name,
        options=stage.strategy.model_dump(mode="json"),
        fingerprint=fingerprint,
        seconds=seconds,
        restored=restored,
        proof=proof,
        measurements=measurements,
        findings=tuple(_finding(entry.message, entry.layer, entry.values) for entry in findings),
    )


def _finding(message: str, layer: str, values: Mapping[str, object]) -> FindingRecord:
    return FindingRecord(message=message, layer=layer, values=dict(values))
