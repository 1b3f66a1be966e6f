"""Pitch, and how certain it is, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.dataset import FloatArray

LOWEST_PITCH, HIGHEST_PITCH = 65.0, 1100.0
"""Hz, C2 to about C6: what voices sing."""


@dataclass(frozen=True, eq=False)
class PitchTrack:
    """What is known of each frame; arrays are (frames,)."""

    f0: FloatArray
    """Hz; of no meaning where a frame is unvoiced."""
    voiced: NDArray[np.bool_]
    periodicity: FloatArray
    """0 (noise) to 1 (periodic): the probability that the frame is voiced."""


def track_pitch(audio: FloatArray, sample_rate: int, frame_length: int, hop_length: int) -> PitchTrack:
    """Return the pitch of audio (samples,), whose first frame begins at the first sample.

    By probabilistic YIN (Mauch and Dixon, 2014) as librosa computes it. One core takes about a quarter of a second for
    a second of audio at 86 frames per second.
    """
    import librosa

    f0, voiced, probability = librosa.pyin(
        audio,
        fmin=LOWEST_PITCH,
        fmax=HIGHEST_PITCH,
        sr=sample_rate,
        frame_length=frame_length,
        hop_length=hop_length,
        center=False,
    )
    return PitchTrack(np.asarray(f0, np.float32), np.asarray(voiced, bool), np.asarray(probability, np.float32))
