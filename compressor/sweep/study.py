"""The trials of a sweep, kept by Optuna: in a file of SQLite, or any storage that several machines reach."""

from __future__ import annotations

import os
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
from compressor.sweep.trials import drop_where_another_has_its_values, dropped, left_to_do, offer_untried

if TYPE_CHECKING:
    import optuna

REASON, FOLDER = "reason", "folder"
"""Attributes of a trial: why it has no figures, and where its run is."""
REMEMBERED = 32
"""Results that trials of one process share: teacher, data, stages that begin alike."""
HEARTBEAT, GRACE = 30, 120
"""Seconds between two signs of life of a trial, and after which a silent one counts as dead, in shared storages."""


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
        CompressorError: the storage cannot be reached, or holds a sweep of something else under this name.
    """
    library = optuna_library()
    alive: dict[str, Any] = {}
    if sweep.shared:
        again = library.storages.RetryFailedTrialCallback(max_retry=2)
        alive = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE, "failed_trial_callback": again}
    try:
        study: optuna.Study = library.create_study(
            study_name=sweep.recipe.stem,
            storage=library.storages.RDBStorage(sweep.storage, **alive),
            load_if_exists=True,
            directions=["maximize" if each.higher else "minimize" for each in sweep.objectives],
            pruner=library.pruners.MedianPruner(n_startup_trials=4),
        )
    except Exception as error:
        raise CompressorError(f"the storage {sweep.storage} cannot be used: {error}") from error
    known = study.user_attrs.get("identity", sweep.identity)
    if known != sweep.identity:
        raise CompressorError(
            f"{sweep.storage} holds a sweep '{sweep.recipe.stem}' of another recipe or teacher, other values or other "
            "metrics; give another --out, and another --storage where you gave one"
        )
    study.set_user_attr("identity", sweep.identity)
    # A resumed sweep goes on with other draws, rather than with the first ones again.
    seed = sweep.seed + len(study.trials) + 10_007 * worker
    study.sampler = library.samplers.TPESampler(seed=seed, n_startup_trials=max(4, sweep.trials // 4))
    return study


def work(
    sweep: Sweep,
    quota: int,
    worker: int = 0,
    reporter: Reporter | None = None,
    after: Callable[[optuna.Study], object] | None = None,
) -> None:
    """Run so many trials one after the other, or fewer where others have run them; several processes may do so.

    A draw of values that another trial has is dropped, and drawn again. `after` is called after each trial.
    """
    import torch

    if sweep.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // sweep.workers))
    study, memory, telling = open_study(sweep, worker), Memory(REMEMBERED), reporter or SilentReporter()
    own = 0

    def count(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        nonlocal own
        own += not dropped(trial)

    while own < quota and left_to_do(sweep, study) > 0:
        study.optimize(
            lambda trial: _figures(sweep, trial, memory, telling),
            n_trials=1,
            catch=(CompressorError, _DrawnTwiceError),
            callbacks=[count],
        )
        if after is not None:
            after(study)


class _DrawnTwiceError(Exception):
    """Another trial has these values."""


def _figures(sweep: Sweep, trial: optuna.Trial, memory: Memory, reporter: Reporter) -> tuple[float, ...]:
    """Run one trial; returns what it is compared by."""
    values = {each.path: each.suggested(trial) for each in sweep.varied}
    if drop_where_another_has_its_values(trial):
        offer_untried(sweep, trial.study)
        raise _DrawnTwiceError
    said = ", ".join(f"{path}={value}" for path, value in values.items())
    reporter.say(f"trial {trial.number + 1}: {said}")
    folder = sweep.folder(values)
    trial.set_user_attr(FOLDER, folder.relative_to(sweep.out).as_posix())
    try:
        report = _finished(folder) or _run(sweep, values, folder, reporter, Watched(sweep, trial), memory)
    except BudgetError as error:
        trial.set_user_attr(REASON, str(error))
        raise optuna_library().TrialPruned(str(error)) from error
    except CompressorError as error:
        trial.set_user_attr(REASON, str(error))
        reporter.say(f"trial {trial.number + 1} failed: {error}")
        raise
    measured = {entry.metric: entry.value for entry in report.student}
    figures = [measured.get(each.name) for each in sweep.objectives]
    if None in figures:
        reason = f"no figure for {', '.join(each.name for each in sweep.objectives if measured.get(each.name) is None)}"
        trial.set_user_attr(REASON, reason)
        raise CompressorError(reason)
    return tuple(float(figure) for figure in figures if figure is not None)


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
