"""What the report page says, in words: verdict, headline figures and the table of stages."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from compressor.figures import NOTHING, duration_in_words, in_words, ratio_in_words, share_in_words
from compressor.report import GateVerdict, Measurement, Report, StageRecord, Verdict
from compressor.signal_metric import split_measured_name

_ABBREVIATIONS = {"f0", "f1", "l1", "l2", "mse", "rmse", "snr", "stft", "stoi"}
_LABELS = {"macs": "MACs", "pesq-wb": "PESQ-WB", "bytes": "file size", "rtf": "real-time factor", "speedup": "speed-up"}
_AMOUNT_UNITS = ("B", "bytes", "MAC", "parameters")
_TIME_UNITS = ("ms", "s")


@dataclass(frozen=True)
class Column:
    """A metric as a column of the stage table."""

    metric: str
    label: str
    better: str


@dataclass(frozen=True)
class Cell:
    """A measurement in words, its relation to the teacher's such as `30.1%` or `2.9×`, and a note on it."""

    text: str
    relation: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """The teacher, or the student after a stage."""

    name: str
    cells: tuple[Cell, ...]
    stage: StageRecord | None = None
    duration: str = NOTHING


@dataclass(frozen=True)
class Headline:
    """One figure of the teacher against the finished student's."""

    label: str
    teacher: str
    student: str
    relation: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict in words."""

    met: bool
    text: str


def label(metric: str) -> str:
    """Return a metric's name as a reader would say it."""
    name, against = split_measured_name(metric)
    words = name.replace("_", " ").replace("-", " ").split()
    said = _LABELS.get(name, " ".join(word.upper() if word in _ABBREVIATIONS else word for word in words))
    return f"{said} against the recording" if against == "recording" else said


def columns(report: Report) -> tuple[Column, ...]:
    """Return every metric measured on teacher or student, in the order found, but those for finished students only."""
    found: dict[str, Column] = {}
    finished_only = _by_metric(report.finished)
    for measurement in _all_measurements(report):
        if measurement.metric not in found and measurement.metric not in finished_only:
            column = Column(measurement.metric, label(measurement.metric), measurement.better)
            found[measurement.metric] = column
    return tuple(found.values())


def rows(report: Report) -> tuple[Row, ...]:
    """Return the stage table: the teacher, then the student after each stage."""
    shown = columns(report)
    teacher = _by_metric(report.teacher.measurements)
    first = Row("teacher", tuple(_cell(teacher.get(column.metric), None) for column in shown))
    return (first, *(_stage_row(stage, teacher, shown) for stage in report.stages))


def headlines(report: Report) -> tuple[Headline, ...]:
    """Return what could be measured of the finished student, beside the teacher's figure."""
    teacher = _by_metric(report.teacher.measurements)
    final = report.stages[-1].measurements if report.stages else ()
    return tuple(
        _headline(measurement, teacher.get(measurement.metric))
        for measurement in final
        if measurement.value is not None
    )


def judgements(report: Report) -> tuple[Judgement, ...]:
    """Return each limit of the budget and each quality gate in words."""
    units = {measurement.metric: measurement.unit for measurement in _all_measurements(report)}
    limits = (Judgement(verdict.met, _judged(verdict, units.get(verdict.metric, ""))) for verdict in report.verdicts)
    return (*limits, *(Judgement(gate.met, _judged_gate(gate)) for gate in report.gates))


def verdict_line(report: Report) -> str:
    """Return in words whether the budget is kept and the quality gates are passed."""
    limits = _summary(report.verdicts, "budget limit", "met")
    gates = _summary(report.gates, "quality gate", "passed")
    return " ".join(filter(None, (limits, gates))) or "The recipe sets no budget."


def rerun_command(report: Report) -> str:
    """Return what makes the run once more where it was made before; empty for reports that do not know their folder."""
    if not report.folder:
        return ""
    folder = PurePosixPath(report.folder)
    device = report.environment.get("device", "cpu")
    elsewhere = [] if device == "cpu" else ["--device", device]
    # A folder that holds a finished run is refused.
    again = f"{folder}-again" if folder.name else "again"
    return shlex.join(["compress", "run", str(folder / "recipe.yaml"), *elsewhere, "--out", again])


def _summary(verdicts: Sequence[Verdict | GateVerdict], noun: str, kept: str) -> str:
    count = len(verdicts)
    missed = [label(verdict.metric) for verdict in verdicts if not verdict.met]
    if missed:
        return f"{len(missed)} of {count} {noun}s missed: {', '.join(missed)}."
    if count > 1:
        return f"All {count} {noun}s are {kept}."
    return f"The {noun} is {kept}." if count else ""


def _judged_gate(gate: GateVerdict) -> str:
    found = f"not measured ({gate.note})" if gate.student is None else in_words(gate.student, gate.unit)
    return f"{label(gate.metric)}: {found}; the gate asks for {gate.bound} {in_words(gate.threshold, gate.unit)}"


def _judged(verdict: Verdict, unit: str) -> str:
    student, limit = in_words(verdict.student, unit), in_words(verdict.limit, unit)
    teacher = in_words(verdict.teacher, unit)
    asked = f", {verdict.limit_text} of the teacher's {teacher}" if "%" in verdict.limit_text else ""
    return f"{label(verdict.metric)}: {student}; the limit is {limit}{asked}"


def _headline(student: Measurement, teacher: Measurement | None) -> Headline:
    cell, share = _cell(student, teacher), _is_amount(student)
    relation = f"{cell.relation} {'of the teacher' if share else 'as fast'}" if cell.relation else ""
    return Headline(label(student.metric), _cell(teacher, None).text, cell.text, relation)


def _all_measurements(report: Report) -> Iterable[Measurement]:
    yield from report.teacher.measurements
    for stage in report.stages:
        yield from stage.measurements


def _by_metric(measurements: Sequence[Measurement]) -> dict[str, Measurement]:
    return {measurement.metric: measurement for measurement in measurements}


def _stage_row(stage: StageRecord, teacher: dict[str, Measurement], shown: Sequence[Column]) -> Row:
    measured = _by_metric(stage.measurements)
    cells = tuple(_cell(measured.get(column.metric), teacher.get(column.metric)) for column in shown)
    return Row(stage.stage, cells, stage, duration_in_words(stage.seconds))


def _cell(measurement: Measurement | None, teacher: Measurement | None) -> Cell:
    if measurement is None:
        return Cell(NOTHING)
    if measurement.value is None:
        return Cell("not measured", note=measurement.note)
    return Cell(in_words(measurement.value, measurement.unit), _relation(measurement, teacher), measurement.note)


def _relation(measurement: Measurement, teacher: Measurement | None) -> str:
    """Return an amount as a share of the teacher's, a time as a speed-up, and nothing for other metrics."""
    if teacher is None or teacher.value is None or measurement.value is None:
        return ""
    if _is_amount(measurement):
        return share_in_words(measurement.value, teacher.value)
    if is_time(measurement):
        return ratio_in_words(teacher.value, measurement.value)
    return ""


def is_cost(measurement: Measurement) -> bool:
    """Say whether a measurement is of the model alone: an amount or a time, and no comparison with a teacher."""
    return _is_amount(measurement) or is_time(measurement)


def is_time(measurement: Measurement) -> bool:
    """Say whether a measurement is one of time, which depends on the machine."""
    return measurement.unit in _TIME_UNITS or measurement.metric == "rtf"


def _is_amount(measurement: Measurement) -> bool:
    return measurement.unit in _AMOUNT_UNITS or measurement.metric == "parameters"
