from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from compressor.dataset import Dataset
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import dataset, tiny_vocoder, vocoder_onnx

# A busy machine is no defect of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Let workers (`pytest -n`), and the processes that they start, share the cores."""
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        share = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        torch.set_num_threads(share)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny vocoder with two convolutions a unit."""
    path = tmp_path_factory.mktemp("teacher") / "tiny.onnx"
    path.write_bytes(vocoder_onnx(tiny_vocoder("1")))
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tiny_onnx: Path) -> Teacher:
    """Return that vocoder loaded; tests work on copies of its graph."""
    return load_teacher(tiny_onnx)


@pytest.fixture(scope="session")
def tiny_teacher_2(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Return a tiny vocoder with one convolution a unit."""
    path = tmp_path_factory.mktemp("teacher") / "tiny2.onnx"
    path.write_bytes(vocoder_onnx(tiny_vocoder("2")))
    return load_teacher(path)


@pytest.fixture(scope="session")
def tiny_dataset(tiny_onnx: Path) -> Dataset:
    """Return mels for the tiny vocoder with what it makes of them as references."""
    return dataset(tiny_onnx.read_bytes())


@pytest.fixture
def tiny_context(tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> StageContext:
    """Return what a stage sees in a run on the tiny vocoder."""
    return stage_context(tiny_teacher, tiny_dataset, tmp_path / "stage")
