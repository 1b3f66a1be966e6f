"""PESQ and STOI of the student's audio against the teacher's; means over the validation samples.

Both judge speech. An utterance in which the teacher does not speak (a dry run on noise, a pause) says nothing and is
left out; one in which only the student is silent counts as the worst there is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric, Subject

_PESQ_RATE = 16000
_WORST_PESQ = 1.0

Score = Callable[[FloatArray, FloatArray, int], float | None]
"""The score of (teacher, student, sample rate), each (samples,); None where the teacher does not speak."""


class PesqWideband(Metric):
    """Wide-band PESQ (ITU-T P.862.2), about 1.0 (worst) to 4.64 (equal), at 16 kHz."""

    name: ClassVar[str] = "pesq-wb"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs_data: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        """Return the mean over utterances.

        Raises:
            MetricUnavailable: the package `pesq` is missing, or the teacher speaks in no utterance.
        """
        try:
            import pesq  # noqa: F401
        except ImportError as error:
            raise MetricUnavailable("needs: pip install 'onnx-student-compressor[pesq]'") from error
        return _mean(subject, _pesq)


class Stoi(Metric):
    """Short-time objective intelligibility (Taal et al., 2011), 0 (none) to 1 (equal)."""

    name: ClassVar[str] = "stoi"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs_data: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        """Return the mean over utterances.

        Raises:
            MetricUnavailable: the teacher speaks in no utterance.
        """
        return _mean(subject, _stoi)


def _mean(subject: Subject, score: Score) -> float:
    rate = subject.sample_rate
    if rate is None:
        raise MetricUnavailable("needs an output of known sample rate")
    pairs = zip(subject.teacher_outputs, subject.outputs, strict=True)
    scores = [value for value in (score(teacher, student, rate) for teacher, student in pairs) if value is not None]
    if not scores:
        raise MetricUnavailable("no speech is heard in the teacher's output")
    return float(np.mean(scores))


def _pesq(teacher: FloatArray, student: FloatArray, rate: int) -> float | None:
    import soxr

    reference, degraded = (soxr.resample(audio, rate, _PESQ_RATE) for audio in (teacher, student))
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


def _stoi(teacher: FloatArray, student: FloatArray, rate: int) -> float | None:
    from pystoi import stoi

    with warnings.catch_warnings():
        # How pystoi says that the reference holds too little speech to judge by.
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(stoi(teacher, student, rate))
        except RuntimeWarning:
            return None
