"""How far the student's audio is from the teacher's, in spectrograms; means over the validation samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric, Subject
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.stft_distance import DEFAULT_FFT_SIZES, multi_resolution_stft_distance

if TYPE_CHECKING:
    from torch import Tensor


class MelDistance(Metric):
    """Mean absolute difference of the log mel spectrograms, student against teacher."""

    name: ClassVar[str] = "mel-l1"
    needs_data: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True

    mel: MelOptions = Field(default=MelOptions(), description="the analysis; HiFi-GAN's at 22.05 kHz if left out")

    def measure(self, subject: Subject) -> float:
        """Return the mean over utterances.

        Raises:
            MetricUnavailable: the audio has another sample rate than the analysis.
        """
        if subject.sample_rate != self.mel.sample_rate:
            raise MetricUnavailable(
                f"the audio has {subject.sample_rate} samples per second and the mel analysis is for "
                f"{self.mel.sample_rate}; set it in the metric's options: mel: {{sample_rate: {subject.sample_rate}}}"
            )
        return _mean(subject, lambda student, teacher: (log_mel(student, self.mel) - log_mel(teacher, self.mel)).abs())


class MultiResolutionStftDistance(Metric):
    """Spectral convergence plus log magnitude at several resolutions (arXiv 1910.11480), student against teacher."""

    name: ClassVar[str] = "multi-resolution-stft"
    needs_data: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        """Return the mean over utterances."""
        return _mean(
            subject, lambda student, teacher: multi_resolution_stft_distance(student, teacher, DEFAULT_FFT_SIZES)
        )


def _mean(subject: Subject, distance: Callable[[Tensor, Tensor], Tensor]) -> float:
    import torch

    def of_pair(student: FloatArray, teacher: FloatArray) -> float:
        with torch.no_grad():
            return distance(torch.from_numpy(student)[None], torch.from_numpy(teacher)[None]).mean().item()

    return float(np.mean([of_pair(*pair) for pair in zip(subject.outputs, subject.teacher_outputs, strict=True)]))
