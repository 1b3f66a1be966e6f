"""Synthetic speech kept on disk, so that it is spoken once."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.dataset import FloatArray

_FULL_SCALE = 32767

Pcm = NDArray[np.int16]


def to_pcm(audio: FloatArray) -> Pcm:
    """Return audio in [-1, 1] as 16-bit samples; louder is clipped."""
    return np.asarray(np.rint(np.clip(audio, -1.0, 1.0) * _FULL_SCALE), dtype=np.int16)


def from_pcm(samples: Pcm) -> FloatArray:
    """Return 16-bit samples as audio in [-1, 1]."""
    return np.asarray(samples / np.float32(_FULL_SCALE), dtype=np.float32)


def load_speech(path: Path) -> tuple[Pcm, ...] | None:
    """Return the utterances of a cache file; None where it is missing or damaged."""
    try:
        # Opened here, as numpy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            samples, lengths = stored["samples"], stored["lengths"]
        return tuple(np.split(samples.astype(np.int16, casting="safe"), np.cumsum(lengths)[:-1]))
    # A damaged file is as good as none: the caller speaks anew and overwrites it.
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile):
        return None


def save_speech(path: Path, utterances: Sequence[Pcm]) -> None:
    """Write utterances to a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        lengths = [len(samples) for samples in utterances]
        np.savez(partial, samples=np.concatenate(utterances), lengths=np.array(lengths))
        partial.replace(path)
