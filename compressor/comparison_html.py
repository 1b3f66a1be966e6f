"""A comparison as one HTML file that needs nothing else, in the style of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compressor import comparison_view
from compressor.comparison import Comparison
from compressor.report import ListeningSample
from compressor.report_curve import draw_curve
from compressor.report_html import Listening, listen, render_page, sample_path
from compressor.run_reading import FinishedRun

RUNS = ("A", "B")


def render_comparison(comparison: Comparison, first: FinishedRun, second: FinishedRun) -> str:
    """Return the page: what the terminal shows, training curves on shared axes, and players of the same utterances.

    Raises:
        RunFolderError: a wav file is missing, unreadable or outside its run folder.
    """
    return render_page(
        "comparison_template.html.j2",
        comparison=comparison,
        runs=RUNS,
        options=comparison_view.option_rows(comparison),
        costs=comparison_view.cost_rows(comparison),
        quality=comparison_view.quality_rows(comparison),
        limits=comparison_view.limit_rows(comparison),
        curve=draw_curve(first.report.curve, second.report.curve),
        listening=list(_listening(comparison, first, second)),
    )


def _listening(comparison: Comparison, first: FinishedRun, second: FinishedRun) -> Iterator[Listening]:
    """Give each utterance that both runs have samples of, the pictures on one scale."""
    theirs = {sample.name: sample for sample in second.report.samples}
    for sample in first.report.samples:
        if sample.name in theirs:
            paths = dict(_versions(comparison, (first, sample), (second, theirs[sample.name])))
            yield listen(sample.name, paths, next(iter(paths.values())))


def _versions(
    comparison: Comparison, first: tuple[FinishedRun, ListeningSample], second: tuple[FinishedRun, ListeningSample]
) -> Iterator[tuple[str, Path]]:
    """Yield what there is of an utterance to listen to: recording, teacher and students."""
    run, sample = first
    other, theirs = second
    if sample.recording is not None:
        yield "recording", sample_path(run.folder, sample.recording)
    if comparison.one_teacher:
        yield "teacher", sample_path(run.folder, sample.teacher)
    else:
        yield "teacher of A", sample_path(run.folder, sample.teacher)
        yield "teacher of B", sample_path(other.folder, theirs.teacher)
    yield "A", sample_path(run.folder, sample.student)
    yield "B", sample_path(other.folder, theirs.student)
