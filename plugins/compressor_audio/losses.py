"""Losses between a student's and its teacher's audio; all of them computed in float32, under autocast too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compressor.loss import Loss
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.signal_frames import LOWEST_RATE
from compressor_audio.stft_distance import (
    DEFAULT_FFT_SIZES,
    complex_stft_distance,
    multi_resolution_stft_distance,
    phase_distance,
)

if TYPE_CHECKING:
    from torch import Tensor

FftSizes = Annotated[
    tuple[Annotated[int, Field(ge=16, multiple_of=4)], ...],
    Field(min_length=1, description="window lengths in samples; each hops a quarter of its own"),
]
Factor = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _check_factors(loss: Loss, *terms: str) -> None:
    """Refuse a loss that compares nothing.

    Raises:
        ValueError: all terms have the factor 0.
    """
    if not any(getattr(loss, term) for term in terms):
        raise ValueError(f"{', '.join(terms)} are all 0: nothing would be compared; raise one, or drop '{loss.name}'")


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

    mel: MelOptions | None = Field(
        default=None,
        description="the analysis; if left out, HiFi-GAN's with windows and highest band scaled to the sample rate",
    )

    def at_rate(self, sample_rate: int | None) -> MelL1:
        """Return this loss with the analysis of a rate, unless it has one of its own or the rate is below speech's."""
        if self.mel is not None or sample_rate is None or sample_rate < LOWEST_RATE:
            return self
        return self.model_copy(update={"mel": MelOptions.for_rate(sample_rate)})

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over bands and frames; shapes (batch, …)."""
        mel = self.mel or MelOptions()
        return (log_mel(student.flatten(1), mel) - log_mel(teacher.flatten(1), mel)).abs().mean()


class MultiResolutionStft(Loss):
    """Spectral convergence and log magnitude at several resolutions (Parallel WaveGAN, arXiv 1910.11480).

    The factors leave terms out or add the linear magnitude (DDSP, arXiv 2001.04643).
    """

    name: ClassVar[str] = "multi-resolution-stft"
    needs_signal: ClassVar[bool] = True

    fft_sizes: FftSizes = DEFAULT_FFT_SIZES
    spectral_convergence: Factor = Field(default=1.0, description="factor of the difference's share of the whole")
    log_magnitude: Factor = Field(default=1.0, description="factor of the mean absolute difference of the logarithms")
    linear_magnitude: Factor = Field(default=0.0, description="factor of the mean absolute difference")

    @model_validator(mode="after")
    def _compares_something(self) -> MultiResolutionStft:
        _check_factors(self, "spectral_convergence", "log_magnitude", "linear_magnitude")
        return self

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the resolutions; shapes (batch, …)."""
        return multi_resolution_stft_distance(
            student.flatten(1),
            teacher.flatten(1),
            self.fft_sizes,
            spectral_convergence=self.spectral_convergence,
            log_magnitude=self.log_magnitude,
            linear_magnitude=self.linear_magnitude,
        )


class ComplexStft(Loss):
    """Difference of the complex spectrograms as a share of the teacher's (Braun and Tashev, arXiv 2009.12286).

    It hears phases as well: for students that are to put out the teacher's very waveform.
    """

    name: ClassVar[str] = "complex-stft"
    needs_signal: ClassVar[bool] = True

    fft_sizes: FftSizes = DEFAULT_FFT_SIZES
    norm: Literal["l1", "l2"] = Field(default="l1", description="l1: all alike; l2: what is loud counts for more")

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the resolutions, 0 for equal ones and 1 for silence; shapes (batch, …)."""
        return complex_stft_distance(student.flatten(1), teacher.flatten(1), self.fft_sizes, self.norm)


class Phase(Loss):
    """Anti-wrapping distances of phase, group delay and phase advance (Ai and Ling, arXiv 2211.15974).

    Loud and soft count alike, and silence not at all: use it beside a loss that compares magnitudes.
    """

    name: ClassVar[str] = "phase"
    needs_signal: ClassVar[bool] = True

    fft_sizes: FftSizes = DEFAULT_FFT_SIZES
    instantaneous_phase: Factor = Field(default=1.0, description="factor of the distance of the phases")
    group_delay: Factor = Field(default=1.0, description="factor of that of their differences along frequency")
    time_difference: Factor = Field(default=1.0, description="factor of that of their differences along time")

    @model_validator(mode="after")
    def _compares_something(self) -> Phase:
        _check_factors(self, "instantaneous_phase", "group_delay", "time_difference")
        return self

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the resolutions in radians; shapes (batch, …)."""
        return phase_distance(
            student.flatten(1),
            teacher.flatten(1),
            self.fft_sizes,
            instantaneous_phase=self.instantaneous_phase,
            group_delay=self.group_delay,
            time_difference=self.time_difference,
        )
