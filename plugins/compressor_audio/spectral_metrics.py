"""Cepstral and spectral distances, and the energy of bands; means over the validation samples.

All in frames of about 46 ms, see `signal_frames`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from compressor.bootstrap import Means
from compressor.errors import MetricUnavailable
from compressor.signal_metric import Signal, SignalMetric
from compressor_audio.mel import log_mel, magnitudes
from compressor_audio.signal_frames import frames_of

COEFFICIENTS = 13
KHZ_BANDS = tuple(1000.0 * edge for edge in range(9))
"""Edges in Hz."""
NARROWEST = 50.0
"""Hz; at any sample rate such a band holds a bin of the spectrum."""
SILENCE = 1e-10
"""Mean square of what counts as nothing: 100 dB below a square wave of full scale."""

Array = NDArray[np.float64]


class MelCepstralDistortion(SignalMetric):
    """Distance of the mel cepstra 1 to 13 (Kubichek, 1993), frame by frame, for the signals are aligned.

    10 / ln 10 √(2 Σ (c - c')²), where c are the cosine coefficients of the natural log mel magnitudes (80 bands, as
    HiFi-GAN's, at its own frame rate): how far the smoothed spectra are apart, loudness (c₀) left out. Cepstra of other
    analyses, such as SPTK's, give other figures.
    """

    name: ClassVar[str] = "mel-cepstral-distortion"
    unit: ClassVar[str] = "dB"

    def score(self, output: Signal, wanted: Signal) -> float:
        """Return the mean over the frames of one utterance."""
        difference = mel_cepstrum(output)[1 : COEFFICIENTS + 1] - mel_cepstrum(wanted)[1 : COEFFICIENTS + 1]
        return float(np.mean(10 / math.log(10) * np.sqrt(2 * np.sum(difference**2, axis=0))))


class _BandMetric(SignalMetric):
    band_edges: tuple[float, ...] = Field(
        default=KHZ_BANDS,
        min_length=2,
        description="edges of the bands in Hz, rising; bands above half the sample rate are left out",
    )

    @field_validator("band_edges")
    @classmethod
    def _rise(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if edges[0] < 0 or any(high - low < NARROWEST for low, high in pairwise(edges)):
            raise ValueError(
                f"expected edges from 0 Hz on, each at least {NARROWEST:g} Hz above the last; found {list(edges)}"
            )
        return edges

    def bands(self, rate: int) -> list[tuple[float, float]]:
        """Return the lower and upper edge in Hz of each band that lies below half the sample rate.

        Raises:
            MetricUnavailable: none does.
        """
        found = [(low, high) for low, high in pairwise(self.band_edges) if 2 * high <= rate]
        if not found:
            raise MetricUnavailable(
                f"no band lies below {rate / 2:g} Hz, half the sample rate; set lower edges: band_edges: […]"
            )
        return found

    def parts(self, rate: int) -> tuple[str, ...]:
        return tuple(f"{low / 1000:g} to {high / 1000:g} kHz" for low, high in self.bands(rate))

    def _bins(self, rate: int, bins: int) -> Iterator[NDArray[np.bool_]]:
        """Yield for each band which of a spectrum's bins it holds."""
        frequencies = np.linspace(0.0, rate / 2, bins)
        return ((frequencies >= low) & (frequencies < high) for low, high in self.bands(rate))


class LogSpectralDistance(_BandMetric):
    """Root mean square over frequencies of the difference in dB, averaged over frames: over all bands, and in each.

    White noise at -100 dBFS is added to both, so that nothing is made of differences between silences.
    """

    name: ClassVar[str] = "log-spectral-distance"
    unit: ClassVar[str] = "dB"

    def parts(self, rate: int) -> tuple[str, ...]:
        return ("all bands", *super().parts(rate))

    def score(self, output: Signal, wanted: Signal) -> list[float]:
        """Return the distances of one utterance, over all bands first."""
        found, expected = (power(signal) for signal in (output, wanted))
        noise = SILENCE / len(found)
        squares = (10 * np.log10((found + noise) / (expected + noise))) ** 2
        bands = list(self._bins(output.rate, len(squares)))
        return [_over_frames(squares[held]) for held in (np.any(bands, axis=0), *bands)]


class BandEnergy(_BandMetric):
    """Largest difference of any band's energy, in dB; each band's difference is in the report, above zero: louder.

    A band's difference is the mean over the utterances of that in each; -100 dBFS counts as nothing.
    """

    name: ClassVar[str] = "band-energy"
    unit: ClassVar[str] = "dB"

    def score(self, output: Signal, wanted: Signal) -> list[float]:
        """Return how much louder than it should be each band of one utterance is, in dB."""
        found, expected = (power(signal).mean(axis=1) for signal in (output, wanted))
        return [
            10 * math.log10((found[held].sum() + SILENCE) / (expected[held].sum() + SILENCE))
            for held in self._bins(output.rate, len(found))
        ]

    def combined(self, means: Means) -> Means:
        largest: Means = np.abs(means).max(axis=-1)
        return largest


def mel_cepstrum(signal: Signal) -> Array:
    """Return the cosine coefficients (n_mels, frames) of a signal's natural log mel magnitudes L.

    L[k] = c[0] + Σ c[m] cos(π m (k + ½) / n_mels), as SPTK's mel cepstra are of a log magnitude.
    """
    import torch
    from scipy.fft import dct

    with torch.no_grad():
        bands = log_mel(torch.from_numpy(signal.samples)[None], frames_of(signal))[0].double().numpy()
    coefficients: Array = dct(bands, type=2, axis=0) / len(bands)
    coefficients[0] /= 2
    return coefficients


def power(signal: Signal) -> Array:
    """Return the power spectrogram (bins, frames), scaled so that a frame's sum is the mean square under its window."""
    import torch

    analysis = frames_of(signal)
    with torch.no_grad():
        magnitude = magnitudes(torch.from_numpy(signal.samples)[None], analysis, analysis.hop_length)[0].double()
    # Parseval: all bins but the outermost stand for two, and the squared Hann window sums up to 3/8 of its length.
    squares: Array = magnitude.numpy() ** 2 * (2 / (3 / 8 * analysis.n_fft**2))
    squares[[0, -1]] /= 2
    return squares


def _over_frames(squares: Array) -> float:
    return float(np.mean(np.sqrt(squares.mean(axis=0))))
