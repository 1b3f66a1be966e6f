"""A sweep through the command: killed and resumed, on several workers, looked at."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from click.testing import CliRunner, Result

from compressor.cli import main
from compressor.errors import RunFolderError
from compressor.sweep.results import Results, Tried
from compressor.sweep.storage import patient_storage
from compressor.sweep.trials import DEATHS, values_of
from tests.integration.installing import COMPRESS
from tests.integration.tiny_recipe import write_tiny_recipe

RATIO = "channel-importance-pruning.pruning_ratio"
VARIED = ["--vary", "depthwise-separable-conv.rank=1,2,3,4", "--vary", f"{RATIO}=0.1,0.3"]
COMPARED = ["--metric", "parameters", "--metric", "output-drift"]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, which is the current one, with a recipe for a tiny vocoder and recordings."""
    monkeypatch.chdir(tmp_path)
    stages = [
        {"channel-importance-pruning": {"pruning_ratio": 0.2, "round_to": 2}},
        {"depthwise-separable-conv": {"rank": 1}},
    ]
    write_tiny_recipe(tmp_path, stages)
    return tmp_path


def sweep(*options: str, trials: int = 8) -> Result:
    return CliRunner().invoke(
        main, ["sweep", "recipe.yaml", *VARIED, *COMPARED, "--out", "out", "--trials", str(trials), *options]
    )


def results(folder: Path) -> Results:
    return Results.model_validate_json((folder / "out/sweep.json").read_bytes())


def whole_runs(folder: Path) -> list[Path]:
    states = (folder / "out/trials").glob("*/run.json")
    return [path.parent for path in states if json.loads(path.read_text(encoding="utf-8"))["finished"]]


def finished(folder: Path) -> list[Tried]:
    return [trial for trial in results(folder).trials if trial.state == "finished"]


@pytest.mark.parametrize(
    ("how", "workers", "executor"),
    [
        (signal.SIGKILL, 1, "local"),
        (signal.SIGINT, 2, "local"),
        (signal.SIGKILL, 2, "local"),
        pytest.param(signal.SIGINT, 2, "ray", marks=needs_ray),
    ],
)
def test_eight_trials_stopped_and_resumed(how: signal.Signals, workers: int, executor: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-c",
        COMPRESS,
        "sweep",
        "recipe.yaml",
        *VARIED,
        *COMPARED,
        "--out",
        "out",
        "--trials",
        "8",
        "--workers",
        str(workers),
        "--executor",
        executor,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        ended = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < ended:
            if len(whole_runs(folder)) >= 3:
                break
            time.sleep(0.05)
        process.send_signal(how)
    before = {run / "report.json": (run / "report.json").stat().st_mtime_ns for run in whole_runs(folder)}
    assert 3 <= len(before) < 8
    # Workers have ended with the process that started them.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = results(folder)
    done_trials = finished(folder)
    assert len({json.dumps(trial.values) for trial in done_trials}) == len(done_trials) == len(found.trials) == 8
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    figures = {trial.number: (trial.value("parameters"), trial.value("output-drift")) for trial in done_trials}
    for number, own in figures.items():
        others = [other for other in figures.values() if other != own]
        beaten = any(a <= own[0] and b <= own[1] for a, b in others)  # type: ignore[operator]
        assert (number in found.front) == (not beaten)
    # What trials of one process begin alike is computed once, in the first start and in the second.
    seconds: dict[float, set[float]] = {}
    for trial in done_trials:
        stages = json.loads((folder / "out" / trial.folder / "report.json").read_text(encoding="utf-8"))["stages"]
        seconds.setdefault(trial.values[RATIO], set()).add(stages[0]["seconds"])
    assert all(len(each) <= 2 * workers for each in seconds.values())
    best = yaml.safe_load((folder / "out/best.yaml").read_text(encoding="utf-8"))
    assert found.best is not None
    rank = found.trial(found.best).values["depthwise-separable-conv.rank"]
    assert (
        next(stage for stage in best["stages"] if "depthwise" in next(iter(stage)))["depthwise-separable-conv"].get(
            "rank"
        )
        == rank
    )
    assert (folder / "out/sweep.html").read_text(encoding="utf-8").count("<tr>") >= 8
    # Workers that are told to end say so, but for one that is between two trials; a kill counts for all under way.
    storage = patient_storage(f"sqlite:///{folder / 'out/study.db'}", print)
    study = optuna.load_study(study_name="recipe", storage=storage)
    dead = {json.dumps(values_of(trial)) for trial in study.trials if trial.user_attrs.get(DEATHS)}
    assert len(dead) <= (1 if how == signal.SIGINT else workers)
    # All is done: nothing is left to try.
    again = sweep()
    assert again.exit_code == 0
    assert len(results(folder).trials) == len(found.trials)


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/thesis.txt").write_text("mine", encoding="utf-8")
    refused = sweep()
    assert refused.exit_code == 2
    assert "thesis.txt" in refused.output
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("folder")
def test_another_sweep_does_not_go_on_here() -> None:
    assert sweep(trials=1).exit_code == 0
    refused = sweep("--set", "seed=7", trials=2)
    assert refused.exit_code == 2
    assert "of another recipe" in refused.output


@pytest.mark.usefixtures("folder")
def test_results_that_cannot_be_written_meanwhile_end_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from compressor.cli import sweeping

    write, failures = sweeping._write, iter([RunFolderError("no space left")])

    def failing(*given: Any) -> Results:
        if (failure := next(failures, None)) is not None:
            raise failure
        return write(*given)

    monkeypatch.setattr(sweeping, "_write", failing)
    done = sweep(trials=2)
    assert done.exit_code == 0, done.output
    assert "the results so far cannot be written: no space left" in done.output
