"""Which trials of a sweep there are, which are left, and which values are tried next.

Values belong to one trial. What is to be tried for certain (a whole grid, or what was interrupted or failed) is asked
for with Optuna's queue; other trials draw their values, and a draw of what another trial has is dropped. Processes of
one machine take turns (`alone`): SQLite lets two have the same queued trial. On a database server several machines may
ask at the same moment; whoever draws writes its values down before it looks at the others', so that of two with the
same values, or of one too many, at least one sees the other.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.errors import RunFolderError
from compressor.run_folder import try_lock
from compressor.run_reading import read_run
from compressor.sweep.definition import Sweep

if TYPE_CHECKING:
    import optuna

REASON, FOLDER, DROPPED, DEATHS = "reason", "folder", "dropped", "deaths"
"""Attributes of a trial: why it has no figures; where its run is; that it was given up before it began, because another
has its values; how often processes have died that ran these values."""
MOST_DEATHS = 3
"""What kills its process again and again (memory runs out, a library crashes) is given up, and the others come."""


def take_up(sweep: Sweep, study: optuna.Study) -> int:
    """Ask for trials that were interrupted, failed or lost their run, and where all values can be tried, for all.

    Returns how many of an earlier start there are. Where nobody else may be at work, what is under way was interrupted.
    """
    import optuna

    running = (optuna.trial.TrialState.RUNNING,)
    under_way = study.get_trials(deepcopy=False, states=running)
    given_up = [] if sweep.shared else end(study, under_way)
    left = [
        trial
        for trial in latest(sweep, study)
        if trial.number not in given_up and (trial.state.name == "FAIL" or _without_its_run(sweep, trial))
    ]
    harmless = [trial for trial in left if trial.user_attrs.get(DEATHS, 0) < MOST_DEATHS]
    # What kills processes may do so again: it comes when nothing else is to be done, by anybody.
    left = harmless if harmless or left_to_do(sweep, study) or (sweep.shared and under_way) else left
    for trial in left:
        _ask_again(study, trial)
    if sweep.size <= sweep.trials:
        known = [values_of(trial) for trial in latest(sweep, study)]
        for values in _grid(sweep):
            if values not in known:
                study.enqueue_trial(values)
    return len(left)


def end(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> list[int]:
    """Put down trials as interrupted, whose process is no more; returns those that have died too often by now."""
    import optuna

    given_up = []
    for trial in trials:
        deaths = trial.user_attrs.get(DEATHS, 0) + 1
        # Another machine may do so at the same moment.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            live = optuna.trial.Trial(study, trial._trial_id)
            live.set_user_attr(DEATHS, deaths)
            if deaths >= MOST_DEATHS:
                given_up.append(trial.number)
                live.set_user_attr(REASON, f"the process that ran it has died {deaths} times")
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    return given_up


def _ask_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Ask for a trial's values once more; how often they brought death is counted until somebody starts them anew."""
    deaths = trial.user_attrs.get(DEATHS, 0) if _is_interrupted(trial) else 0
    study.enqueue_trial(dict(values_of(trial)), user_attrs={DEATHS: deaths})


def next_trial(sweep: Sweep, study: optuna.Study) -> optuna.Trial | None:
    """Return a trial with values that no other has; None where nothing is left to begin."""
    import optuna

    with alone(sweep):
        while True:
            for interrupted in filter(_is_interrupted, latest(sweep, study)):
                _ask_again(study, interrupted)
            if not left_to_do(sweep, study):
                return None
            trial = study.ask()
            try:
                if _may_begin(sweep, study, trial):
                    return trial
            except optuna.exceptions.UpdateFinishedTrialError:
                # This machine slept, and another took the trial for dead.
                continue
            except KeyboardInterrupt:
                study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
                raise


def _may_begin(sweep: Sweep, study: optuna.Study, trial: optuna.Trial) -> bool:
    """Give a trial its values, and say whether nothing stands in their way; else it is dropped."""
    import optuna

    for each in sweep.varied:
        each.suggested(trial)
    own = study.get_trials(deepcopy=False)[trial.number]
    repeats = has_values_of_another(study, own)
    if not repeats and not _is_one_too_many(sweep, study, own):
        return True
    trial.set_user_attr(DROPPED, True)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    if repeats and not _asked_for(own):
        offer_untried(sweep, study)
    return False


def left_to_do(sweep: Sweep, study: optuna.Study) -> int:
    """Return how many trials are still to be begun."""
    return max(0, _wanted(sweep) - len(_begun(sweep, study)))


def _wanted(sweep: Sweep) -> int:
    return int(min(sweep.trials, sweep.size))


def _begun(sweep: Sweep, study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in latest(sweep, study) if trial.state.name != "WAITING" and not _is_interrupted(trial)]


def _is_one_too_many(sweep: Sweep, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether others have begun enough trials at the same moment; of theirs and this one the first go on."""
    earlier = [other for other in _begun(sweep, study) if other.number < trial.number]
    return len(earlier) >= _wanted(sweep)


def latest(sweep: Sweep, study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials, of those with the same values the one that counts: the last, but for what came to nothing.

    Left out: those that were dropped, and those that ended before they had all of their values.
    """
    found: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        values = values_of(trial)
        if len(values) == len(sweep.varied):
            if DROPPED not in trial.user_attrs and not _counts_less(trial, found.get(_key(values))):
                found[_key(values)] = trial
        elif not trial.state.is_finished():
            found[f"trial {trial.number}"] = trial
    return list(found.values())


def _counts_less(trial: optuna.trial.FrozenTrial, earlier: optuna.trial.FrozenTrial | None) -> bool:
    """Say whether a trial is nothing beside an earlier one of the same values: a draw to be dropped, or a dead one."""
    if earlier is None or earlier.state.name == "FAIL":
        return False
    return not _asked_for(trial) or _is_interrupted(trial)


def values_of(trial: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
    """Return a trial's values, or those that it is to have: one that was asked for knows them before it begins."""
    values: Mapping[str, Any] = trial.system_attrs.get("fixed_params") or trial.params
    return values


def has_values_of_another(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a trial, all of whose values are known, is to be dropped because another has the same."""
    # Of those that were asked for twice the first is run. One that failed was asked for again; one that finished is not
    # run again, but read.
    in_its_way = {"WAITING", "RUNNING", "PRUNED"} if _asked_for(trial) else None
    return any(
        other.number != trial.number
        and values_of(other) == values_of(trial)
        and DROPPED not in other.user_attrs
        and (in_its_way is None or (other.number < trial.number and other.state.name in in_its_way))
        for other in study.get_trials(deepcopy=False)
    )


def offer_untried(sweep: Sweep, study: optuna.Study) -> None:
    """Ask for values that no trial has, chosen at random, where they can be counted.

    A sampler that knows what is good may draw the same few values for ever.
    """
    known = {_key(values) for trial in latest(sweep, study) if len(values := values_of(trial)) == len(sweep.varied)}
    if len(known) >= sweep.size or sweep.size == float("inf"):
        return
    chance = random.Random(f"{sweep.seed} {len(study.get_trials(deepcopy=False))}")  # noqa: S311 - no secret
    while True:
        values = {each.path: chance.choice(each.grid) for each in sweep.varied}
        if _key(values) not in known:
            study.enqueue_trial(values)
            return


@contextmanager
def alone(sweep: Sweep) -> Iterator[None]:
    """Hold what other processes of this machine wait for before they ask for a trial."""
    if (path := sweep.database) is None:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        while not try_lock(lock.fileno()):
            time.sleep(0.02)
        yield


def _asked_for(trial: optuna.trial.FrozenTrial) -> bool:
    return "fixed_params" in trial.system_attrs


def _is_interrupted(trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a trial ended without a word; one that failed says why."""
    return trial.state.name == "FAIL" and REASON not in trial.user_attrs


def _without_its_run(sweep: Sweep, trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a finished trial's run cannot be read any more: deleted, or of another version."""
    if trial.state.name != "COMPLETE":
        return False
    try:
        read_run(sweep.out / trial.user_attrs.get(FOLDER, ""))
    except RunFolderError:
        return True
    return False


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))


def _grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Return every combination of values, in an order that does not favour the first ones."""
    paths = [each.path for each in sweep.varied]
    found = [
        dict(zip(paths, values, strict=True)) for values in itertools.product(*(each.grid for each in sweep.varied))
    ]
    random.Random(sweep.seed).shuffle(found)  # noqa: S311 - an order, no secret
    return found
