"""What a sweep found: every trial, the front of those that no other beats, and one to begin with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressor.errors import RunFolderError
from compressor.report import Measurement, Record
from compressor.run_folder import write_atomically
from compressor.run_reading import read_run
from compressor.sweep.definition import Objective, Sweep
from compressor.sweep.trials import FOLDER, REASON, latest

if TYPE_CHECKING:
    import optuna

RESULTS, BEST = "sweep.json", "best.yaml"


class Tried(Record):
    """One trial."""

    number: int
    """From one."""
    values: dict[str, Any]
    """What was varied, by path."""
    state: Literal["finished", "pruned", "failed", "running"]
    reason: str = ""
    folder: str = ""
    """Inside the sweep's."""
    met: bool = True
    """False: the student misses its budget or a quality gate."""
    measurements: tuple[Measurement, ...] = ()

    def value(self, metric: str) -> float | None:
        """Return a figure of the finished student."""
        return next((entry.value for entry in self.measurements if entry.metric == metric), None)


class Results(Record):
    """All trials of a sweep."""

    format: Literal[1] = 1
    recipe: str
    objectives: tuple[str, ...]
    higher: tuple[bool, ...]
    """Of each objective, whether more of it is better."""
    trials: tuple[Tried, ...]
    front: tuple[int, ...]
    """Numbers of the trials that no other is better than in everything they are compared by."""
    best: int | None = None
    """The one of the front that is nearest to having the best of everything."""

    def trial(self, number: int) -> Tried:
        """Return a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)


def results_of(sweep: Sweep, study: optuna.Study) -> Results:
    """Gather what there is; trials that are under way come without figures."""
    trials = tuple(
        _tried(sweep, trial)
        for trial in sorted(latest(sweep, study), key=lambda trial: trial.number)
        # One that was interrupted is asked for again.
        if trial.state.name != "WAITING" and (trial.state.name != "FAIL" or REASON in trial.user_attrs)
    )
    worthy = {
        trial.number: _figures(trial, sweep.objectives) for trial in trials if trial.state == "finished" and trial.met
    }
    front = pareto_front(worthy)
    return Results(
        recipe=str(sweep.recipe),
        objectives=sweep.metrics,
        higher=tuple(each.higher for each in sweep.objectives),
        trials=trials,
        front=front,
        best=nearest_to_ideal({number: worthy[number] for number in front}),
    )


def _tried(sweep: Sweep, trial: optuna.trial.FrozenTrial) -> Tried:
    states: Mapping[str, Any] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    state = states.get(trial.state.name, "running")
    folder = trial.user_attrs.get(FOLDER, "")
    told: dict[str, Any] = {"number": trial.number + 1, "values": _read(trial.params), "state": state, "folder": folder}
    if state != "finished":
        return Tried(**told, reason=trial.user_attrs.get(REASON, ""))
    try:
        report = read_run(sweep.out / folder).report
    except RunFolderError as error:
        return Tried(**{**told, "state": "failed"}, reason=str(error))
    met = all(verdict.met for verdict in report.verdicts) and all(gate.met for gate in report.gates)
    return Tried(**told, met=met, measurements=report.student)


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's values; listed ones go by their text."""
    return {path: json.loads(value) if isinstance(value, str) else value for path, value in values.items()}


def _figures(trial: Tried, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return what a trial is compared by, so that less is better in all of it."""
    values = [(each, trial.value(each.name)) for each in objectives]
    return tuple(math.inf if value is None else -value if each.higher else value for each, value in values)


def pareto_front(figures: Mapping[int, Sequence[float]]) -> tuple[int, ...]:
    """Return the trials that no other is as good as in every figure and better in one; less is better."""
    return tuple(number for number, own in figures.items() if not any(_beats(other, own) for other in figures.values()))


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def nearest_to_ideal(front: Mapping[int, Sequence[float]]) -> int | None:
    """Return the trial nearest to the best of every figure at once, each figure's span on the front counted as one."""
    if not front:
        return None
    spans = [(min(column), max(column)) for column in zip(*front.values(), strict=True)]

    def distance(figures: Sequence[float]) -> float:
        return math.hypot(*(_share(value, *span) for value, span in zip(figures, spans, strict=True)))

    return min(front, key=lambda number: distance(front[number]))


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.0


def write_results(out: Path, results: Results) -> None:
    """Write the results, the recipes of the front, and the best one's as `best.yaml`."""
    write_atomically(out / RESULTS, results.model_dump_json(indent=1).encode())
    kept = set()
    for number in results.front:
        path = out / "front" / f"trial_{number}.yaml"
        write_atomically(path, (out / results.trial(number).folder / "recipe.yaml").read_bytes())
        kept.add(path)
    for path in (out / "front").glob("trial_*.yaml"):
        if path not in kept:
            # Another machine may have done so.
            path.unlink(missing_ok=True)
    if results.best is not None:
        write_atomically(out / BEST, (out / results.trial(results.best).folder / "recipe.yaml").read_bytes())
