"""How far the student's audio is from what it should be, in spectrograms; means over the validation samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.errors import MetricUnavailable
from compressor.signal_metric import Signal, SignalMetric
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.signal_frames import frames_of
from compressor_audio.stft_distance import DEFAULT_FFT_SIZES, multi_resolution_stft_distance

if TYPE_CHECKING:
    from torch import Tensor


class MelDistance(SignalMetric):
    """Mean absolute difference of the log mel spectrograms."""

    name: ClassVar[str] = "mel-l1"

    mel: MelOptions | None = Field(
        default=None,
        description="the analysis; if left out, HiFi-GAN's with windows and highest band scaled to the sample rate",
    )

    def score(self, output: Signal, wanted: Signal) -> float:
        """Return the mean over bands and frames of one utterance.

        Raises:
            MetricUnavailable: the audio has another sample rate than the analysis.
        """
        import torch

        mel = self.mel or frames_of(output)
        if output.rate != mel.sample_rate:
            raise MetricUnavailable(
                f"the audio has {output.rate} samples per second and the mel analysis is for {mel.sample_rate}; "
                f"set it in the metric's options: mel: {{sample_rate: {output.rate}}}"
            )
        with torch.no_grad():
            return float((log_mel(_batch(output), mel) - log_mel(_batch(wanted), mel)).abs().mean())


class MultiResolutionStftDistance(SignalMetric):
    """Spectral convergence plus log magnitude at several resolutions (arXiv 1910.11480)."""

    name: ClassVar[str] = "multi-resolution-stft"

    def score(self, output: Signal, wanted: Signal) -> float:
        """Return it for one utterance."""
        import torch

        with torch.no_grad():
            return float(multi_resolution_stft_distance(_batch(output), _batch(wanted), DEFAULT_FFT_SIZES))


def _batch(signal: Signal) -> Tensor:
    import torch

    return torch.from_numpy(signal.samples)[None]
