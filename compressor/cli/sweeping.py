"""`compress sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compressor.console import ConsoleReporter, print_table
from compressor.run_folder import write_atomically
from compressor.sweep.definition import Sweep
from compressor.sweep.executors import in_processes, on_ray
from compressor.sweep.folder import claimed
from compressor.sweep.page import cell, columns, render_sweep
from compressor.sweep.results import Results, Tried, results_of, write_results
from compressor.sweep.space import parse_varied
from compressor.sweep.study import open_study, take_up, tried, work

if TYPE_CHECKING:
    import optuna


def run_sweep(
    recipe: Path,
    teacher: str | None,
    data: str | None,
    changes: Sequence[str],
    varied: Sequence[str],
    metrics: Sequence[str],
    trials: int,
    out: Path | None,
    storage: str | None,
    executor: str,
    address: str | None,
    workers: int,
    device: str,
) -> None:
    """Run a recipe's trials, and write and print what came of them."""
    folder = out or Path(f"runs/{recipe.stem}_sweep")
    sweep = Sweep(
        recipe=recipe,
        varied=parse_varied(varied),
        metrics=tuple(metrics),
        trials=trials,
        out=folder.absolute(),
        storage=storage or f"sqlite:///{folder.absolute() / 'study.db'}",
        teacher=teacher,
        data=data,
        changes=tuple(changes),
        device=device,
        workers=workers,
    )
    reporter = ConsoleReporter()
    with claimed(sweep.out):
        study = open_study(sweep)
        if storage is None and (left := take_up(study)):
            reporter.say(f"{left} of an interrupted sweep's trials are taken up again")
        reporter.say(f"{tried(study)} of {trials} trials are done; results: {folder / 'sweep.html'}")
        try:
            if executor == "ray":
                on_ray(sweep, address)
            elif workers > 1:
                in_processes(sweep)
            else:
                work(sweep, reporter, lambda found: _write(sweep, found))
        finally:
            results = _write(sweep, study)
    _print(results)
    click.echo(f"\nlook: {folder / 'sweep.html'}")
    if results.best is not None:
        click.echo(f"the recipe of trial {results.best}: {folder / 'best.yaml'}")


def _write(sweep: Sweep, study: optuna.Study) -> Results:
    results = results_of(sweep, study)
    write_results(sweep.out, results)
    write_atomically(sweep.out / "sweep.html", render_sweep(results).encode())
    return results


def _print(results: Results) -> None:
    shown = columns(results)
    paths = list(dict.fromkeys(path for trial in results.trials for path in trial.values))
    rows = [
        [
            str(trial.number),
            *(str(trial.values.get(path, "")) for path in paths),
            *(cell(trial, name) for name in shown),
            _word(results, trial),
        ]
        for trial in results.trials
    ]
    print_table(["trial", *paths, *shown, ""], rows)


def _word(results: Results, trial: Tried) -> str:
    if trial.number == results.best:
        return "best"
    if trial.number in results.front:
        return "front"
    if trial.state == "finished":
        return "" if trial.met else "misses its budget or a gate"
    return f"{trial.state}: {trial.reason.splitlines()[0]}" if trial.reason else trial.state
