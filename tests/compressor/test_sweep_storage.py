"""A sweep's storage and folder when others are at them, or when they cannot be reached."""

from __future__ import annotations

import errno
import fcntl
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError

from compressor.errors import CompressorError, RunFolderError
from compressor.progress import SilentReporter
from compressor.run_folder import LOCK, try_lock
from compressor.sweep import storage, study, working
from compressor.sweep.definition import Sweep
from compressor.sweep.folder import claimed
from compressor.sweep.life import Lives
from compressor.sweep.results import results_of
from compressor.sweep.storage import StorageLostError, patiently
from compressor.sweep.study import open_study
from compressor.sweep.trials import next_trial, take_up
from compressor.sweep.working import work
from tests.compressor.tiny_sweep import tiny_sweep

RATIO = "channel-importance-pruning.pruning_ratio"


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    return tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2,0.3", file="study.db")


class Failing:
    """An action that fails so many times before it does what it is to do."""

    def __init__(self, times: int, action: Any, error: Exception) -> None:
        self.left, self.action, self.error = times, action, error

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self.action(*arguments, **named)


def outage() -> StorageInternalError:
    """Return what Optuna raises where a server is away or a file is locked."""
    error = StorageInternalError("during the commit")
    error.__cause__ = OperationalError("SELECT 1", {}, Exception("the server is away"))
    return error


def test_a_storage_that_cannot_be_reached_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    said: list[str] = []
    assert patiently(Failing(2, lambda: "reached", outage()), said.append) == "reached"
    assert said == ["the storage cannot be reached; trying again for two minutes"]
    with pytest.raises(StorageLostError, match="the server is away"):
        patiently(Failing(3, lambda: "reached", outage()), said.append)
    # What another try does not mend is told at once.
    with pytest.raises(StorageLostError, match="no such table"):
        patiently(Failing(1, lambda: "reached", StorageInternalError("no such table")), said.append)
    with pytest.raises(ZeroDivisionError):
        patiently(Failing(1, lambda: "reached", ZeroDivisionError()), said.append)


METHODS = ["create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_state_values", "get_all_trials"]


@pytest.mark.parametrize("method", METHODS)
def test_a_sweep_outlives_moments_without_its_storage(
    made: Sweep, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    take_up(made, open_study(made))
    calls, plain = [0], getattr(RDBStorage, method)

    def often_away(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] % 3 == 1:
            raise outage()
        return plain(*arguments, **named)

    monkeypatch.setattr(RDBStorage, method, often_away)
    work(made)
    monkeypatch.undo()
    assert method == "create_new_trial" or calls[0] > 2
    found = results_of(made, open_study(made)).trials
    assert [trial.state for trial in found] == ["finished"] * 3
    assert len(open_study(made).trials) == 3


def test_a_storage_that_stays_away_ends_the_sweep_and_no_trial_fails_of_it(
    made: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0,))
    take_up(made, open_study(made))

    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", Failing(99, None, outage()))
    with pytest.raises(StorageLostError):
        work(made)
    monkeypatch.undo()
    assert take_up(made, open_study(made)) == 1
    work(made)
    assert [trial.state for trial in results_of(made, open_study(made)).trials] == ["finished"] * 3


def test_two_that_find_a_database_empty_at_once_both_begin(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "CREATED_SECONDS", 0.0)
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", Failing(1, create, RuntimeError("table studies exists")))
    assert open_study(made).study_name == "recipe"
    monkeypatch.setattr(optuna, "create_study", Failing(2, create, RuntimeError("table studies exists")))
    with pytest.raises(CompressorError, match="table studies exists"):
        open_study(made)


def test_the_seed_of_any_machine_is_one_that_numpy_takes(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zlib.crc32", lambda _: 2**32 - 1)
    trial = open_study(replace(made, shared=True), worker=3).ask()
    assert made.varied[0].suggested(trial) in {0.1, 0.2, 0.3}


def test_who_looks_seldom_takes_nobody_for_dead(made: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("compressor.sweep.life.time.monotonic", lambda: clock[0])
    shared = replace(made, shared=True)
    opened = open_study(shared)
    assert next_trial(shared, opened) is not None
    lives = Lives()

    def left_after(seconds: float) -> int:
        clock[0] += seconds
        return lives.left(opened)

    # Hours pass in a training of one's own, or the machine sleeps: the others' beats are not watched meanwhile.
    assert [left_after(7200) for _ in range(5)] == [1] * 5
    assert left_after(5) == 1
    assert [left_after(5) for _ in range(40)][-1] == 0


def test_a_run_that_another_process_is_at_is_waited_for_and_run_once(
    made: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "LOOK_SECONDS", 0.05)
    said: list[str] = []
    waiting, runs = threading.Event(), []
    run = working._run

    class Telling(SilentReporter):
        def say(self, message: str) -> None:
            said.append(message)
            if message.startswith("waiting for another process"):
                waiting.set()

    def counted(*asked: Any) -> Any:
        runs.append(asked)
        return run(*asked)

    monkeypatch.setattr(working, "_run", counted)
    folder = made.folder({RATIO: 0.2})
    folder.mkdir(parents=True)
    with (folder / LOCK).open("w") as lock:
        assert try_lock(lock.fileno())
        take_up(made, open_study(made))
        other = threading.Thread(target=work, args=(made, 0, Telling()))
        other.start()
        assert waiting.wait(60)
    other.join(60)
    assert not other.is_alive()
    assert [trial.state for trial in results_of(made, open_study(made)).trials] == ["finished"] * 3
    assert sum(message.startswith("waiting") for message in said) == 1
    # What a run does before it claims its folder is done once, and tells Optuna of each stage once.
    assert len(runs) == 3


@pytest.mark.parametrize("query", ["", "?timeout=5"])
@pytest.mark.parametrize("name", ["mine.db", "mine.db-journal", "mine.db-wal"])
def test_a_database_of_ones_own_may_lie_in_the_sweeps_folder(made: Sweep, name: str, query: str) -> None:
    made.out.mkdir()
    (made.out / name).touch()
    with pytest.raises(RunFolderError, match=name), claimed(made):
        pass
    with claimed(replace(made, storage=f"sqlite:///{made.out / 'mine.db'}{query}")):
        pass


def test_where_there_are_no_locks_nobody_waits_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("w") as file, (tmp_path / "a").open("w") as again:
        assert try_lock(file.fileno())
        assert not try_lock(again.fileno())
        monkeypatch.setattr(fcntl, "flock", Failing(1, None, OSError(errno.ENOLCK, "No locks available")))
        assert try_lock(again.fileno())
        monkeypatch.setattr(fcntl, "flock", Failing(1, None, OSError(errno.EBADF, "Bad file descriptor")))
        assert try_lock(again.fileno())
        monkeypatch.setattr(fcntl, "flock", Failing(1, None, OSError(errno.EACCES, "Permission denied")))
        assert not try_lock(again.fileno())
