"""The log mel spectrogram of jik876/hifi-gan, which HiFi-GAN vocoders take as input."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from torch import Tensor

_POWER_EPSILON = 1e-9
"""Under the magnitude's square root, as upstream: it keeps the gradient of silence finite."""

_HIFIGAN_RATE, _HIFIGAN_WINDOW, _HIFIGAN_FMAX = 22050, 1024, 8000.0


class MelOptions(BaseModel):
    """How a mel spectrogram is taken; the defaults are those of HiFi-GAN at 22.05 kHz."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate: int = Field(default=_HIFIGAN_RATE, ge=1000, description="samples per second")
    n_fft: int = Field(default=_HIFIGAN_WINDOW, ge=16, description="samples of one Fourier transform")
    win_length: int = Field(default=_HIFIGAN_WINDOW, ge=16, description="samples of the Hann window, at most n_fft")
    hop_length: int = Field(default=256, ge=1, description="samples from one frame to the next, at most n_fft")
    n_mels: int = Field(default=80, ge=1, description="number of mel bands")
    fmin: float = Field(default=0.0, ge=0.0, description="lower edge of the lowest band in Hz")
    fmax: float | None = Field(
        default=_HIFIGAN_FMAX, gt=0.0, description="upper edge of the highest band in Hz; null: Nyquist"
    )
    clamp: float = Field(default=1e-5, gt=0.0, description="magnitudes below are raised to this before the logarithm")
    log: Literal["e", "10"] = Field(default="e", description="base of the logarithm")
    mel_scale: Literal["slaney", "htk"] = Field(default="slaney", description="formula from Hz to mel")
    norm: Literal["slaney"] | None = Field(
        default="slaney", description="slaney: bands of equal area; null: equal peak"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MelOptions:
        if max(self.win_length, self.hop_length) > self.n_fft:
            raise ValueError(
                f"win_length ({self.win_length}) and hop_length ({self.hop_length}) may not exceed n_fft ({self.n_fft})"
            )
        if not self.fmin < self.upper_edge <= self.sample_rate / 2:
            raise ValueError(
                f"expected fmin < fmax <= {self.sample_rate / 2:g} Hz (half the sample rate); "
                f"found fmin {self.fmin:g}, fmax {self.upper_edge:g}"
            )
        return self

    @classmethod
    def for_rate(cls, sample_rate: int) -> MelOptions:
        """Return HiFi-GAN's analysis at another sample rate, where nothing says which one a model was made for.

        Windows, hops and the highest band are scaled by the power of two nearest to `sample_rate` / 22.05 kHz, so that
        a frame stays about as long: 2048 samples and bands up to 16 kHz at 44.1 and 48 kHz, HiFi-GAN's own at 16 to
        24 kHz.
        """
        scale = 2.0 ** round(math.log2(sample_rate / _HIFIGAN_RATE))
        n_fft = round(scale * _HIFIGAN_WINDOW)
        fmax = min(scale * _HIFIGAN_FMAX, sample_rate / 2)
        return cls(sample_rate=sample_rate, n_fft=n_fft, win_length=n_fft, hop_length=n_fft // 4, fmax=fmax)

    @property
    def upper_edge(self) -> float:
        """Upper edge of the highest band in Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    def padding(self, hop_length: int) -> tuple[int, int]:
        """Return how many samples are reflected on the left and on the right: audio has to be longer than that."""
        left = (self.n_fft - hop_length) // 2
        return left, self.n_fft - hop_length - left


def log_mel(audio: Tensor, options: MelOptions) -> Tensor:
    """Return the log mel spectrogram (batch, n_mels, samples // hop_length) of audio (batch, samples), in float32.

    Computed as `mel_spectrogram` of jik876/hifi-gan (meldataset.py): reflecting padding, no centring, magnitude,
    logarithm of the clamped bands. Differentiable, at silence as well, and in float32 under autocast too.

    Raises:
        ValueError: audio of the wrong shape, or shorter than the padding can reflect.
    """
    import torch

    with torch.autocast(audio.device.type, enabled=False):
        return log_bands(magnitudes(audio, options, options.hop_length), options)


def magnitudes(audio: Tensor, options: MelOptions, hop_length: int) -> Tensor:
    """Return the magnitude spectrogram (batch, n_fft // 2 + 1, frames) of audio (batch, samples).

    Raises:
        ValueError: audio of the wrong shape, or shorter than the padding can reflect.
    """
    import torch
    from torch.nn.functional import pad

    left, right = options.padding(hop_length)
    if audio.ndim != 2 or audio.shape[-1] <= right:
        raise ValueError(f"expected audio (batch, samples) of at least {right + 1} samples; found {tuple(audio.shape)}")
    window, _ = _analysis(options, audio.device.type, audio.device.index)
    padded = pad(audio.float().unsqueeze(1), (left, right), mode="reflect").squeeze(1)
    spectrum = torch.stft(
        padded,
        options.n_fft,
        hop_length=hop_length,
        win_length=options.win_length,
        window=window,
        center=False,
        return_complex=True,
    )
    return torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + _POWER_EPSILON)


def log_bands(magnitude: Tensor, options: MelOptions) -> Tensor:
    """Return the log mel spectrogram (batch, n_mels, frames) of magnitudes (batch, n_fft // 2 + 1, frames)."""
    import torch

    _, filters = _analysis(options, magnitude.device.type, magnitude.device.index)
    bands = torch.clamp(filters @ magnitude, min=options.clamp)
    return torch.log(bands) if options.log == "e" else torch.log10(bands)


@lru_cache(maxsize=16)
def _analysis(options: MelOptions, device_type: str, device_index: int | None) -> tuple[Tensor, Tensor]:
    """Return the Hann window (win_length) and the filters (n_mels, n_fft // 2 + 1) on a device."""
    import librosa
    import torch

    device = torch.device(device_type, device_index) if device_index is not None else torch.device(device_type)
    filters = librosa.filters.mel(
        sr=options.sample_rate,
        n_fft=options.n_fft,
        n_mels=options.n_mels,
        fmin=options.fmin,
        fmax=options.upper_edge,
        htk=options.mel_scale == "htk",
        norm=options.norm,
    )
    # Made outside inference mode: a cached inference tensor could not take part in training later.
    with torch.inference_mode(False):
        return torch.hann_window(options.win_length, device=device), torch.from_numpy(filters).to(device)
