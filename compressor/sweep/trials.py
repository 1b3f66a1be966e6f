"""Which trials of a sweep there are, which are left, and which values are still to be tried.

Values belong to one trial: a draw of what another trial has is dropped. Several processes, and on a shared storage
several machines, may draw at the same moment; whoever draws writes its values down before it looks at the others', so
that of two with the same values at least one sees the other. What was asked for (`Study.enqueue_trial`) keeps its
values against draws.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compressor.sweep.definition import Sweep

if TYPE_CHECKING:
    import optuna

DROPPED = "dropped"
"""Attribute of a trial that was given up before it began, because another has its values."""
ASKED_FOR = {"fixed_params", "failed_trial"}
"""Attributes that Optuna gives to trials whose values are not drawn: enqueued, or again after a machine's death."""


def take_up(sweep: Sweep, study: optuna.Study) -> int:
    """Ask for what is left: trials that were interrupted or failed, and where all values can be tried, all of them.

    Returns how many were interrupted or failed. In a storage of this machine nobody else may be at work; in a shared
    one what shows no sign of life is taken for dead.
    """
    import optuna

    state = optuna.trial.TrialState
    if sweep.shared:
        optuna.storages.fail_stale_trials(study)
    else:
        for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            study.tell(trial.number, state=state.FAIL)
    left = [values for trial in latest(sweep, study) if trial.state == state.FAIL and (values := values_of(trial))]
    for values in left:
        study.enqueue_trial(dict(values))
    if sweep.size <= sweep.trials:
        known = [values_of(trial) for trial in latest(sweep, study)]
        for values in _grid(sweep):
            if values not in known:
                study.enqueue_trial(values)
    return len(left)


def left_to_do(sweep: Sweep, study: optuna.Study) -> int:
    """Return how many trials are still to be run."""
    states = [trial.state.name for trial in latest(sweep, study)]
    waiting = states.count("WAITING")
    return int(max(waiting, min(sweep.trials, sweep.size) - (len(states) - waiting)))


def latest(sweep: Sweep, study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials, of those with the same values the last.

    Left out: those that were dropped, and those that ended before they had all of their values.
    """
    paths = {each.path for each in sweep.varied}
    found: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        values = values_of(trial)
        if values.keys() == paths:
            if not dropped(trial):
                found[_key(values)] = trial
        elif not trial.state.is_finished():
            found[f"trial {trial.number}"] = trial
    return list(found.values())


def values_of(trial: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
    """Return a trial's values, or those that it is to have: one that was asked for knows them before it begins."""
    values: Mapping[str, Any] = trial.system_attrs.get("fixed_params") or trial.params
    return values


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))


def dropped(trial: optuna.trial.FrozenTrial) -> bool:
    """Say whether a trial was given up because another has its values."""
    return DROPPED in trial.user_attrs


def drop_where_another_has_its_values(trial: optuna.Trial) -> bool:
    """Mark a trial, all of whose values are drawn, as dropped where another has the same; returns whether it is."""
    trials = trial.study.get_trials(deepcopy=False)
    asked_for = not ASKED_FOR.isdisjoint(trials[trial.number].system_attrs)
    others = [
        each
        for each in trials
        if each.number != trial.number
        and values_of(each) == trial.params
        and not dropped(each)
        # The first of those that were asked for twice is the one to be run; failed ones were asked for again.
        and not (asked_for and (each.number > trial.number or each.state.name == "FAIL"))
    ]
    if others:
        trial.set_user_attr(DROPPED, others[0].number)
    return bool(others)


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


def _grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Return every combination of values, in an order that does not favour the first ones."""
    paths = [each.path for each in sweep.varied]
    found = [
        dict(zip(paths, values, strict=True)) for values in itertools.product(*(each.grid for each in sweep.varied))
    ]
    random.Random(sweep.seed).shuffle(found)  # noqa: S311 - an order, no secret
    return found
