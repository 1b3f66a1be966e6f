"""Trainings in processes of their own: several at one student, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("shared_training.py")
ROOT = Path(__file__).parents[2]
ALONE = [sys.executable, str(SCRIPT)]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


def trained(command: list[str], teacher: Path, out: Path, steps: int = 4) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    arguments = [*command, str(teacher), str(out), str(steps)]
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = torch.load(out / "result.pt", weights_only=True)
    return result


@pytest.fixture(scope="module")
def alone(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(ALONE, tiny_onnx, tmp_path_factory.mktemp("alone"))


def test_two_processes_train_as_one_with_the_same_batch(alone: dict[str, Any], tiny_onnx: Path, tmp_path: Path) -> None:
    both = trained(TWO, tiny_onnx, tmp_path)
    assert "2 processes" in both["notes"][0]
    assert "processes" not in alone["notes"][0]
    assert "div (6 of 12 channels)" in alone["notes"][0]
    assert {"features", "adversarial", "discriminator"} <= {name for point in alone["curve"] for name in point[2]}
    assert [point[:2] for point in both["curve"]] == [point[:2] for point in alone["curve"]]
    for (_, _, losses, validation), (_, _, wanted, validation_wanted) in zip(
        both["curve"], alone["curve"], strict=True
    ):
        assert losses == pytest.approx(wanted, rel=1e-4)
        assert validation == pytest.approx(validation_wanted, rel=1e-4)


# Of three phases of four steps, with a checkpoint after each step.
@pytest.mark.parametrize("moment", [("step", "11"), ("saving", "7")])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    moment: tuple[str, str], alone: dict[str, Any], tiny_onnx: Path, tmp_path: Path
) -> None:
    command = [*ALONE, str(tiny_onnx), str(tmp_path), "4", *moment]
    killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "stage" / "checkpoint.new.pt").exists() == (moment[0] == "saving")
    resumed = trained(ALONE, tiny_onnx, tmp_path)
    assert resumed["curve"] == alone["curve"]
    assert all(torch.equal(value, alone["weights"][name]) for name, value in resumed["weights"].items())
