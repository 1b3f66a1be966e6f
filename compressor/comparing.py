"""Hold two finished runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from compressor.bootstrap import FEWEST_PAIRS, paired_difference
from compressor.comparison import ComparedFigure, ComparedLimit, ComparedRun, Comparison, Difference
from compressor.recipe_difference import recipe_differences
from compressor.recipe_overrides import unique_labels
from compressor.report import GateVerdict, Measurement, Report, Verdict
from compressor.report_html import sample_path
from compressor.report_view import is_cost
from compressor.run_reading import FinishedRun
from compressor.signal_metric import split_measured_name
from compressor.spectrogram import read_signal

SAME_SOUND = 1e-3
"""Most by which sounds of one utterance differ, of full scale: by sixteen bits, and another machine's rounding."""


def compare(first: FinishedRun, second: FinishedRun) -> Comparison:
    """Compare run B, the second, with run A, the first.

    Raises:
        RunFolderError: a report holds a recipe, or a run folder a sample, that cannot be read.
    """
    figures = _figures(first.report, second.report, _why_unpaired(first, second))
    scored = {entry.metric for run in (first, second) for entry in run.report.student if entry.scores}
    scored |= {split_measured_name(metric)[0] for metric in scored}
    quality = [figure for figure in figures if split_measured_name(figure.metric)[0] in scored]
    return Comparison(
        a=_told(first),
        b=_told(second),
        notes=_notes(first.report, second.report),
        options=recipe_differences(first, second),
        costs=tuple(figure for figure in figures if figure not in quality),
        quality=tuple(quality),
        limits=(
            *_limits("budget", first.report.verdicts, second.report.verdicts),
            *_limits("gate", first.report.gates, second.report.gates),
        ),
    )


def _told(run: FinishedRun) -> ComparedRun:
    report = run.report
    return ComparedRun(
        folder=str(run.folder),
        name=report.name,
        created=report.created,
        seconds=report.seconds,
        teacher=report.teacher.source,
        teacher_sha256=report.teacher.sha256,
        data=report.data,
    )


def _notes(first: Report, second: Report) -> tuple[str, ...]:
    notes = []
    if not _same_teacher(first, second):
        notes.append(
            f"The runs have different teachers ({first.teacher.source}; {second.teacher.source}): figures against the "
            "teacher do not compare. Costs do, and figures against the recordings."
        )
    names = [_utterances(report) for report in (first, second)]
    if names[0] and names[1] and names[0] != names[1]:
        notes.append(
            f"The runs validate on different utterances: {len(names[0])} and {len(names[1])}, of which "
            f"{len(set(names[0]) & set(names[1]))} are in both. Differences are of those; means are of all."
        )
    machines = [report.environment.get("processor", "") for report in (first, second)]
    if machines[0] != machines[1]:
        notes.append("The runs were measured on different processors: of times only shares of the teacher's compare.")
    return tuple(notes)


def _same_teacher(first: Report, second: Report) -> bool:
    return first.teacher.sha256 == second.teacher.sha256


def _utterances(report: Report) -> tuple[str, ...]:
    return unique_labels(report.validation_samples)


def _why_unpaired(first: FinishedRun, second: FinishedRun) -> str:
    """Return why scores cannot be compared utterance by utterance; empty if they can."""
    names = [set(_utterances(run.report)) for run in (first, second)]
    if not all(names):
        return "a report does not name its utterances; an older version wrote it"
    if not names[0] & names[1]:
        return "no utterance is in both runs"
    if not _same_sound(first, second):
        return "utterances of one name are different recordings"
    return ""


def _same_sound(first: FinishedRun, second: FinishedRun) -> bool:
    """Say whether samples of one name sound the same in both runs, as far as they are there to be heard."""
    role = "teacher" if _same_teacher(first.report, second.report) else "recording"
    theirs = {sample.name: sample for sample in second.report.samples}
    for sample in first.report.samples:
        other = theirs.get(sample.name)
        files = (getattr(sample, role), getattr(other, role) if other else None)
        if None in files:
            continue
        paths = [sample_path(run.folder, file) for run, file in zip((first, second), files, strict=True)]
        if all(path.is_file() for path in paths):
            (one, rate), (another, other_rate) = map(read_signal, paths)
            if rate != other_rate or one.shape != another.shape or np.abs(one - another).max(initial=0) > SAME_SOUND:
                return False
    return True


def _figures(first: Report, second: Report, why_unpaired: str) -> list[ComparedFigure]:
    students = [_by_name(report.student) for report in (first, second)]
    teachers = [_by_name(report.teacher.measurements) for report in (first, second)]
    figures = []
    for metric in dict.fromkeys((*students[0], *students[1])):
        a, b = (own.get(metric) for own in students)
        known = next(entry for entry in (a, b) if entry)
        compares = _same_teacher(first, second) or is_cost(known) or split_measured_name(metric)[1] == "recording"
        why = why_unpaired if compares else "their teachers differ"
        difference, why = (None, why) if why else _difference(first, second, a, b)
        figures.append(
            ComparedFigure(
                metric=metric,
                unit=known.unit,
                better=known.better,
                teacher_a=_plain(teachers[0].get(metric)),
                teacher_b=_plain(teachers[1].get(metric)),
                a=_plain(a),
                b=_plain(b),
                compares=compares,
                difference=difference,
                why_none=why if known.scores else "",
            )
        )
    return figures


def _difference(
    first: Report, second: Report, a: Measurement | None, b: Measurement | None
) -> tuple[Difference | None, str]:
    """Return B's difference from A by utterances, or why there is none."""
    if a is None or b is None or not (a.scores and b.scores):
        return None, "not measured in both runs"
    if any(len(entry.scores) != len(report.validation_samples) for entry, report in ((a, first), (b, second))):
        return None, "a report does not have one score for each of its utterances"
    before, after = (
        dict(zip(_utterances(report), entry.scores, strict=True)) for entry, report in ((a, first), (b, second))
    )
    both = [
        (name, before[name], after[name]) for name in before if before[name] is not None and after.get(name) is not None
    ]
    found = paired_difference([score for _, score, _ in both], [score for _, _, score in both])
    if found is None:
        return None, f"utterances in both runs: {len(both)}; it takes {FEWEST_PAIRS}"
    beyond = found.beyond_chance
    return Difference(mean=found.mean, low=found.low, high=found.high, beyond_chance=beyond, utterances=len(both)), ""


def _plain(entry: Measurement | None) -> Measurement | None:
    return entry and entry.model_copy(update={"scores": (), "parts": {}})


def _limits(
    kind: Literal["budget", "gate"],
    first: Sequence[Verdict | GateVerdict],
    second: Sequence[Verdict | GateVerdict],
) -> tuple[ComparedLimit, ...]:
    a, b = ({entry.metric: entry for entry in own} for own in (first, second))
    return tuple(
        ComparedLimit(kind=kind, metric=metric, a=a.get(metric), b=b.get(metric)) for metric in dict.fromkeys((*a, *b))
    )


def _by_name(measurements: Sequence[Measurement]) -> Mapping[str, Measurement]:
    return {entry.metric: entry for entry in measurements}
