"""Discriminators of audio for adversarial distillation: HiFi-GAN's over periods and scales, UnivNet's over spectra.

Each is a set of sub-discriminators, which are convolutions over a view of the audio of their own. They are initialised
at random: a teacher's ONNX file comes without those that it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, leaky_relu, pad
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from compressor_distill.phases import DiscriminatorName

Norm = Callable[..., nn.Module]


class Judgement(NamedTuple):
    """What one sub-discriminator makes of a batch of audio."""

    score: Tensor
    """Map of scores (batch, 1, …), trained towards 1 for the teacher's audio and towards 0 for the student's."""
    features: tuple[Tensor, ...]
    """What each layer puts out (batch, channels, …), after its activation; the map of scores last."""


class View(Protocol):
    """A way to look at audio."""

    @property
    def least_samples(self) -> int:
        """Length of the shortest audio that can be looked at."""

    def __call__(self, audio: Tensor) -> Tensor:
        """Return what is seen (batch, 1, …) of audio (batch, 1, samples)."""


@dataclass(frozen=True)
class PeriodView:
    """Audio in rows of one period; what is missing at the end is reflected."""

    period: int

    @property
    def least_samples(self) -> int:
        return self.period

    def __call__(self, audio: Tensor) -> Tensor:
        """Return (batch, 1, rows, period)."""
        whole = pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect")
        return whole.reshape(*audio.shape[:2], -1, self.period)


@dataclass(frozen=True)
class ScaleView:
    """Audio after repeated average pooling, each of which halves its rate."""

    poolings: int

    @property
    def least_samples(self) -> int:
        return 1

    def __call__(self, audio: Tensor) -> Tensor:
        """Return (batch, 1, samples / 2 ** poolings)."""
        for _ in range(self.poolings):
            audio = avg_pool1d(audio, kernel_size=4, stride=2, padding=2)
        return audio


@dataclass(frozen=True)
class SpectrogramView:
    """The linear magnitude spectrogram; computed in float32, under autocast too."""

    fft_size: int
    hop_length: int
    win_length: int

    @property
    def least_samples(self) -> int:
        return (self.fft_size - self.hop_length) // 2 + 1

    def __call__(self, audio: Tensor) -> Tensor:
        """Return (batch, 1, fft_size / 2 + 1, frames); a frame a hop, as in UnivNet, whose ends are reflected."""
        missing = (self.fft_size - self.hop_length) // 2
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                pad(audio.float(), (missing, missing), mode="reflect").squeeze(1),
                self.fft_size,
                hop_length=self.hop_length,
                win_length=self.win_length,
                window=torch.hann_window(self.win_length, device=audio.device),
                center=False,
                return_complex=True,
            )
            return spectrum.abs().unsqueeze(1)


class Convolution(NamedTuple):
    """A layer of a sub-discriminator, padded so that a stride of one keeps the size."""

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int = 1


PERIOD_LAYERS: Final = (
    *(Convolution(channels, (5, 1), (3, 1)) for channels in (32, 128, 512, 1024)),
    Convolution(1024, (5, 1), (1, 1)),
    Convolution(1, (3, 1), (1, 1)),
)
SCALE_LAYERS: Final = (
    Convolution(128, (15,), (1,)),
    Convolution(128, (41,), (2,), groups=4),
    Convolution(256, (41,), (2,), groups=16),
    Convolution(512, (41,), (4,), groups=16),
    Convolution(1024, (41,), (4,), groups=16),
    Convolution(1024, (41,), (1,), groups=16),
    Convolution(1024, (5,), (1,)),
    Convolution(1, (3,), (1,)),
)
RESOLUTION_LAYERS: Final = (
    Convolution(32, (3, 9), (1, 1)),
    *(Convolution(32, (3, 9), (1, 2)) for _ in range(3)),
    Convolution(32, (3, 3), (1, 1)),
    Convolution(1, (3, 3), (1, 1)),
)


class SubDiscriminator(nn.Module):
    """Convolutions over a view of the audio, with leaky rectifiers between them.

    Args:
        view: what the first layer sees.
        layers: the convolutions; the last gives the map of scores.
        norm: weight or spectral norm, which each gets.
        slope: of the rectifiers, below zero.
    """

    def __init__(self, view: View, layers: Sequence[nn.Module], norm: Norm, slope: float) -> None:
        super().__init__()
        self.view = view
        self.layers = nn.ModuleList(norm(layer) for layer in layers)
        self.slope = slope

    def forward(self, audio: Tensor) -> Judgement:
        """Judge audio (batch, 1, samples)."""
        value = self.view(audio)
        features: list[Tensor] = []
        for layer in self.layers[:-1]:
            value = leaky_relu(layer(value), self.slope)
            features.append(value)
        score = self.layers[-1](value)
        return Judgement(score, (*features, score))


class Discriminators(nn.ModuleList):
    """Sub-discriminators that all judge the same audio; the shortest that they can judge has `least_samples`."""

    def __init__(self, parts: Sequence[SubDiscriminator]) -> None:
        super().__init__(parts)
        self.least_samples = max(part.view.least_samples for part in parts)

    def forward(self, audio: Tensor) -> list[Judgement]:
        """Judge audio (batch, 1, samples), each sub-discriminator for itself.

        Raises:
            ValueError: audio of another shape, or shorter than `least_samples`.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < self.least_samples:
            raise ValueError(
                f"expected audio (batch, 1, samples) of at least {self.least_samples} samples; "
                f"found {tuple(audio.shape)}"
            )
        return [part(audio) for part in self]


def multi_period(width: float) -> list[SubDiscriminator]:
    """Return HiFi-GAN's discriminators over periods (arXiv 2010.05646, section 2.3): 41.1 million weights at width 1.

    Audio has at least 11 samples.
    """
    views = [PeriodView(period) for period in (2, 3, 5, 7, 11)]
    return [SubDiscriminator(view, _convolutions(PERIOD_LAYERS, width), weight_norm, 0.1) for view in views]


def multi_scale(width: float) -> list[SubDiscriminator]:
    """Return HiFi-GAN's discriminators over scales (arXiv 2010.05646, section 2.3): 29.6 million weights at width 1.

    The one over audio as it is has spectral norm, the others weight norm. Audio may have any length.
    """
    norms: tuple[Norm, ...] = (spectral_norm, weight_norm, weight_norm)
    return [
        SubDiscriminator(ScaleView(poolings), _convolutions(SCALE_LAYERS, width), norm, 0.1)
        for poolings, norm in enumerate(norms)
    ]


def multi_resolution(width: float) -> list[SubDiscriminator]:
    """Return UnivNet's discriminators over spectrograms (arXiv 2106.07889): 0.28 million weights at width 1.

    Its resolutions are made for 24 kHz. Audio has at least 905 samples.
    """
    views = [SpectrogramView(*sizes) for sizes in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))]
    return [SubDiscriminator(view, _convolutions(RESOLUTION_LAYERS, width), weight_norm, 0.2) for view in views]


_MAKERS: Final = MappingProxyType(
    {"multi-period": multi_period, "multi-scale": multi_scale, "multi-resolution": multi_resolution}
)


def make_discriminators(names: Sequence[DiscriminatorName], width: float = 1.0) -> Discriminators:
    """Return the named discriminators with the papers' channels times `width`; weights follow torch's random state.

    Raises:
        ValueError: no name, or a width that is not above zero.
    """
    if not names or not width > 0:
        raise ValueError(f"expected at least one of {', '.join(_MAKERS)} and a width above 0; found {names}, {width}")
    return Discriminators([each for name in names for each in _MAKERS[name](width)])


def _convolutions(layers: Sequence[Convolution], width: float) -> list[nn.Module]:
    """Return convolutions from one channel on; those between have `width` times their channels."""
    made: list[nn.Module] = []
    inputs = 1
    for layer in layers:
        outputs = 1 if layer is layers[-1] else max(1, round(layer.channels * width))
        kind: type[Any] = nn.Conv1d if len(layer.kernel) == 1 else nn.Conv2d
        padding = tuple(size // 2 for size in layer.kernel)
        # Fewer channels than groups: as many groups as still divide them.
        groups = math.gcd(layer.groups, inputs, outputs)
        made.append(kind(inputs, outputs, layer.kernel, layer.stride, padding, groups=groups))
        inputs = outputs
    return made
