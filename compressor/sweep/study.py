"""The trials of a sweep, kept by Optuna: in a file of SQLite, or any storage that several machines reach."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import BudgetError, CompressorError
from compressor.memory import Memory
from compressor.pipeline import run
from compressor.preparing import RunSettings
from compressor.progress import Reporter, SilentReporter
from compressor.report import Report, StageRecord
from compressor.run_reading import read_run
from compressor.sweep.definition import Sweep
from compressor.sweep.life import Lives, signs_of_life
from compressor.sweep.trials import FOLDER, REASON, next_trial

if TYPE_CHECKING:
    import optuna

REMEMBERED = 32
"""Results that trials of one process share: teacher, data, stages that begin alike."""
LOOK_SECONDS = 5.0
"""How often one who has nothing left to begin looks whether others' trials have come to an end."""


def optuna_library() -> Any:
    """Return Optuna.

    Raises:
        CompressorError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise CompressorError("a sweep needs Optuna: pip install 'onnx-student-compressor[sweep]'") from error
    # It warns of every trial that fails, which is told where it happens.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(sweep: Sweep, worker: int = 0) -> optuna.Study:
    """Return the sweep's study, with the trials that there are; each worker draws values of its own.

    Raises:
        CompressorError: the storage cannot be reached, or holds a study of something else under this name.
    """
    library, shown = optuna_library(), _without_password(sweep.storage)
    # A file is locked for as long as another process writes; a server may have closed a connection meanwhile.
    engine = {"connect_args": {"timeout": 60}} if sweep.storage.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        study: optuna.Study = library.create_study(
            study_name=sweep.recipe.stem,
            storage=library.storages.RDBStorage(sweep.storage, engine_kwargs=engine),
            load_if_exists=True,
            directions=["maximize" if each.higher else "minimize" for each in sweep.objectives],
            pruner=library.pruners.MedianPruner(n_startup_trials=4),
        )
    except Exception as error:
        raise CompressorError(f"the storage {shown} cannot be used: {error}") from error
    known = study.user_attrs.get("identity", None if study.trials else sweep.identity)
    if known != sweep.identity:
        raise CompressorError(
            f"{shown} holds a sweep '{sweep.recipe.stem}' of another recipe or teacher, other values or other "
            "metrics; give another --out, and another --storage where you gave one"
        )
    study.set_user_attr("identity", sweep.identity)
    # A resumed sweep goes on with other draws, rather than with the first ones again; so does each machine.
    seed = sweep.seed + len(study.trials) + 10_007 * worker
    if sweep.shared:
        seed += zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode())
    study.sampler = library.samplers.TPESampler(seed=seed, n_startup_trials=max(4, sweep.trials // 4))
    return study


def _without_password(storage: str) -> str:
    return re.sub(r"(//[^:/@]+):[^@]*@", r"\1:***@", storage)


def work(
    sweep: Sweep,
    worker: int = 0,
    reporter: Reporter | None = None,
    after: Callable[[optuna.Study], object] | None = None,
) -> None:
    """Run trials one after the other until none is left to begin; several processes may do so.

    On a storage that others share it stays until theirs have come to an end as well, and takes up those that show no
    sign of life any more. `after` is called after each trial.
    """
    import torch

    if sweep.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // sweep.workers))
    study, memory, telling = open_study(sweep, worker), Memory(REMEMBERED), reporter or SilentReporter()
    lives, waiting = Lives(), False
    while True:
        others = lives.left(study) if sweep.shared else 0
        if (trial := next_trial(sweep, study)) is not None:
            waiting = False
            with signs_of_life(trial, shown=sweep.shared):
                _run_and_tell(sweep, trial, memory, telling)
            if after is not None:
                after(study)
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
    states, study = library.trial.TrialState, trial.study
    told: dict[str, Any] = {"state": states.FAIL}
    try:
        told = {"values": _figures(sweep, trial, memory, reporter), "state": states.COMPLETE}
    except library.TrialPruned:
        told = {"state": states.PRUNED}
    except library.exceptions.UpdateFinishedTrialError:
        reporter.say(f"trial {trial.number + 1} was taken for dead by another machine, and is left to it")
    except Exception as error:
        reason = str(error) if isinstance(error, CompressorError) else _unforeseen(error)
        reporter.say(f"trial {trial.number + 1} failed: {reason}")
        with contextlib.suppress(library.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr(REASON, reason)
    finally:
        # Interrupted, it ends without a reason, and is asked for again.
        study.tell(trial, **told, skip_if_finished=True)


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
        report = _finished(folder) or _run(sweep, values, folder, reporter, Watched(sweep, trial), memory)
    except BudgetError as error:
        trial.set_user_attr(REASON, str(error))
        raise optuna_library().TrialPruned(str(error)) from error
    measured = {entry.metric: entry.value for entry in report.student}
    figures = {each.name: measured.get(each.name) for each in sweep.objectives}
    if missing := [name for name, value in figures.items() if value is None or math.isnan(value)]:
        raise CompressorError(f"no figure for {', '.join(missing)}")
    return tuple(float(value) for value in figures.values() if value is not None)


def _run(
    sweep: Sweep, values: Mapping[str, Any], folder: Path, reporter: Reporter, watched: Watched, memory: Memory
) -> Report:
    settings = RunSettings(folder, name=sweep.recipe.stem, device=sweep.device)
    return run(sweep.plan(values), settings, reporter, watched.stage_completed, memory).report


def _finished(folder: Path) -> Report | None:
    """Return the report of a run of the same values that is finished; None where there is none."""
    try:
        return read_run(folder).report
    except CompressorError:
        return None


class Watched:
    """Ends a trial whose student after a stage is worse than most others' there; of one objective only."""

    def __init__(self, sweep: Sweep, trial: optuna.Trial) -> None:
        self.objective = sweep.objectives[0].name if len(sweep.objectives) == 1 else None
        self.trial = trial
        self.stages = 0

    def stage_completed(self, record: StageRecord) -> None:
        """Hear of a stage.

        Raises:
            optuna.TrialPruned: it is not worth going on.
        """
        self.stages += 1
        value = next((entry.value for entry in record.measurements if entry.metric == self.objective), None)
        if self.objective is None or value is None:
            return
        self.trial.report(value, self.stages)
        if self.trial.should_prune():
            reason = f"after {record.stage} {self.objective} is {value:.4g}, worse than most others' there"
            self.trial.set_user_attr(REASON, reason)
            raise optuna_library().TrialPruned(reason)
