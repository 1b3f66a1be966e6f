from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from compressor.data_source import DataContext
from compressor.dataset import FloatArray
from compressor.progress import SilentReporter
from compressor.tensor_spec import TensorSpec

RATE = 22050

SpeechLike = Callable[..., FloatArray]
MakeFolder = Callable[..., Path]


@pytest.fixture
def speech_like() -> SpeechLike:
    """Make harmonics and noise in syllables, loud enough for PESQ and STOI to take for speech."""

    def make(seconds: float, seed: int = 0, rate: int = RATE) -> FloatArray:
        random = np.random.default_rng(seed)
        time = np.arange(round(seconds * rate)) / rate
        pitch = 2 * np.pi * (110 + 10 * seed) * time
        voice = sum(np.sin(number * pitch + random.uniform(0, 6)) / number for number in range(1, 30))
        syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, None)
        sound = syllables * (voice + 0.1 * random.standard_normal(len(time)))
        return np.asarray(0.1 * sound, dtype=np.float32)

    return make


@pytest.fixture
def recordings(tmp_path: Path, speech_like: SpeechLike) -> MakeFolder:
    """Write a folder of wav files of one second each."""

    def make(count: int, name: str = "speech", first_seed: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            soundfile.write(folder / f"{number:02d}.wav", speech_like(1.0, seed=first_seed + number), RATE)
        return folder

    return make


@pytest.fixture
def context(tmp_path: Path) -> DataContext:
    """Stand for a teacher that takes 80 mel bands."""
    mel = TensorSpec("mel", (1, 80, "frames"))
    return DataContext((mel,), (TensorSpec("audio", (1, 1, "samples")),), 0, tmp_path / "cache", SilentReporter())
