"""One voice as several: the mel of a speaker with another pitch and another vocal tract, at the same tempo.

A vocoder learns harmonics where it heard them, so a student trained on one voice must hear others. Playing a recording
faster raises the pitch, but the resonances and the tempo with it, to what no human says. Here the harmonics come from
the faster recording, the resonances from the original one. Only the mel is needed, for the teacher supplies the audio;
so there are no phases to repair, and the tempo is kept by taking frames of the faster recording at a shorter hop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from compressor.dataset import FloatArray
from compressor_audio.mel import MelOptions, log_bands, magnitudes
from compressor_audio.speech_samples import at_rate

if TYPE_CHECKING:
    from torch import Tensor

Pitch = Annotated[float, Field(ge=0.5, le=3.0)]

RESONANCE_EXPONENT = 0.25
"""Resonances move by this power of the pitch: women speak 1.7 to 1.8 times as high as men, with resonances about 15 %
higher (Peterson & Barney, 1952)."""

ENVELOPE_SECONDS = 0.0018
"""Quefrency up to which the cepstrum counts as the vocal tract's: below the shortest period of a voice (4 ms) by far,
and fine enough for resonances (about 500 Hz apart at least)."""


def changed_voice(audio: FloatArray, rate: int, mel: MelOptions, pitch: float) -> FloatArray:
    """Return the log mel (1, n_mels, frames) of audio (samples,) of `rate` spoken `pitch` times as high.

    Raises:
        ValueError: audio shorter than the analysis can pad.
    """
    import torch

    original = magnitudes(_batch(at_rate(audio, rate, mel.sample_rate)), mel, mel.hop_length)
    faster = _batch(at_rate(audio, rate * pitch, mel.sample_rate))
    raised = magnitudes(faster, mel, round(mel.hop_length / pitch))
    frames = min(raised.shape[-1], original.shape[-1])
    at = torch.arange(frames) * (original.shape[-1] / raised.shape[-1])
    resonances = _moved(_envelope(original, mel), pitch**RESONANCE_EXPONENT)[..., at.long()]
    spoken = raised[..., :frames] * torch.exp(resonances - _envelope(raised, mel)[..., :frames])
    return log_bands(spoken, mel).numpy()


def _batch(audio: FloatArray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(audio))[None]


def _envelope(magnitude: Tensor, mel: MelOptions) -> Tensor:
    """Return the log spectral envelope (batch, bins, frames): the smooth part of the cepstrum."""
    import torch

    cepstrum = torch.fft.irfft(torch.log(magnitude), n=mel.n_fft, dim=1)
    kept = round(ENVELOPE_SECONDS * mel.sample_rate)
    cepstrum[:, kept : mel.n_fft - kept + 1] = 0.0
    smooth: Tensor = torch.fft.rfft(cepstrum, dim=1).real
    return smooth


def _moved(envelope: Tensor, factor: float) -> Tensor:
    """Return an envelope (batch, bins, frames) whose resonances lie at `factor` times the frequency."""
    import torch

    bins = envelope.shape[1]
    source = (torch.arange(bins) / factor).clamp(max=bins - 1)
    lower = source.long().clamp(max=bins - 2)
    share = (source - lower)[:, None]
    return (1 - share) * envelope[:, lower] + share * envelope[:, lower + 1]
