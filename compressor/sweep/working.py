"""What a process of a sweep does: run trials one after the other, and tell the study how they ended."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from compressor.errors import BudgetError, CompressorError, RunFolderBusyError
from compressor.memory import Memory
from compressor.pipeline import run
from compressor.preparing import RunSettings
from compressor.progress import Reporter, SilentReporter
from compressor.report import Report, StageRecord
from compressor.run_folder import is_busy
from compressor.run_reading import read_run
from compressor.sweep.definition import Objective, Sweep
from compressor.sweep.life import Lives, signs_of_life
from compressor.sweep.storage import StorageLostError
from compressor.sweep.study import open_study, optuna_library
from compressor.sweep.trials import FOLDER, REASON, next_trial

if TYPE_CHECKING:
    import optuna

REMEMBERED = 32
"""Results that trials of one process share: teacher, data, stages that begin alike."""
FEWEST_OTHERS = 4
"""Finished trials that one is compared with before it ends early."""
LOOK_SECONDS = 5.0
"""How often one who has to wait looks again: for others' trials to end, or for a run that another process is at."""


def work(
    sweep: Sweep,
    worker: int = 0,
    reporter: Reporter | None = None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Run trials one after the other until none is left to begin; several processes may do so.

    On a storage that others share it stays until theirs have come to an end as well, and takes up those that show no
    sign of life any more. `after` is called after each trial.
    """
    import torch

    if sweep.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // sweep.workers))
    memory, telling = Memory(REMEMBERED), reporter or SilentReporter()
    study = open_study(sweep, worker, telling)
    lives, waiting = Lives(), False
    while True:
        others = lives.left(study) if sweep.shared else 0
        if (trial := next_trial(sweep, study)) is not None:
            waiting = False
            with signs_of_life(trial, shown=sweep.shared):
                _run_and_tell(sweep, trial, memory, telling)
            after()
        elif others:
            if not waiting:
                telling.say(f"nothing is left to begin; waiting for trials that others run: {others}")
            waiting = True
            time.sleep(LOOK_SECONDS)
        else:
            return


def _run_and_tell(sweep: Sweep, trial: optuna.Trial, memory: Memory, reporter: Reporter) -> None:
    """Run one trial, and tell the study how it ended.

    A trial that another machine has taken for dead meanwhile is that machine's.
    """
    library = optuna_library()
    states = library.trial.TrialState
    told: dict[str, Any] = {"state": states.FAIL}
    try:
        told = {"values": _figures(sweep, trial, memory, reporter), "state": states.COMPLETE}
    except StorageLostError:
        # Nobody can be told. The trial shows no sign of life any more, and is taken up.
        raise
    except library.TrialPruned:
        told = {"state": states.PRUNED}
    except library.exceptions.UpdateFinishedTrialError:
        reporter.say(f"trial {trial.number + 1} was taken for dead by another machine, and is left to it")
        return
    except Exception as error:
        reason = str(error) if isinstance(error, CompressorError) else _unforeseen(error)
        reporter.say(f"trial {trial.number + 1} failed: {reason}")
        with contextlib.suppress(library.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr(REASON, reason)
    except BaseException:
        # Interrupted, it ends without a reason, and is asked for again.
        _tell(trial, told)
        raise
    _tell(trial, told)


def _tell(trial: optuna.Trial, told: Mapping[str, Any]) -> None:
    with contextlib.suppress(optuna_library().exceptions.UpdateFinishedTrialError):
        try:
            trial.study.tell(trial, **told, skip_if_finished=True)
        except KeyboardInterrupt:
            # What is known is told all the same.
            trial.study.tell(trial, **told, skip_if_finished=True)
            raise


def _unforeseen(error: Exception) -> str:
    """Return an error that nobody foresaw in words: a plugin's or a library's, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _figures(sweep: Sweep, trial: optuna.Trial, memory: Memory, reporter: Reporter) -> tuple[float, ...]:
    """Run one trial; returns what it is compared by."""
    values = {each.path: each.suggested(trial) for each in sweep.varied}
    said = ", ".join(f"{path}={value}" for path, value in values.items())
    reporter.say(f"trial {trial.number + 1}: {said}")
    folder = sweep.folder(values)
    trial.set_user_attr(FOLDER, folder.relative_to(sweep.out).as_posix())
    try:
        report = _reported(sweep, trial, values, reporter, memory)
    except BudgetError as error:
        trial.set_user_attr(REASON, str(error))
        raise optuna_library().TrialPruned(str(error)) from error
    measured = {entry.metric: entry.value for entry in report.student}
    figures = {each.name: measured.get(each.name) for each in sweep.objectives}
    if missing := [name for name, value in figures.items() if value is None or math.isnan(value)]:
        raise CompressorError(f"no figure for {', '.join(missing)}")
    return tuple(float(value) for value in figures.values() if value is not None)


def _reported(
    sweep: Sweep, trial: optuna.Trial, values: Mapping[str, Any], reporter: Reporter, memory: Memory
) -> Report:
    """Return the report of a trial's run; one that another process is still at, taken for dead, is waited for."""
    folder, told = sweep.folder(values), False
    while (report := _finished(folder)) is None:
        # Looked at first: what a run does before it claims its folder takes minutes.
        if not is_busy(folder):
            with contextlib.suppress(RunFolderBusyError):
                return _run(sweep, values, folder, reporter, Watched(sweep, trial), memory)
        if not told:
            reporter.say(f"waiting for another process, which is at {folder.name}")
        told = True
        time.sleep(LOOK_SECONDS)
    return report


def _run(
    sweep: Sweep, values: Mapping[str, Any], folder: Path, reporter: Reporter, watched: Watched, memory: Memory
) -> Report:
    # A finished run that cannot be read, such as one of another version, is made anew.
    settings = RunSettings(folder, name=sweep.recipe.stem, device=sweep.device, resume=True, beside=folder.parent)
    return run(sweep.plan(values), settings, reporter, watched.stage_completed, memory).report


def _finished(folder: Path) -> Report | None:
    """Return the report of a run of the same values that is finished; None where there is none."""
    try:
        return read_run(folder).report
    except CompressorError:
        return None


class Watched:
    """Ends a trial whose student after a stage is worse than most others' there; of one objective only.

    Optuna's pruners compare the best that a trial has been at any stage; quality is best before most has been done.
    """

    def __init__(self, sweep: Sweep, trial: optuna.Trial) -> None:
        self.objective = sweep.objectives[0] if len(sweep.objectives) == 1 else None
        self.trial = trial
        self.stages = 0

    def stage_completed(self, record: StageRecord) -> None:
        """Hear of a stage.

        Raises:
            optuna.TrialPruned: it is not worth going on.
        """
        self.stages += 1
        value = next((entry.value for entry in record.measurements if entry.metric == self._name), None)
        if self.objective is None or value is None:
            return
        self.trial.report(value, self.stages)
        others = [_loss(self.objective, other) for other in self._others()]
        if len(others) >= FEWEST_OTHERS and _loss(self.objective, value) > median(others):
            reason = f"after {record.stage} {self._name} is {value:.4g}, worse than most others' there"
            self.trial.set_user_attr(REASON, reason)
            raise optuna_library().TrialPruned(reason)

    @property
    def _name(self) -> str | None:
        return self.objective.name if self.objective else None

    def _others(self) -> list[float]:
        """Return what the students of finished trials were after as many stages."""
        finished = (optuna_library().trial.TrialState.COMPLETE,)
        trials = self.trial.study.get_trials(deepcopy=False, states=finished)
        return [trial.intermediate_values[self.stages] for trial in trials if self.stages in trial.intermediate_values]


def _loss(objective: Objective, value: float) -> float:
    """Return a figure so that less is better; none at all is worst."""
    if math.isnan(value):
        return math.inf
    return -value if objective.higher else value
