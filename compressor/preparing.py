"""What all stages of a run need: the data, the teacher measured, the budget in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from compressor.budget import following_rates, limit_values
from compressor.cache_folder import default_cache_dir
from compressor.data_source import DataContext
from compressor.dataset import Dataset
from compressor.errors import DataError
from compressor.gates import missed_beforehand
from compressor.measuring import MeasuredModel, measure
from compressor.memory import Memory
from compressor.planning import Plan
from compressor.progress import Reporter
from compressor.report import Measurement
from compressor.stage_running import Workbench
from compressor.teacher_loading import Teacher


@dataclass(frozen=True)
class RunSettings:
    """What belongs to one run and not to the recipe."""

    out: Path
    name: str = "student"
    device: str = "cpu"
    resume: bool = False
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Where data sources keep what is costly to make."""
    beside: Path | None = None
    """A folder of runs, this one among them, that share what training stages made of the same."""


def prepare(
    plan: Plan, teacher: Teacher, settings: RunSettings, reporter: Reporter, memory: Memory | None = None
) -> tuple[Workbench, tuple[Measurement, ...]]:
    """Load the data and measure the teacher; `memory` holds what earlier runs of this process made.

    Raises:
        DataError: the data cannot be used for this teacher.
    """
    reporter.say(f"teacher {teacher.source}: opset {teacher.opset}, equal to onnxruntime")
    shared = memory or Memory()
    recipe = plan.recipe.model_dump(mode="json")
    facts = [teacher.sha256, recipe["teacher"], recipe["data"], plan.recipe.seed]
    data = shared.once(["data", *facts], lambda: _load_data(plan, teacher, settings, reporter))
    baseline = shared.once(["baseline", *facts], lambda: MeasuredModel(teacher.graph, teacher, data))
    metrics = [[metric.name, metric.model_dump(mode="json")] for metric in plan.metrics]
    measured = shared.once(["measured", *facts, metrics], lambda: measure(baseline, plan.metrics))
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
        memory=shared,
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
