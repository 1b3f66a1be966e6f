"""What a run has to tell: measurements stage by stage, verdicts, and the way there. Written as `report.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """What is written once and never changed; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Measurement(Record):
    """One metric's number about one model; `note` says why where there is no number."""

    metric: str
    """Its name; `stoi/recording` is `stoi` against the recordings, where `stoi` is against the teacher."""
    value: float | None
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"
    note: str = ""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, by bootstrap over validation samples; None where the number is no mean over them."""
    scores: tuple[float | None, ...] = ()
    """The number for each validation sample by itself; None where the sample says nothing."""
    parts: dict[str, float | None] = {}
    """What the number is made of, such as one for each frequency band."""


class FindingRecord(Record):
    """Something a stage did, or did not do and why."""

    message: str
    layer: str = ""
    values: dict[str, Any] = {}


class StageRecord(Record):
    """One finished stage: what it was asked, what it did, and the student measured after it."""

    stage: str
    strategy: str
    options: dict[str, Any] = {}
    fingerprint: str = ""
    seconds: float = 0.0
    restored: bool = False
    """True: taken from another run, or an interrupted start of this one, of the same fingerprint."""
    proof: str = ""
    """For exact stages: how far the output moved, and what was allowed."""
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[FindingRecord, ...] = ()


class AllocationRecord(Record):
    """One change that the budget was spent on: what it saves, and the error that was predicted."""

    stage: str
    layer: str
    setting: int | float | str
    layers: tuple[str, ...] = ()
    """All that change with it, such as those that share its channels; empty: `layer` alone."""
    saving: dict[str, float]
    """By metric."""
    error: float
    """Predicted where it arises: error energy as a share of the signal's."""
    output_error: float
    """Predicted at the model's output; these add up to what the allocation minimises."""


class Verdict(Record):
    """One limit of the budget, and whether the student keeps it."""

    metric: str
    limit: float
    limit_text: str
    """As the recipe has it, such as `30%`."""
    teacher: float
    student: float
    met: bool


class GateVerdict(Record):
    """One quality gate, and whether the finished student passes it; `note` says why where it has no figure."""

    metric: str
    threshold: float
    better: Literal["lower", "higher"]
    """Higher: the student needs at least the threshold; lower: at most."""
    student: float | None
    met: bool
    unit: str = ""
    note: str = ""

    @property
    def bound(self) -> str:
        """Say on which side of the threshold the student has to be."""
        return "at least" if self.better == "higher" else "at most"


class ExportCheck(Record):
    """The written file in onnxruntime against the torch student, at one size of the dynamic axes."""

    size: int
    max_abs_difference: float
    allowed: float


class ListeningSample(Record):
    """One validation sample as wav files inside the run folder (paths relative to it)."""

    name: str
    teacher: str
    student: str
    recording: str | None = None
    before_training: str | None = None


class CurvePoint(Record):
    """One point of training: losses at a step; `phase` is `block-wise` or `end-to-end`."""

    stage: str = ""
    """Label of the stage that trained; the core fills it in."""
    phase: str
    step: int
    seconds: float
    losses: dict[str, float]
    validation: dict[str, float] = {}


class LayerRecord(Record):
    """A layer's share of what a model costs."""

    layer: str
    kind: str
    parameters: int
    macs: int
    """For one input with every dynamic axis at a size of 32."""


class TeacherRecord(Record):
    """Where the student comes from."""

    source: str
    sha256: str
    opset: int
    licence: str
    """What is known of the teacher's licence; a student derives from it."""
    parameters: int
    measurements: tuple[Measurement, ...] = ()
    layers: tuple[LayerRecord, ...] = ()


class Report(Record):
    """The whole run."""

    format: Literal[1] = 1
    name: str
    created: str
    """UTC, ISO 8601."""
    seconds: float
    teacher: TeacherRecord
    data: str = ""
    data_findings: tuple[str, ...] = ()
    stages: tuple[StageRecord, ...]
    finished: tuple[Measurement, ...] = ()
    """What only the finished student is measured by: slow metrics, and comparisons with recordings."""
    layers: tuple[LayerRecord, ...] = ()
    """The finished student's."""
    allocation: tuple[AllocationRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    gates: tuple[GateVerdict, ...] = ()
    export_checks: tuple[ExportCheck, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    samples: tuple[ListeningSample, ...] = ()
    validation_samples: tuple[str, ...] = ()
    """Names of the samples that `Measurement.scores` are of, in their order."""
    sample_rate: int | None = None
    environment: dict[str, str] = {}
    recipe: str = ""
    """The recipe as run, in YAML."""
    folder: str = ""
    """The run folder as it was named where the run was made, which is where the recipe's paths begin too."""

    @property
    def student(self) -> tuple[Measurement, ...]:
        """The finished student's measurements."""
        return (*(self.stages[-1].measurements if self.stages else ()), *self.finished)
