"""Whether refitted layers bring a model's output closer to the teacher's: they may be closer each and yet not together.

Least squares shrinks what it cannot predict. Where a student's waveform no longer follows its teacher's (other phases,
which nobody hears), every layer's error falls when its quiet bands fade, and the voice is lost with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.graph_editing import feed

SHORTEST = 1024
"""Of a signal, along its last axis; anything shorter is compared value by value."""

WINDOWS = (256, 1024)
"""Samples that a spectrum is taken of."""

FLOOR = 1e-2
"""Of a spectrum, times its root mean square: what is 40 dB quieter counts as silence."""


class OutputJudge:
    """Knows what the teacher puts out for some samples, and says how far a student is from it.

    Args:
        teacher: the teacher.
        samples: its inputs, sample by sample.
    """

    def __init__(self, teacher: GraphModule, samples: Sequence[tuple[Tensor, ...]]) -> None:
        self.samples = samples
        self.wanted = [feed(teacher, values) for values in samples]

    def distance(self, student: GraphModule) -> float:
        """Return the mean distance of the outputs; see `distance`."""
        pairs = [
            distance(ours.reshape(theirs.shape), theirs)
            for values, wanted in zip(self.samples, self.wanted, strict=True)
            for ours, theirs in zip(feed(student, values), wanted, strict=True)
        ]
        return fmean(pairs)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return how far an output is from the wanted one of the same shape.

    For signals, (…, at least 1,024 samples): the mean absolute difference of log-magnitude spectra, at two resolutions
    (as in multi-resolution STFT losses, Yamamoto et al., arXiv 1910.11480); else the error's energy, relative.
    """
    if theirs.dim() < 2 or theirs.shape[-1] < SHORTEST or not theirs.is_floating_point():
        energy = theirs.double().square().sum().clamp_min(1e-30)
        return float((ours.double() - theirs.double()).square().sum() / energy)
    return fmean(_spectral_distance(ours, theirs, window) for window in WINDOWS)


def _spectral_distance(ours: Tensor, theirs: Tensor, window: int) -> float:
    mine, wanted = (_magnitudes(signal, window) for signal in (ours, theirs))
    floor = FLOOR * wanted.square().mean().sqrt() + 1e-20
    return float(((mine + floor) / (wanted + floor)).log().abs().mean())


def _magnitudes(signal: Tensor, window: int) -> Tensor:
    shape = torch.hann_window(window)
    return torch.stft(signal.flatten(0, -2), window, window // 4, window=shape, return_complex=True).abs()
