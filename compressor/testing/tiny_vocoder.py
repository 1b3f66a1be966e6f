"""A HiFi-GAN of some thousand weights, exported as real ones are, and mels to run it on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.dataset import Dataset, FloatArray, Sample
from compressor.stored_model import onnx_session

MELS, HOP, RATE = 8, 8, 800
KERNELS, DILATIONS = (3, 7), (1, 3)
WIDTHS = (16, 12, 8)
"""Channels before and after each up-sampling."""
SLOPE = 0.1


class ResBlock1(nn.Module):
    """Two convolutions a unit."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, kernel, step) for step in DILATIONS)
        self.convs2 = nn.ModuleList(_same(channels, kernel, 1) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            added = first(functional.leaky_relu(x, SLOPE))
            x = second(functional.leaky_relu(added, SLOPE)) + x
        return x


class ResBlock2(nn.Module):
    """One convolution a unit."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_same(channels, kernel, step) for step in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(functional.leaky_relu(x, SLOPE)) + x
        return x


class TinyVocoder(nn.Module):
    """Log-mel (batch, 8, frames) -> audio (batch, 1, 8 * frames); the forward is that of jik876/hifi-gan."""

    def __init__(
        self, block: type[ResBlock1 | ResBlock2], upsampling: Sequence[tuple[int, int]] = ((4, 8), (2, 4))
    ) -> None:
        super().__init__()
        self.conv_pre = nn.Conv1d(MELS, WIDTHS[0], 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(before, after, kernel, rate, (kernel - rate) // 2)
            for before, after, (rate, kernel) in zip(WIDTHS[:-1], WIDTHS[1:], upsampling, strict=True)
        )
        self.resblocks = nn.ModuleList(block(width, kernel) for width in WIDTHS[1:] for kernel in KERNELS)
        self.conv_post = nn.Conv1d(WIDTHS[-1], 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for stage, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, SLOPE))
            # Real exports hold this as the addition of a constant zero.
            fused = torch.tensor(0.0)
            for branch in range(len(KERNELS)):
                fused = fused + self.resblocks[stage * len(KERNELS) + branch](x)
            x = fused / len(KERNELS)
        return torch.tanh(self.conv_post(functional.leaky_relu(x)))


def _same(channels: int, kernel: int, step: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, padding=step * (kernel - 1) // 2, dilation=step)


def tiny_vocoder(
    block: Literal["1", "2"] = "1", upsampling: Sequence[tuple[int, int]] = ((4, 8), (2, 4)), seed: int = 0
) -> TinyVocoder:
    """Return a vocoder whose weights are random and large enough for every part to be heard."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyVocoder(ResBlock1 if block == "1" else ResBlock2, upsampling)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.2 / float(parameter[0].numel()) ** 0.5)
    return model.eval()


def vocoder_onnx(model: nn.Module, opset: int = 17) -> bytes:
    """Return a vocoder as ONNX: input `mel` (1, 8, frames), output `audio` (1, 1, samples)."""
    return as_onnx(model, torch.zeros(1, MELS, 24), ("mel", {2: "frames"}), ("audio", {2: "samples"}), opset)


def as_onnx(
    model: nn.Module,
    example: Tensor,
    given: tuple[str, dict[int, str]] = ("x", {2: "time"}),
    made: tuple[str, dict[int, str]] = ("y", {2: "out_time"}),
    opset: int = 17,
) -> bytes:
    """Return a model of one input and one output, each with its name and dynamic axes, as ONNX."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
            dynamo=False,
            opset_version=opset,
            input_names=[given[0]],
            output_names=[made[0]],
            dynamic_axes={name: axes for name, axes in (given, made) if axes},
        )
    return buffer.getvalue()


def mel(frames: int, seed: int) -> FloatArray:
    """Return slowly moving bands with a little noise, (1, 8, frames)."""
    random = np.random.default_rng(seed)
    phases = random.uniform(0, 6, (MELS, 1))
    speeds = random.uniform(0.05, 0.5, (MELS, 1))
    bands = np.sin(phases + speeds * np.arange(frames)) + 0.1 * random.standard_normal((MELS, frames))
    return bands[None].astype(np.float32)


def dataset(
    content: bytes, train: int = 6, validation: int = 2, sample_rate: int | None = RATE, frames: int = 30
) -> Dataset:
    """Return mels of `frames` to 14 more; the reference is what the vocoder in `content` makes of each."""
    session = onnx_session(content, 1)

    def sample(seed: int) -> Sample:
        values = mel(frames + 7 * (seed % 3), seed)
        return Sample(f"mel {seed}", {"mel": values}, session.run(None, {"mel": values})[0].reshape(-1))

    samples = [sample(seed) for seed in range(train + validation)]
    return Dataset(
        train=tuple(samples[:train]),
        validation=tuple(samples[train:]),
        identity=f"tiny {train} {validation} {frames}",
        description=f"{train + validation} tiny mels",
        sample_rate=sample_rate,
        findings=("one file was too short",),
    )
