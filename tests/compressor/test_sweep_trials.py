"""Whatever happens to a sweep, and however many draw at once, values are tried once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from compressor.sweep.definition import Sweep
from compressor.sweep.results import results_of
from compressor.sweep.study import open_study
from compressor.sweep.trials import DROPPED, has_values_of_another, latest, left_to_do, next_trial, take_up
from compressor.sweep.working import work
from tests.compressor.tiny_sweep import tiny_sweep

RATIO = "channel-importance-pruning.pruning_ratio"
RUNNING, FAIL = TrialState.RUNNING, TrialState.FAIL


@pytest.fixture(autouse=True)
def runs_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials that are told to have finished have their runs."""
    monkeypatch.setattr("compressor.sweep.trials.read_run", lambda folder: folder)


def tried(made: Sweep, study: optuna.Study) -> list[tuple[str, float]]:
    path = made.varied[0].path
    return [(trial.state.name, float(trial.params[path])) for trial in study.trials if trial.params]


def killed_after(made: Sweep, finished: int, drawn: bool = True) -> optuna.Study:
    """Return the study of a sweep that was killed in the trial after so many, whose values were drawn or not yet."""
    study = open_study(made)
    take_up(made, study)
    for number in range(finished + 1):
        trial = study.ask()
        if number < finished or drawn:
            value = made.varied[0].suggested(trial)
        if number < finished:
            study.tell(trial, float(value))
    return study


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("how", ["killed before it has its values", "killed", "interrupted"])
def test_wherever_a_sweep_is_stopped_every_value_is_tried_once(finished: int, how: str, tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3", file="study.db")
    study = killed_after(made, finished, drawn=how != "killed before it has its values")
    if how == "interrupted":
        # As Ctrl-C leaves it, where a kill leaves it running.
        study.tell(finished, state=FAIL)
    study = open_study(made)
    assert take_up(made, study) == 1
    assert left_to_do(made, study) == 3 - finished
    for _ in range(3 - finished):
        trial = study.ask()
        study.tell(trial, float(made.varied[0].suggested(trial)))
    complete = [value for state, value in tried(made, study) if state == "COMPLETE"]
    assert sorted(complete) == [0.1, 0.2, 0.3]
    assert left_to_do(made, study) == 0
    assert take_up(made, open_study(made)) == 0


def test_more_trials_that_cover_all_values_try_those_that_are_left(tmp_path: Path) -> None:
    few = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    killed_after(few, 2)
    more = replace(few, trials=4)
    study = open_study(more)
    take_up(more, study)
    for _ in range(left_to_do(more, study)):
        trial = study.ask()
        study.tell(trial, float(more.varied[0].suggested(trial)))
    complete = {value for state, value in tried(more, study) if state == "COMPLETE"}
    assert complete == {0.1, 0.2, 0.3, 0.4}


def drawing(study: optuna.Study, value: str) -> None:
    """Make every draw of a study this one."""

    class Always(optuna.samplers.RandomSampler):
        def sample_independent(self, *_: object) -> str:
            return value

    study.sampler = Always()


def test_values_that_another_trial_has_are_not_tried_again(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    one, other = open_study(made, 0), open_study(made, 1)
    drawing(one, "0.2")
    drawing(other, "0.2")
    # As on a database server, where two machines may ask at the same moment.
    first, second = one.ask(), other.ask()
    assert [made.varied[0].suggested(trial) for trial in (first, second)] == [0.2, 0.2]
    assert has_values_of_another(one, one.trials[first.number])
    assert has_values_of_another(other, other.trials[second.number])
    # Who has given up is in nobody's way.
    first.set_user_attr(DROPPED, True)
    one.tell(first, state=FAIL)
    assert not has_values_of_another(other, other.trials[second.number])
    assert left_to_do(made, one) == 2
    third = next_trial(made, one)
    assert third is not None
    assert made.varied[0].suggested(third) != 0.2
    assert [trial.state.name for trial in latest(made, one)] == ["RUNNING", "RUNNING"]


def test_of_values_that_were_asked_for_twice_the_first_are_tried(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    study = open_study(made)
    drawing(study, "0.3")
    for _ in range(2):
        study.enqueue_trial({RATIO: "0.2"})
    found = [next_trial(made, study) for _ in range(4)]
    assert [made.varied[0].suggested(trial) for trial in found if trial is not None][:2] == [0.2, 0.3]
    assert found[3] is None
    assert len(study.get_trials(states=(RUNNING,))) == 3


@pytest.mark.parametrize("values", ["0.1,0.2,0.3,0.4,0.5,0.6", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8"])
def test_workers_that_ask_all_at_once_have_no_values_twice(values: str, tmp_path: Path) -> None:
    made = replace(tiny_sweep(tmp_path, f"{RATIO}={values}", file="study.db"), trials=6)
    take_up(made, open_study(made))
    found: list[float] = []
    start = threading.Barrier(4)

    def ask(worker: int) -> None:
        study = open_study(made, worker)
        drawing(study, "0.3")
        start.wait(30)
        while (trial := next_trial(made, study)) is not None:
            found.append(float(made.varied[0].suggested(trial)))

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == len(set(found)) == 6


def test_a_sampler_that_knows_but_one_choice_still_tries_different_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")

    def opened(*_: object) -> optuna.Study:
        study = open_study(made)
        drawing(study, "0.3")
        return study

    monkeypatch.setattr("compressor.sweep.working.open_study", opened)
    work(made)
    trials = results_of(made, open_study(made)).trials
    assert [trial.state for trial in trials] == ["finished"] * 3
    assert trials[0].values == {RATIO: 0.3}
    assert len({trial.values[RATIO] for trial in trials}) == 3
    assert left_to_do(made, open_study(made)) == 0


def test_fewer_trials_than_were_asked_for_before_end_sooner(tmp_path: Path) -> None:
    many = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3", file="study.db")
    killed_after(many, 1)
    fewer = replace(many, trials=2)
    study = open_study(fewer)
    take_up(fewer, study)
    assert next_trial(fewer, study) is not None
    assert next_trial(fewer, study) is None


def test_what_failed_is_tried_again_the_next_time_only(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3", file="study.db")
    study = open_study(made)
    take_up(made, study)
    for _ in range(3):
        trial = study.ask()
        made.varied[0].suggested(trial)
        trial.set_user_attr("reason", "no space left")
        study.tell(trial, state=FAIL)
    assert left_to_do(made, study) == 0
    assert take_up(made, open_study(made)) == 3
    assert left_to_do(made, study) == 3


def test_a_draw_that_was_killed_before_it_was_dropped_hides_no_finished_trial(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    study = open_study(made)
    drawing(study, "0.1")
    for _ in range(2):
        trial = study.ask()
        value = float(made.varied[0].suggested(trial))
        if trial.number == 0:
            study.tell(trial, value)
    for _ in range(2):
        assert [trial.state.name for trial in latest(made, study)] == ["COMPLETE"]
        assert left_to_do(made, study) == 2
        assert take_up(made, study) == 0


def test_of_two_machines_that_ask_for_the_last_trial_at_once_one_begins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    killed_after(made, 2, drawn=False).tell(2, state=FAIL)
    one, other = open_study(made, 0), open_study(made, 1)
    done = [value for _, value in tried(made, one)]
    for each, value in zip((one, other), {0.1, 0.2, 0.3, 0.4}.difference(done), strict=True):
        drawing(each, str(value))
    ask = other.ask

    def both_ask() -> optuna.Trial:
        made.varied[0].suggested(one.ask())
        return ask()

    monkeypatch.setattr(other, "ask", both_ask)
    assert left_to_do(made, other) == 1
    assert next_trial(made, other) is None
    assert [trial.state.name for trial in latest(made, one)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert one.trials[-1].user_attrs == {DROPPED: True}


def test_what_kills_its_process_again_and_again_is_given_up_until_somebody_asks_anew(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3,0.4", file="study.db")
    deadly = set()
    for _ in range(3):
        study = open_study(made)
        take_up(made, study)
        trial = next_trial(made, study)
        assert trial is not None
        deadly.add(made.varied[0].suggested(trial))
    assert len(deadly) == 1
    study = open_study(made)
    assert take_up(made, study) == 0
    assert left_to_do(made, study) == 2
    (given_up,) = [trial for trial in results_of(made, study).trials if trial.state == "failed"]
    assert given_up.values[RATIO] in deadly
    assert given_up.reason == "the process that ran it has died 3 times"
    while (trial := next_trial(made, study)) is not None:
        study.tell(trial, float(made.varied[0].suggested(trial)))
    study = open_study(made)
    assert take_up(made, study) == 1
    last = next_trial(made, study)
    assert last is not None
    assert made.varied[0].suggested(last) in deadly
    study.tell(last, 1.0)
    assert left_to_do(made, study) == 0
