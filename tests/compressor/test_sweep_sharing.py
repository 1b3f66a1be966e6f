"""Runs beside each other share what training stages made of the same, whatever process they are in."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import compressor
from compressor.pipeline import RunResult
from compressor.preparing import RunSettings
from compressor.progress import SilentReporter, SilentTask
from compressor.run_reading import read_run
from compressor.sweep.definition import Sweep
from compressor.sweep.space import parse_varied
from compressor.sweep.study import open_study
from compressor.sweep.trials import take_up
from compressor.sweep.working import work
from tests.compressor.tiny_runs import QUICK, TRAINING, Runs
from tests.integration.tiny_recipe import write_tiny_recipe


class AtTraining(SilentReporter):
    """Does something at each step of a training, and hears what is said."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def task(self, label: str, *_: Any, **__: Any) -> SilentTask:
        action = self.action if label in ("block-wise", "end-to-end") else lambda: None

        class Task(SilentTask):
            def advance(self, steps: int = 1, status: str = "") -> None:
                action()

        return Task()


def interrupt() -> None:
    raise KeyboardInterrupt


def run_beside(
    runs: Runs, out: Path, reporter: SilentReporter, *after: Any, beside: bool = True, resume: bool = False
) -> RunResult:
    """Run what trains, and other stages after that."""
    plan = runs.plan(**QUICK, budget={}, stages=["transposed-to-standard-conv", TRAINING, *after])
    folder = out.parent if beside else None
    settings = RunSettings(out, "tiny", resume=resume, cache_dir=out.parents[1] / "cache", beside=folder)
    return compressor.run(plan, settings, reporter)


def restored(result: RunResult) -> list[str]:
    return [stage.stage for stage in result.report.stages if stage.restored]


def trained(result: RunResult) -> Any:
    (stage,) = (stage for stage in result.report.stages if stage.stage == "distillation")
    return stage.fingerprint, stage.findings


def test_a_training_that_a_run_beside_has_finished_is_taken_over(runs: Runs, tmp_path: Path) -> None:
    one = run_beside(runs, tmp_path / "trials/one", SilentReporter())
    with pytest.raises(KeyboardInterrupt):
        run_beside(runs, tmp_path / "trials/alone", AtTraining(interrupt), "conv1d-to-conv2d", beside=False)
    other = run_beside(runs, tmp_path / "trials/other", AtTraining(interrupt), "conv1d-to-conv2d")
    assert (restored(one), restored(other)) == ([], ["distillation"])
    assert trained(one) == trained(other)
    assert one.report.curve == other.report.curve != ()
    before, after = (load_file(each.folder / "stages/distillation.safetensors") for each in (one, other))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # The folder is whole without the one beside it.
    shutil.rmtree(one.folder)
    again = run_beside(runs, other.folder, AtTraining(interrupt), "conv1d-to-conv2d", resume=True)
    assert restored(again) == ["distillation"]


@pytest.mark.parametrize("damage", ["weights", "notes", "notes of another"])
def test_what_is_not_whole_beside_is_trained_anew(damage: str, runs: Runs, tmp_path: Path) -> None:
    one = run_beside(runs, tmp_path / "trials/one", SilentReporter())
    weights, notes = (one.folder / f"stages/distillation.{ending}" for ending in ("safetensors", "json"))
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "notes":
        notes.unlink()
    else:
        notes.write_bytes(notes.read_bytes().replace(trained(one)[0].encode(), b"another"))
    assert restored(run_beside(runs, tmp_path / "trials/other", SilentReporter(), "conv1d-to-conv2d")) == []


def test_of_two_that_train_the_same_at_once_one_waits(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.run_folder.LOOK_SECONDS", 0.05)
    training, waiting, found = threading.Event(), threading.Event(), []

    class Waiting(AtTraining):
        def say(self, message: str) -> None:
            super().say(message)
            if message.startswith("waiting for another run"):
                waiting.set()

    def hold() -> None:
        training.set()
        assert waiting.wait(60)

    first = threading.Thread(
        target=lambda: found.append(run_beside(runs, tmp_path / "trials/one", AtTraining(hold))), daemon=True
    )
    first.start()
    assert training.wait(60)
    other = Waiting(interrupt)
    result = run_beside(runs, tmp_path / "trials/other", other, "conv1d-to-conv2d")
    first.join(60)
    assert restored(result) == ["distillation"]
    assert trained(found[0]) == trained(result)
    assert sum(message.startswith("waiting") for message in other.said) == 1


def test_trials_of_several_processes_train_once_what_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    training = {"losses": ["l1"], "block_wise": {"steps": 0}, "end_to_end": {"steps": 2}, "segment": 12}
    recipe = write_tiny_recipe(tmp_path, ["fold", {"distillation": training}, {"int8-quantisation": {}}])
    varied = parse_varied(["int8-quantisation.max_drift=10.0,20.0,30.0"])
    made = Sweep(recipe, varied, ("output-drift",), 1, tmp_path / "out", f"sqlite:///{tmp_path / 'study.db'}")
    # Nothing but the disk goes from one of these to the next, as where each is a process.
    for trials in (1, 2, 3):
        sweep = replace(made, trials=trials)
        take_up(sweep, open_study(sweep))
        work(sweep)
    reports = [read_run(folder).report for folder in (tmp_path / "out/trials").iterdir() if folder.is_dir()]
    stages = [stage for report in reports for stage in report.stages if stage.stage == "distillation"]
    assert len({stage.fingerprint for stage in stages}) == 1
    assert sorted(stage.restored for stage in stages) == [False, True, True]
