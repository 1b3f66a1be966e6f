"""`compress sweep`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compressor.console import ConsoleReporter, print_table
from compressor.errors import CompressorError
from compressor.progress import Reporter, SilentReporter
from compressor.run_folder import write_atomically
from compressor.sweep.definition import Sweep
from compressor.sweep.executors import in_processes, on_ray, terminated_as_interrupted
from compressor.sweep.folder import DATABASE, PAGE, claimed
from compressor.sweep.page import cell, columns, render_sweep
from compressor.sweep.results import BEST, Results, Tried, results_of, write_results
from compressor.sweep.space import parse_varied
from compressor.sweep.storage import StorageLostError
from compressor.sweep.study import open_study, optuna_library
from compressor.sweep.trials import left_to_do, take_up
from compressor.sweep.working import work

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Asked:
    """The command's arguments and options by their names."""

    recipe: Path
    vary: tuple[str, ...]
    metrics: tuple[str, ...]
    trials: int
    teacher: str | None
    data: str | None
    overrides: tuple[str, ...]
    out: Path | None
    storage: str | None
    executor: str
    address: str | None
    workers: int
    device: str
    quiet: bool
    as_json: bool

    @property
    def folder(self) -> Path:
        """Where the sweep's files go."""
        return self.out or Path(f"runs/{self.recipe.stem}_sweep")

    def sweep(self) -> Sweep:
        """Return what is asked for, checked.

        Raises:
            CompressorError: it cannot be.
        """
        if self.address is not None:
            if self.executor != "ray":
                raise CompressorError("--address is a Ray cluster's; it needs --executor ray")
            if self.storage is None or self.storage.startswith("sqlite"):
                raise CompressorError(
                    "--address: the machines of a cluster need a --storage on a server they all reach"
                )
        if self.storage is not None and re.fullmatch(r"sqlite[^:]*://(/:memory:)?", self.storage):
            raise CompressorError(
                "--storage: what is kept in memory no other process reaches; leave it out, or name a file"
            )
        folder = self.folder.absolute()
        return Sweep(
            recipe=self.recipe.absolute(),
            varied=parse_varied(self.vary),
            metrics=self.metrics,
            trials=self.trials,
            out=folder,
            storage=self.storage or f"sqlite:///{folder / DATABASE}",
            teacher=_absolute(self.teacher),
            data=_absolute(self.data),
            changes=self.overrides,
            device=self.device,
            workers=self.workers,
            shared=self.storage is not None,
        )


def run_sweep(asked: Asked) -> None:
    """Run a recipe's trials, and write and print what came of them.

    Raises:
        CompressorError: what is asked for cannot be, or no trial came to an end.
    """
    optuna_library()
    sweep, folder = asked.sweep(), asked.folder
    reporter = SilentReporter() if asked.quiet else ConsoleReporter()
    with claimed(sweep), terminated_as_interrupted():
        study = open_study(sweep, reporter=reporter)
        if left := take_up(sweep, study):
            reporter.say(f"trials that were interrupted, failed or have lost their files are taken up again: {left}")
        to_do = left_to_do(sweep, study)
        reporter.say(f"trials to run: {to_do}; results: {folder / PAGE}")
        # Where others are at work, theirs may come to be taken up as well.
        workers = asked.workers if sweep.shared else max(1, min(asked.workers, to_do))

        def look() -> None:
            _write_if_possible(sweep, study, reporter)

        try:
            if asked.executor == "ray":
                on_ray(sweep, workers, asked.address, look)
            elif workers > 1:
                in_processes(sweep, workers, look)
            else:
                work(sweep, 0, reporter, look)
        except StorageLostError:
            raise
        except BaseException:
            look()
            raise
        results = _write(sweep, study)
    _tell(asked, results, reporter)


def _absolute(name: str | None) -> str | None:
    """Return a file's or folder's path from the root: workers may have another current folder."""
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def _write_if_possible(sweep: Sweep, study: optuna.Study, reporter: Reporter) -> None:
    """Write what there is; that it cannot be written or asked for just now is no reason to end trainings."""
    try:
        _write(sweep, study)
    except StorageLostError:
        raise
    except (CompressorError, OSError) as error:
        reporter.say(f"the results so far cannot be written: {error}")


def _write(sweep: Sweep, study: optuna.Study) -> Results:
    results = results_of(sweep, study)
    write_results(sweep.out, results)
    write_atomically(sweep.out / PAGE, render_sweep(results).encode())
    return results


def _tell(asked: Asked, results: Results, reporter: Reporter) -> None:
    """Print what came of the trials.

    Raises:
        CompressorError: no trial came to an end.
    """
    if asked.as_json:
        click.echo(results.model_dump_json(indent=2))
    elif not asked.quiet:
        _print(results)
    page = asked.folder / PAGE
    reporter.say(f"look: {page}")
    if results.best is not None:
        reporter.say(f"the recipe of trial {results.best}: {asked.folder / BEST}")
    if not any(trial.state == "finished" for trial in results.trials):
        raise CompressorError(f"no trial came to an end; {page} says why. What failed is tried again the next time.")


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
