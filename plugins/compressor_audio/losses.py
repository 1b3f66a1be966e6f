"""Losses between a student's and its teacher's audio; all of them computed in float32, under autocast too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compressor.loss import Loss
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.stft_distance import DEFAULT_FFT_SIZES, multi_resolution_stft_distance

if TYPE_CHECKING:
    from torch import Tensor


class WaveformL1(Loss):
    """Mean absolute difference of the samples."""

    name: ClassVar[str] = "waveform-l1"
    needs_signal: ClassVar[bool] = True

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all samples; shapes (batch, …)."""
        return (student.float() - teacher.float()).abs().mean()


class MelL1(Loss):
    """Mean absolute difference of the log mel spectrograms (HiFi-GAN, arXiv 2010.05646, equation 3)."""

    name: ClassVar[str] = "mel-l1"
    needs_signal: ClassVar[bool] = True

    mel: MelOptions = Field(default=MelOptions(), description="the analysis; HiFi-GAN's at 22.05 kHz if left out")

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over bands and frames; shapes (batch, …)."""
        return (log_mel(student.flatten(1), self.mel) - log_mel(teacher.flatten(1), self.mel)).abs().mean()


class MultiResolutionStft(Loss):
    """Spectral convergence and log magnitude at several resolutions (Parallel WaveGAN, arXiv 1910.11480)."""

    name: ClassVar[str] = "multi-resolution-stft"
    needs_signal: ClassVar[bool] = True

    fft_sizes: tuple[Annotated[int, Field(ge=16, multiple_of=4)], ...] = Field(
        default=DEFAULT_FFT_SIZES, min_length=1, description="window lengths in samples; each hops a quarter of its own"
    )

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the resolutions; shapes (batch, …)."""
        return multi_resolution_stft_distance(student.flatten(1), teacher.flatten(1), self.fft_sizes)
