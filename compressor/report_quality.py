"""How the finished student sounds, in words: each metric against the teacher and against the recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.figures import NOTHING, in_words, with_interval
from compressor.report import Measurement, Report
from compressor.signal_metric import measured_name, split_measured_name


@dataclass(frozen=True)
class QualityRow:
    """One metric that compares signals; figures come with their 95 % intervals."""

    metric: str
    better: str
    student: str
    """Against the teacher."""
    student_recording: str
    """Against the recording, a dash where there is none."""
    teacher_recording: str
    """The teacher against the recording: what the student can be expected to reach."""
    parts: tuple[tuple[str, str], ...] = ()
    """Of the student's figure against the teacher, such as one for each frequency band."""


def quality_rows(report: Report) -> tuple[QualityRow, ...]:
    """Return a row for each metric that compares signals, in the order measured."""
    student, teacher = _by_name(report.student), _by_name(report.teacher.measurements)
    compared = {split_measured_name(name)[0] for name, entry in student.items() if entry.scores}
    return tuple(_row(metric, student, teacher) for metric in student if metric in compared)


def figure(entry: Measurement | None) -> str:
    """Return a measurement with its interval, or why there is no number."""
    if entry is None:
        return NOTHING
    if entry.value is None:
        return f"not measured: {entry.note}"
    return with_interval(entry.value, entry.low, entry.high, entry.unit)


def _row(metric: str, student: Mapping[str, Measurement], teacher: Mapping[str, Measurement]) -> QualityRow:
    found, recorded = student[metric], measured_name(metric, "recording")
    return QualityRow(
        metric=metric,
        better=found.better,
        student=figure(found),
        student_recording=figure(student.get(recorded)),
        teacher_recording=figure(teacher.get(recorded)),
        parts=tuple((part, in_words(value, found.unit)) for part, value in found.parts.items() if value is not None),
    )


def _by_name(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {entry.metric: entry for entry in measurements}
