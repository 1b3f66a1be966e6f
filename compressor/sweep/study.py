"""The trials of a sweep, kept by Optuna: in a file of SQLite, or any storage that several machines reach."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compressor.errors import BudgetError, CompressorError
from compressor.memory import Memory
from compressor.pipeline import run
from compressor.preparing import RunSettings
from compressor.progress import Reporter, SilentReporter
from compressor.report import Report, StageRecord
from compressor.run_reading import read_run
from compressor.sweep.definition import Sweep

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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(sweep: Sweep) -> optuna.Study:
    """Return the sweep's study, with the trials that there are.

    Raises:
        CompressorError: the storage cannot be reached, or holds a sweep of something else under this name.
    """
    library = optuna_library()
    local = sweep.storage.startswith("sqlite")
    try:
        storage = library.storages.RDBStorage(
            sweep.storage,
            heartbeat_interval=None if local else HEARTBEAT,
            grace_period=None if local else GRACE,
            failed_trial_callback=None if local else library.storages.RetryFailedTrialCallback(max_retry=2),
        )
        study: optuna.Study = library.create_study(
            study_name=sweep.recipe.stem,
            storage=storage,
            load_if_exists=True,
            directions=["maximize" if each.higher else "minimize" for each in sweep.objectives],
            pruner=library.pruners.MedianPruner(n_startup_trials=4),
        )
    except Exception as error:
        raise CompressorError(f"the storage {sweep.storage} cannot be used: {error}") from error
    known = study.user_attrs.get("identity", sweep.identity)
    if known != sweep.identity:
        raise CompressorError(
            f"{sweep.storage} holds a sweep '{sweep.recipe.stem}' of another recipe, other values or other metrics; "
            "give another --out or --storage"
        )
    study.set_user_attr("identity", sweep.identity)
    study.sampler = _sampler(library, sweep, len(study.trials))
    return study


def _sampler(library: Any, sweep: Sweep, begun: int) -> Any:
    seed = sweep.seed
    if sweep.size <= sweep.trials:
        return library.samplers.GridSampler({each.path: each.grid for each in sweep.varied}, seed=seed)
    # A resumed sweep goes on with other draws, rather than with the first ones again.
    return library.samplers.TPESampler(seed=seed + begun, n_startup_trials=max(4, sweep.trials // 4))


def take_up(study: optuna.Study) -> int:
    """Ask again for the trials that a killed sweep left behind; returns how many. Nobody else may be at work."""
    state = optuna_library().trial.TrialState
    left = study.get_trials(deepcopy=False, states=(state.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=state.FAIL)
        study.enqueue_trial(trial.params)
    return len(left)


def tried(study: optuna.Study) -> int:
    """Return how many trials came to an end, or are under way; those that were killed do not count."""
    state = optuna_library().trial.TrialState
    return sum(
        trial.state in (state.COMPLETE, state.PRUNED, state.RUNNING)
        or (trial.state == state.FAIL and REASON in trial.user_attrs)
        for trial in study.get_trials(deepcopy=False)
    )


def work(sweep: Sweep, reporter: Reporter | None = None, after: Callable[[optuna.Study], object] | None = None) -> None:
    """Run trials until there are as many as were asked for, one after the other; several processes may do so.

    `after` is called after each.
    """
    import torch

    if sweep.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // sweep.workers))
    study, memory, telling = open_study(sweep), Memory(REMEMBERED), reporter or SilentReporter()
    while tried(study) < min(sweep.trials, sweep.size):
        study.optimize(lambda trial: _figures(sweep, trial, memory, telling), n_trials=1, catch=(CompressorError,))
        if after is not None:
            after(study)


def _figures(sweep: Sweep, trial: optuna.Trial, memory: Memory, reporter: Reporter) -> tuple[float, ...]:
    """Run one trial; returns what it is compared by."""
    values = {each.path: each.suggested(trial) for each in sweep.varied}
    said = ", ".join(f"{path}={value}" for path, value in values.items())
    reporter.say(f"trial {trial.number + 1}: {said}")
    folder = sweep.folder(values)
    trial.set_user_attr(FOLDER, str(folder.relative_to(sweep.out)))
    watched = Watched(sweep, trial)
    try:
        report = (
            _finished(folder)
            or run(
                sweep.plan(values),
                RunSettings(folder, name=sweep.recipe.stem, device=sweep.device),
                reporter,
                watched.stage_completed,
                memory,
            ).report
        )
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


def _finished(folder: Any) -> Report | None:
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
