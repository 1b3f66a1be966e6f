"""NSF-HiFiGAN and PC-NSF-HiFiGAN with seeded random weights, as files such as singing-voice vocoders come in.

The architecture is that of openvpi's vocoders: HiFi-GAN (arXiv 2010.05646) fed by a sine source (arXiv 1904.12088) that
starts at a random phase and adds noise. Names of modules are those that upstream's exporter leaves in a file.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)
LN_10 = 2.30259
"""As upstream writes it: mel spectrograms come with logarithms to base 10."""


@dataclass(frozen=True)
class Size:
    """How large a vocoder is; the defaults are those of openvpi's NSF-HiFiGAN, 14,168,523 parameters."""

    n_mels: int = 128
    width: int = 512
    rates: tuple[int, ...] = (8, 8, 2, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 4, 4, 4)
    sample_rate: int = 44100
    harmonics: int = 8
    """Besides the fundamental."""
    pitch_controllable: bool = False
    """As PC-NSF-HiFiGAN: one sine without harmonics, at the second stage's rate, enters there."""

    @property
    def source_hop(self) -> int:
        """Samples of the source for one frame."""
        return math.prod(self.rates[:2] if self.pitch_controllable else self.rates)

    @property
    def source_rate(self) -> float:
        return self.sample_rate * self.source_hop / math.prod(self.rates)


NSF, PC_NSF = Size(), Size(harmonics=0, pitch_controllable=True)
TINY = Size(n_mels=8, width=32, rates=(8, 4, 2), kernels=(16, 8, 4), sample_rate=8000, harmonics=2)
TINY_PC = Size(8, 32, (8, 4, 2), (16, 8, 4), 8000, harmonics=0, pitch_controllable=True)


class SineSource(nn.Module):
    """Sines at multiples of f0, with noise: f0 (batch, frames) in Hz -> (batch, frames * hop, 1 + harmonics)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, f0: Tensor) -> Tensor:
        hop, count = self.size.source_hop, self.size.harmonics + 1
        f0 = f0.unsqueeze(-1)
        turns = f0 / self.size.source_rate * torch.arange(1, hop + 1)
        # Whole turns are dropped from frame to frame, so that phases stay small.
        last = torch.fmod(turns[..., -1:] + 0.5, 1.0) - 0.5
        before = functional.pad(torch.fmod(torch.cumsum(last, dim=1), 1.0)[:, :-1, :], (0, 0, 1, 0))
        turns = (turns + before).reshape(f0.shape[0], -1, 1) * torch.arange(1, count + 1).reshape(1, 1, -1)
        phases = torch.rand(1, 1, count)
        phases[..., 0] = 0
        sines = 0.1 * torch.sin(2 * torch.pi * (turns + phases))
        voiced = functional.interpolate((f0 > 10).float().transpose(2, 1), scale_factor=float(hop)).transpose(2, 1)
        noise = (voiced * 0.003 + (1 - voiced) * 0.1 / 3) * torch.randn_like(sines)
        return sines * voiced + noise


class Source(nn.Module):
    """The sine source, its harmonics merged: f0 (batch, frames) -> (batch, frames * hop, 1)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.l_sin_gen = SineSource(size)
        self.l_linear = nn.Linear(size.harmonics + 1, 1)
        self.l_tanh = nn.Tanh()

    def forward(self, f0: Tensor) -> Tensor:
        merged: Tensor = self.l_tanh(self.l_linear(self.l_sin_gen(f0)))
        return merged


class ResBlock(nn.Module):
    """ResBlock1: pairs of a dilated and a plain convolution, with a residual each."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1, self.convs2 = (
            nn.ModuleList(nn.Conv1d(channels, channels, kernel, 1, step * (kernel // 2), step) for step in steps)
            for steps in (DILATIONS, (1, 1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = second(functional.leaky_relu(first(functional.leaky_relu(x, 0.1)), 0.1)) + x
        return x


class Generator(nn.Module):
    """Mel (batch, n_mels, frames) and f0 (batch, frames) -> audio (batch, 1, frames * hop)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        widths = [size.width >> stage for stage in range(len(size.rates) + 1)]
        self.m_source = SineSource(size) if size.pitch_controllable else Source(size)
        self.conv_pre = nn.Conv1d(size.n_mels, size.width, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(before, after, kernel, rate, (kernel - rate) // 2)
            for before, after, rate, kernel in zip(widths[:-1], widths[1:], size.rates, size.kernels, strict=True)
        )
        if size.pitch_controllable:
            entries = {1: nn.Conv1d(1, widths[2], 1)}
        else:
            entries = {at: _entry(widths[at + 1], math.prod(size.rates[at + 1 :])) for at in range(len(size.rates))}
        self.noise_convs = nn.ModuleDict({str(stage): entry for stage, entry in entries.items()})
        self.resblocks = nn.ModuleList(ResBlock(width, kernel) for width in widths[1:] for kernel in KERNELS)
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        source = self.m_source(f0).transpose(1, 2)
        x = self.conv_pre(mel)
        for stage, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, 0.1))
            if str(stage) in self.noise_convs:
                x = x + self.noise_convs[str(stage)](source)
            fused = self.resblocks[3 * stage](x)
            for block in self.resblocks[3 * stage + 1 : 3 * stage + 3]:
                fused = fused + block(x)
            x = fused / len(KERNELS)
        return torch.tanh(self.conv_post(functional.leaky_relu(x)))


def _entry(channels: int, stride: int) -> nn.Conv1d:
    """Return what brings the source, at the rate of samples, to that of a stage `stride` samples a step."""
    return nn.Conv1d(1, channels, 2 * stride, stride, stride // 2) if stride > 1 else nn.Conv1d(1, channels, 1)


class Exported(nn.Module):
    """What upstream writes to a file: mel (batch, frames, n_mels), f0 (batch, frames) -> (batch, frames * hop)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.generator = Generator(size)

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        audio: Tensor = self.generator(mel.transpose(1, 2) * LN_10, f0)
        return audio.squeeze(1)


def nsf_vocoder(size: Size, seed: int = 0) -> Exported:
    """Return a vocoder whose weights are random and large enough for every part to be heard."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Exported(size)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 2:
                # Residual branches add up: they are kept smaller than the way from mel to audio.
                scale = 0.4 if "resblocks" in name else 1.0
                nn.init.normal_(parameter, std=scale / float(parameter[0].numel()) ** 0.5)
    return model.eval()


def nsf_onnx(size: Size, opset: int = 17) -> bytes:
    """Return a vocoder as ONNX: `mel` (1, n_frames, n_mels) and `f0` (1, n_frames) -> `waveform` (1, n_samples)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            nsf_vocoder(size),
            (torch.zeros(1, 24, size.n_mels), torch.full((1, 24), 220.0)),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
            dynamo=False,
            opset_version=opset,
            input_names=["mel", "f0"],
            output_names=["waveform"],
            dynamic_axes={"mel": {1: "n_frames"}, "f0": {1: "n_frames"}, "waveform": {1: "n_samples"}},
        )
    return buffer.getvalue()
