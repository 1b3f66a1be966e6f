"""Pitch, voicing and periodicity of the student's audio against what it should be; means over the validation samples.

All three look at one pitch analysis (probabilistic YIN, see `pitch`), which is slow: they are measured on the finished
student only. An utterance without any voice says nothing by them and is left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from compressor.signal_metric import Signal, SignalMetric
from compressor_audio.pitch import PitchTrack, track_pitch
from compressor_audio.signal_frames import frames_of

_CENTS = 1200.0


class _PitchMetric(SignalMetric):
    finished_only: ClassVar[bool] = True
    speechless: ClassVar[str] = "no voice is heard in what the student should sound like"


class F0Error(_PitchMetric):
    """Root mean square of the difference in f0, over frames that are voiced in both; 100 cents are a semitone.

    In cents, and not in Hz, so that high and low voices count alike.
    """

    name: ClassVar[str] = "f0-rmse"
    unit: ClassVar[str] = "cents"

    def score(self, output: Signal, wanted: Signal) -> float | None:
        """Return it for one utterance; None where no frame is voiced in both."""
        found, expected = output.once(pitch_of), wanted.once(pitch_of)
        both = found.voiced & expected.voiced
        if not both.any():
            return None
        cents = _CENTS * np.log2(found.f0[both].astype(np.float64) / expected.f0[both])
        return float(np.sqrt(np.mean(cents**2)))


class VoicingF1(_PitchMetric):
    """F1 of the decision which frames are voiced: 1 is every one right."""

    name: ClassVar[str] = "voicing-f1"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def score(self, output: Signal, wanted: Signal) -> float | None:
        """Return it for one utterance; None where none of its frames should be voiced."""
        found, expected = output.once(pitch_of).voiced, wanted.once(pitch_of).voiced
        if not expected.any():
            return None
        return float(2 * (found & expected).sum() / (found.sum() + expected.sum()))


class PeriodicityError(_PitchMetric):
    """Root mean square of the difference in periodicity, 0 to 1 (CARGAN, arXiv 2110.10139).

    By the probability of voicing that pYIN finds: figures by other pitch trackers, such as CREPE's, do not compare.
    """

    name: ClassVar[str] = "periodicity"

    def score(self, output: Signal, wanted: Signal) -> float | None:
        """Return it for one utterance; None where none of its frames should be voiced."""
        found, expected = output.once(pitch_of), wanted.once(pitch_of)
        if not expected.voiced.any():
            return None
        return float(np.sqrt(np.mean((found.periodicity - expected.periodicity) ** 2)))


def pitch_of(signal: Signal) -> PitchTrack:
    """Return the pitch of a signal, in frames of about 46 ms that begin about 12 ms apart."""
    frames = frames_of(signal)
    return track_pitch(signal.samples, signal.rate, frames.n_fft, frames.hop_length)
