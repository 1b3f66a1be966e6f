"""Gather what a run found into its report."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.layer_costs import layer_costs
from compressor.planning import Plan
from compressor.preparing import RunSettings
from compressor.recipe_file import write_recipe
from compressor.report import (
    AllocationRecord,
    CurvePoint,
    ExportCheck,
    GateVerdict,
    LayerRecord,
    ListeningSample,
    Measurement,
    Report,
    StageRecord,
    TeacherRecord,
    Verdict,
)
from compressor.stage_running import Workbench
from compressor.teacher_loading import Teacher

if TYPE_CHECKING:
    from torch.fx import GraphModule

DISTRIBUTIONS = ("onnx-student-compressor", "torch", "onnx", "onnxruntime", "onnx2torch", "torch-pruning", "numpy")


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    records: tuple[StageRecord, ...]
    finished: tuple[Measurement, ...]
    curve: tuple[CurvePoint, ...]
    allocation: tuple[AllocationRecord, ...]
    verdicts: tuple[Verdict, ...]
    gates: tuple[GateVerdict, ...]
    checks: tuple[ExportCheck, ...]
    samples: tuple[ListeningSample, ...]
    student: GraphModule


def build_report(
    plan: Plan,
    settings: RunSettings,
    bench: Workbench,
    measured: Sequence[Measurement],
    outcome: Outcome,
    seconds: float,
) -> Report:
    """Return the report of a finished run."""
    teacher = TeacherRecord(
        source=bench.teacher.source,
        sha256=bench.teacher.sha256,
        opset=bench.teacher.opset,
        licence=licence(plan, bench.teacher),
        parameters=bench.baseline.parameters,
        measurements=tuple(measured),
        layers=_layers(bench.teacher.graph),
    )
    return Report(
        name=settings.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        teacher=teacher,
        data=bench.data.description if bench.data else "",
        data_findings=bench.data.findings if bench.data else (),
        stages=outcome.records,
        finished=outcome.finished,
        layers=_layers(outcome.student),
        allocation=outcome.allocation,
        verdicts=outcome.verdicts,
        gates=outcome.gates,
        export_checks=outcome.checks,
        curve=outcome.curve,
        samples=outcome.samples,
        validation_samples=tuple(sample.name for sample in bench.data.validation) if bench.data else (),
        sample_rate=bench.data.sample_rate if bench.data else None,
        environment=environment(bench.device),
        recipe=write_recipe(plan.recipe),
        folder=settings.out.as_posix(),
    )


def _layers(graph: GraphModule) -> tuple[LayerRecord, ...]:
    return tuple(LayerRecord(**asdict(cost)) for cost in layer_costs(graph))


def licence(plan: Plan, teacher: Teacher) -> str:
    """Return what is known of the teacher's licence: the recipe's word, or the file's own."""
    stated = {key.lower(): value for key, value in teacher.metadata.items()}
    return plan.recipe.licence or stated.get("license") or stated.get("licence") or "not stated; ask whoever made it"


def student_metadata(plan: Plan, teacher: Teacher) -> dict[str, str]:
    """Return what a student's file says of itself: the teacher's metadata, and where it derives from."""
    return {
        **teacher.metadata,
        "derived_from_sha256": teacher.sha256,
        "teacher_licence": licence(plan, teacher),
        "compressor_version": metadata.version("onnx-student-compressor"),
    }


def environment(device: str) -> dict[str, str]:
    """Return the versions and the machine that figures depend on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "device": device,
        **{name: metadata.version(name) for name in DISTRIBUTIONS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
