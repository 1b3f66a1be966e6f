"""PESQ and STOI of the student's audio against what it should be; means over the validation samples.

Both judge speech. An utterance in which nobody should speak (a dry run on noise, a pause) says nothing and is left out;
one in which only the student is silent counts as the worst there is.
"""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import numpy as np

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.signal_metric import Signal, SignalMetric

_PESQ_RATE = 16000
_WORST_PESQ = 1.0


class _SpeechMetric(SignalMetric):
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    speechless: ClassVar[str] = "no speech is heard in what the student should sound like"


class PesqWideband(_SpeechMetric):
    """Wide-band PESQ (ITU-T P.862.2), about 1.0 (worst) to 4.64 (equal), at 16 kHz."""

    name: ClassVar[str] = "pesq-wb"

    def score(self, output: Signal, wanted: Signal) -> float | None:
        """Return it for one utterance; None where nobody should speak.

        Raises:
            MetricUnavailable: the package `pesq` is missing.
        """
        try:
            import pesq  # noqa: F401
        except ImportError as error:
            raise MetricUnavailable("needs: pip install 'onnx-student-compressor[pesq]'") from error
        return _pesq(wanted.samples, output.samples, output.rate)


class Stoi(_SpeechMetric):
    """Short-time objective intelligibility (Taal et al., 2011), 0 (none) to 1 (equal)."""

    name: ClassVar[str] = "stoi"

    def score(self, output: Signal, wanted: Signal) -> float | None:
        """Return it for one utterance; None where nobody should speak."""
        return _stoi(wanted.samples, output.samples, output.rate)


def _pesq(wanted: FloatArray, output: FloatArray, rate: int) -> float | None:
    import soxr

    reference, degraded = (soxr.resample(audio, rate, _PESQ_RATE) for audio in (wanted, output))
    score = _pesq_at_16_khz(reference, degraded)
    if score is not None:
        return score
    return _WORST_PESQ if _pesq_at_16_khz(reference, reference) is not None else None


def _pesq_at_16_khz(reference: FloatArray, degraded: FloatArray) -> float | None:
    from pesq import PesqError, pesq

    # PESQ scales each signal by its level, which fails for one without any.
    if not (reference.any() and degraded.any() and np.isfinite(degraded).all()):
        return None
    score = float(pesq(_PESQ_RATE, reference, degraded, "wb", on_error=PesqError.RETURN_VALUES))
    return score if score >= 0.0 else None


def _stoi(wanted: FloatArray, output: FloatArray, rate: int) -> float | None:
    from pystoi import stoi

    with warnings.catch_warnings():
        # How pystoi says that the reference holds too little speech to judge by.
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(stoi(wanted, output, rate))
        except RuntimeWarning:
            return None
