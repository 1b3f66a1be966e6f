"""Trainings in processes of their own: several at one student, and one that is killed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import time
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


def phase_of(checkpoint: Path) -> int:
    """Return which phase a checkpoint is of, or -1 while there is none to read."""
    try:
        content = checkpoint.read_bytes()[hashlib.sha256().digest_size :]
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return -1
    return int(state["progress"]["phase"])


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


@pytest.mark.parametrize("phase", [0, 2])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    phase: int, alone: dict[str, Any], tiny_onnx: Path, tmp_path: Path
) -> None:
    command = [*ALONE, str(tiny_onnx), str(tmp_path), "4"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        ended = time.monotonic() + 120
        # A checkpoint follows each step: somewhere among those of the phase.
        while phase_of(tmp_path / "stage" / "checkpoint.previous.pt") < phase and time.monotonic() < ended:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "result.pt").exists()
    resumed = trained(ALONE, tiny_onnx, tmp_path)
    assert resumed["curve"] == alone["curve"]
    assert all(torch.equal(value, alone["weights"][name]) for name, value in resumed["weights"].items())
