"""What becomes of trials that fail, die, lose their files or are taken over."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from compressor.errors import CompressorError
from compressor.report import Report
from compressor.sweep import working
from compressor.sweep.definition import Sweep
from compressor.sweep.executors import terminated_as_interrupted
from compressor.sweep.life import signs_of_life
from compressor.sweep.results import Results, results_of
from compressor.sweep.storage import patient_storage
from compressor.sweep.study import open_study
from compressor.sweep.trials import DEATHS, left_to_do, next_trial, take_up
from compressor.sweep.working import work
from tests.compressor.tiny_sweep import tiny_sweep

RATIO = "channel-importance-pruning.pruning_ratio"


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    return tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3", file="study.db")


def found(made: Sweep) -> Results:
    return results_of(made, open_study(made))


def states(made: Sweep) -> dict[float, str]:
    return {trial.values[RATIO]: trial.state for trial in found(made).trials}


def test_a_fault_that_nobody_foresaw_is_told_and_ends_one_trial_only(
    made: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = working._run

    def faulty(sweep: Sweep, values: Mapping[str, Any], *rest: Any) -> Report:
        if values[RATIO] == 0.2:
            raise ZeroDivisionError("a plugin's")
        return run(sweep, values, *rest)

    monkeypatch.setattr(working, "_run", faulty)
    take_up(made, open_study(made))
    work(made)
    assert states(made) == {0.1: "finished", 0.2: "failed", 0.3: "finished"}
    reason = next(trial.reason for trial in found(made).trials if trial.state == "failed")
    assert reason.startswith("ZeroDivisionError: a plugin's (test_sweep_work.py:")
    monkeypatch.undo()
    assert take_up(made, open_study(made)) == 1
    work(made)
    assert set(states(made).values()) == {"finished"}


def test_an_interruption_ends_the_sweep_and_its_trial_is_tried_again(
    made: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(working, "_run", interrupted)
    take_up(made, open_study(made))
    with pytest.raises(KeyboardInterrupt):
        work(made)
    assert states(made) == {}
    assert left_to_do(made, open_study(made)) == 3
    monkeypatch.undo()
    work(made)
    assert set(states(made).values()) == {"finished"}


@pytest.mark.parametrize("gone", ["all", "report.json"])
def test_a_finished_trial_whose_files_are_gone_is_run_again(made: Sweep, gone: str) -> None:
    take_up(made, open_study(made))
    work(made)
    lost = found(made).trial(2)
    if gone == "all":
        shutil.rmtree(made.out / lost.folder)
    else:
        (made.out / lost.folder / gone).unlink()
    assert take_up(made, open_study(made)) == 1
    work(made)
    assert set(states(made).values()) == {"finished"}
    assert (made.out / lost.folder / "report.json").is_file()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trials count as dead soon."""
    monkeypatch.setattr("compressor.sweep.life.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("compressor.sweep.life.GRACE_SECONDS", 1.0)
    monkeypatch.setattr(working, "LOOK_SECONDS", 0.1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("drawn", [True, False])
def test_where_others_are_at_work_a_trial_counts_as_dead_after_a_while_without_signs_of_life(
    made: Sweep, drawn: bool
) -> None:
    shared = replace(made, shared=True)
    study = open_study(shared)
    take_up(shared, study)
    # Another machine is killed with this trial, before it shows a sign of life, or even has its values.
    dead = next_trial(shared, study) if drawn else study.ask()
    assert dead is not None
    assert take_up(shared, open_study(shared)) == 0
    work(shared)
    assert study.trials[dead.number].state == TrialState.FAIL
    assert states(shared) == {0.1: "finished", 0.2: "finished", 0.3: "finished"}


@pytest.mark.usefixtures("quick")
def test_a_trial_that_shows_signs_of_life_is_waited_for(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.sweep.life.GRACE_SECONDS", 60.0)
    shared = replace(made, shared=True)
    study = open_study(shared)
    take_up(shared, study)
    own = next_trial(shared, study)
    assert own is not None
    looks = []

    def look() -> None:
        looks.append(len(study.get_trials(states=(TrialState.RUNNING,))))
        if len(looks) == 2:
            threading.Timer(1.0, ended.set).start()

    ended = threading.Event()

    def elsewhere() -> None:
        with signs_of_life(own, shown=True):
            ended.wait(60)
            study.tell(own.number, 1.0)

    other = threading.Thread(target=elsewhere)
    other.start()
    work(shared, after=look)
    assert study.trials[own.number].state == TrialState.COMPLETE
    assert looks == [1, 1]
    other.join(60)


def test_what_another_machine_took_for_dead_is_left_to_it(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    run = working._run
    taken: list[int] = []

    def suspended(*asked: Any) -> Report:
        report = run(*asked)
        if not taken:
            taken.append(open_study(made).get_trials(states=(TrialState.RUNNING,))[0].number)
            open_study(made).tell(taken[0], state=TrialState.FAIL)
        return report

    monkeypatch.setattr(working, "_run", suspended)
    take_up(made, open_study(made))
    work(made)
    assert open_study(made).trials[taken[0]].state == TrialState.FAIL
    # It is asked for again, and read where it was finished all the same.
    assert set(states(made).values()) == {"finished"}


def test_a_study_of_ones_own_is_left_alone(made: Sweep) -> None:
    import optuna

    storage = patient_storage(made.storage, print)
    study = optuna.create_study(study_name=made.recipe.stem, storage=storage, direction="minimize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(CompressorError, match="holds a sweep 'recipe' of another"):
        open_study(made)


def test_no_password_is_told(made: Sweep) -> None:
    with pytest.raises(CompressorError) as told:
        open_study(replace(made, storage="postgresql://me:secret@127.0.0.1:1/x"))
    assert "postgresql://me:***@127.0.0.1:1/x" in str(told.value)
    assert "secret" not in str(told.value)


def test_who_is_told_to_end_tells_that_its_trial_was_interrupted(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> Report:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal has come")

    before = signal.getsignal(signal.SIGTERM)
    take_up(made, open_study(made))
    monkeypatch.setattr(working, "_run", killed)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        work(made)
    assert signal.getsignal(signal.SIGTERM) == before
    # A second signal, as a scheduler's and then the first process's, is not heard while that is told.
    first = open_study(made).trials[0]
    assert first.state == TrialState.FAIL
    assert first.user_attrs.get(DEATHS, 0) == 0


def test_a_result_that_is_known_is_told_though_an_interruption_comes_as_it_is(
    made: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_up(made, open_study(made))
    opened = open_study(made)
    tell, told = opened.tell, []

    def interrupted(*asked: Any, **named: Any) -> Any:
        told.append(named["state"])
        if len(told) == 1:
            raise KeyboardInterrupt
        return tell(*asked, **named)

    monkeypatch.setattr(opened, "tell", interrupted)
    monkeypatch.setattr(working, "open_study", lambda *_: opened)
    with pytest.raises(KeyboardInterrupt):
        work(made)
    assert [trial.state for trial in found(made).trials] == ["finished"]


@pytest.mark.parametrize("url", ["no url", "postgresql://me:secret@host:port/x", "postgresql://me:p@secret:w@host/x"])
def test_what_is_no_storage_is_told(made: Sweep, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr("compressor.sweep.study.CREATED_SECONDS", 0.0)
    wrong = replace(made, storage=url)
    assert wrong.database is None
    with pytest.raises(CompressorError, match="cannot be used") as told:
        open_study(wrong)
    assert "secret" not in str(told.value)
