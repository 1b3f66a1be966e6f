"""`compress run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from compressor.console import ConsoleReporter, print_table
from compressor.figures import duration_in_words, in_words
from compressor.pipeline import RunResult, run
from compressor.plan_loading import load_plan
from compressor.planning import Plan
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings
from compressor.progress import Reporter, SilentReporter
from compressor.report import GateVerdict, Measurement, Report, Verdict
from compressor.report_quality import quality_rows
from compressor.signal_metric import split_measured_name

MISSED = 3
"""Exit code where the budget or a quality gate is missed."""
PREPARATION_MINUTES = 3
"""What preparing, measuring and reporting take besides training, at most, for the recipes that ship."""


def run_recipe(
    recipe: Path,
    teacher: str | None,
    data: str | None,
    overrides: Sequence[str],
    out: Path | None,
    device: str,
    *,
    resume: bool,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Run a recipe and return the exit code: 0, or 3 where the budget or a gate is missed."""
    catalog = load_catalog()
    planned = load_plan(recipe, teacher=teacher, data=data, overrides=overrides, catalog=catalog)
    folder = out or Path(planned.recipe.out or f"runs/{recipe.stem}")
    reporter = SilentReporter() if quiet else ConsoleReporter()
    _say_how_long(planned, reporter)
    settings = RunSettings(out=folder, name=recipe.stem, device=device, resume=resume)
    result = run(planned, settings, reporter, catalog.relay.stage_completed)
    if as_json:
        click.echo(result.report.model_dump_json(indent=2))
    elif not quiet:
        _print(result.report)
    _say_where(result, reporter)
    return 0 if result.budget_met and result.gates_passed else MISSED


def _say_how_long(planned: Plan, reporter: Reporter) -> None:
    limits = [stage.strategy.longest_minutes for stage in planned.stages if stage.strategy.trains]
    stages = " → ".join(stage.label for stage in planned.stages)
    reporter.say(f"stages: {stages}")
    if not limits:
        return
    if None in limits:
        reporter.say("training has no time limit (max_minutes); progress shows how long it takes")
    else:
        minutes = sum(limit for limit in limits if limit is not None) + PREPARATION_MINUTES
        reporter.say(f"this takes at most about {minutes:.0f} minutes")


def _print(report: Report) -> None:
    print_figures(report)
    print_verdicts(report)


def _say_where(result: RunResult, reporter: Reporter) -> None:
    report = result.report
    reporter.say(f"done in {duration_in_words(report.seconds)}: {result.folder / 'student.onnx'}")
    reporter.say(f"look and listen: {result.folder / 'report.html'}")
    reporter.say(f"licence: the student derives from its teacher ({report.teacher.licence})")


def print_figures(report: Report) -> None:
    """Print what teacher and student cost, and how signals compare."""
    quality = quality_rows(report)
    compared = {row.metric for row in quality}
    before = {entry.metric: entry for entry in report.teacher.measurements}
    amounts = [
        [entry.metric, _figure(before.get(entry.metric)), _figure(entry)]
        for entry in report.student
        if split_measured_name(entry.metric)[0] not in compared
    ]
    if amounts:
        print_table(["", "teacher", "student"], amounts)
    if quality:
        print_table(
            ["student", "against the teacher", "against the recording", "the teacher against it"],
            [[row.metric, row.student, row.student_recording, row.teacher_recording] for row in quality],
        )


def print_verdicts(report: Report) -> None:
    """Print what the budget and the quality gates ask for, and whether the student keeps to it."""
    if report.verdicts:
        print_table(
            ["budget", "limit", "student", ""],
            [[entry.metric, in_words(entry.limit), in_words(entry.student), _word(entry)] for entry in report.verdicts],
        )
    if report.gates:
        print_table(
            ["gate", "asks for", "student", ""],
            [
                [gate.metric, f"{gate.bound} {in_words(gate.threshold)}", _reached(gate), _word(gate)]
                for gate in report.gates
            ],
        )


def _word(verdict: Verdict | GateVerdict) -> str:
    return "met" if verdict.met else "MISSED"


def _reached(gate: GateVerdict) -> str:
    return gate.note if gate.student is None else in_words(gate.student)


def _figure(entry: Measurement | None) -> str:
    if entry is None:
        return ""
    return entry.note or "" if entry.value is None else in_words(entry.value, entry.unit)
