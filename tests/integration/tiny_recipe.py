"""A recipe for a tiny vocoder and recordings, as files that the command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from compressor.testing import tiny_teacher

RATE = 1000
MEL = {"sample_rate": RATE, "n_fft": 64, "win_length": 64, "hop_length": 8, "n_mels": 8, "fmin": 0.0, "fmax": 500.0}


def write_tiny_recipe(folder: Path, stages: list[Any], **changes: Any) -> Path:
    """Write `recipe.yaml` for `tiny.onnx` and three recordings in `wavs/`; everything is named from the folder."""
    (folder / "tiny.onnx").write_bytes(tiny_teacher().content)
    (folder / "wavs").mkdir()
    moments = np.arange(3 * RATE) / RATE
    for number in range(3):
        tone = 0.3 * np.sin(2 * np.pi * (60 + 20 * number) * moments)
        soundfile.write(folder / f"wavs/{number}.wav", tone, RATE)
    recipe = {
        "teacher": "tiny.onnx",
        "data": {"speech-folder": {"path": "wavs", "validation_files": 1, "mel": MEL}},
        "stages": stages,
        "metrics": ["parameters", "output-drift"],
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
