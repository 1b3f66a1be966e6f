"""What two finished runs come to beside each other, as data: A is the first, B the second."""

from __future__ import annotations

from typing import Literal

from compressor.report import GateVerdict, Measurement, Record, Verdict


class ComparedRun(Record):
    """Which run it is."""

    folder: str
    name: str
    created: str
    """UTC, ISO 8601."""
    seconds: float
    teacher: str
    teacher_sha256: str
    data: str


class OptionDifference(Record):
    """An option that is not the same; None where a recipe has nothing there."""

    key: str
    """As `--set` has it, such as `distillation.end_to_end.steps`; a stage's label where only one run has it."""
    a: str | None
    b: str | None


class Difference(Record):
    """By how much B's number differs from A's, in the metric's unit: the mean over the utterances that both have."""

    mean: float
    low: float
    high: float
    """Ends of the 95 % interval, by paired bootstrap."""
    beyond_chance: bool
    """The interval leaves zero out."""
    utterances: int


class ComparedFigure(Record):
    """A metric of both finished students, and of their teachers where it was measured."""

    metric: str
    unit: str = ""
    better: Literal["lower", "higher"]
    teacher_a: Measurement | None = None
    teacher_b: Measurement | None = None
    a: Measurement | None = None
    b: Measurement | None = None
    compares: bool = True
    """False: a figure against the teacher, where the teachers are two."""
    difference: Difference | None = None
    why_none: str = ""
    """Why no difference is told between metrics that have scores for each utterance."""


class ComparedLimit(Record):
    """A limit of the budget or a quality gate, as each run was judged by it; None where its recipe had none."""

    kind: Literal["budget", "gate"]
    metric: str
    a: Verdict | GateVerdict | None
    b: Verdict | GateVerdict | None


class Comparison(Record):
    """Two runs beside each other."""

    format: Literal[1] = 1
    a: ComparedRun
    b: ComparedRun
    notes: tuple[str, ...]
    """What a reader has to know before any figure."""
    options: tuple[OptionDifference, ...]
    costs: tuple[ComparedFigure, ...]
    quality: tuple[ComparedFigure, ...]
    """Metrics with a score for each utterance."""
    limits: tuple[ComparedLimit, ...]

    @property
    def one_teacher(self) -> bool:
        """Say whether both students have the same teacher."""
        return self.a.teacher_sha256 == self.b.teacher_sha256
