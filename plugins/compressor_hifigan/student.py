"""The HiFi-GAN student as a plain, readable `nn.Module` of two-dimensional convolutions.

HiFi-GAN (Kong et al., arXiv 2010.05646) with three changes: every convolution of the multi-receptive-field fusion is
depthwise-separable, transposed convolutions are polyphase (sub-pixel) convolutions (Shi et al., arXiv 1609.05158), and
time is the width of a four-dimensional tensor of height 1, for which inference engines keep their fast kernels.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn
from torch.nn import functional


class ResBlockConfig(BaseModel):
    """One branch of a fusion: residual units of one kernel size, one unit a dilation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel_size: int
    dilations: tuple[int, ...]
    convs_per_unit: int = 2
    hidden_channels: tuple[int, ...] = ()
    """Width between each unit's convolutions; the stage's channels where it is empty."""


class StageConfig(BaseModel):
    """One up-sampling stage: a sub-pixel convolution and the fusion of its residual branches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    upsample_rate: int
    upsample_kernel_size: int
    rank: int = 1
    """Terms of the separable convolutions; 0 keeps dense convolutions."""
    resblocks: tuple[ResBlockConfig, ...]
    fusion_divisor: float = 3.0


def default_stages() -> tuple[StageConfig, ...]:
    """Return the stages of a 44.1 kHz HiFi-GAN (hop 512), as the shipped recipe makes them.

    Every convolution of the fusions is separable, of rank two where they are widest, and the last fusion's short
    branch is dropped.
    """
    branches = tuple(ResBlockConfig(kernel_size=kernel, dilations=(1, 3, 5)) for kernel in (3, 7, 11))
    simplified = (ResBlockConfig(kernel_size=3, dilations=()), *branches[1:])
    shapes = ((256, 8, 16), (128, 8, 16), (64, 2, 4), (32, 2, 4), (16, 2, 4))
    return tuple(
        StageConfig(
            channels=channels,
            upsample_rate=rate,
            upsample_kernel_size=kernel,
            rank=2 if channels == 256 else 1,
            resblocks=simplified if channels == 16 else branches,
        )
        for channels, rate, kernel in shapes
    )


class StudentConfig(BaseModel):
    """Shape of a `HiFiGANStudent2D`; the default has 30 % of the parameters of openvpi's NSF-HiFiGAN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_mels: int = 80
    initial_channels: int = 177
    """By default the widest that keeps within 30 % of NSF-HiFiGAN's 14,168,523 parameters."""
    conv_pre_kernel_size: int = 7
    conv_post_kernel_size: int = 7
    leaky_relu_slope: float = 0.1
    final_leaky_relu_slope: float = 0.01
    stages: tuple[StageConfig, ...] = default_stages()

    @property
    def hop_length(self) -> int:
        """Audio samples per mel frame."""
        return math.prod(stage.upsample_rate for stage in self.stages)

    @model_validator(mode="after")
    def _lengths_are_exact(self) -> StudentConfig:
        for stage in self.stages:
            if stage.upsample_kernel_size % stage.upsample_rate or stage.upsample_kernel_size < stage.upsample_rate:
                raise ValueError(
                    f"upsample_kernel_size {stage.upsample_kernel_size} is no multiple of "
                    f"upsample_rate {stage.upsample_rate}: the sub-pixel form needs whole taps"
                )
        return self


def time_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv2d:
    """Build a convolution along time that keeps the length: (batch, in, 1, time) -> (batch, out, 1, time)."""
    padding = (0, dilation * (kernel_size - 1) // 2)
    return nn.Conv2d(in_channels, out_channels, (1, kernel_size), padding=padding, dilation=(1, dilation))


def depthwise_conv(channels: int, kernel_size: int, dilation: int) -> nn.Conv2d:
    """Build one filter a channel along time: (batch, channels, 1, time) -> the same shape."""
    padding = (0, dilation * (kernel_size - 1) // 2)
    return nn.Conv2d(
        channels, channels, (1, kernel_size), padding=padding, dilation=(1, dilation), groups=channels, bias=False
    )


class SeparableConv2d(nn.Module):
    """A sum of `rank` depthwise-separable convolutions along time: (batch, in, 1, time) -> (batch, out, 1, time)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int, rank: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(depthwise_conv(in_channels, kernel_size, dilation) for _ in range(rank))
        # One bias is enough for the sum.
        self.pointwise = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1, bias=term == 0) for term in range(rank))

    def forward(self, x: Tensor) -> Tensor:
        terms = [pointwise(depthwise(x)) for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True)]
        total: Tensor = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class SubPixelUpsample2d(nn.Module):
    """A transposed convolution in polyphase form: (batch, in, 1, time) -> (batch, out, 1, time * rate)."""

    def __init__(self, in_channels: int, out_channels: int, rate: int, kernel_size: int) -> None:
        super().__init__()
        taps = kernel_size // rate
        self.rate = rate
        self.out_channels = out_channels
        self.crop_start = (kernel_size - rate) // 2
        self.crop_end = kernel_size - rate - self.crop_start
        self.conv = nn.Conv2d(in_channels, rate * out_channels, (1, taps), padding=(0, taps - 1))

    def forward(self, x: Tensor) -> Tensor:
        phases: Tensor = self.conv(x)
        batch, _, _, time = phases.shape
        phases = phases.reshape(batch, self.rate, self.out_channels, time)
        samples = phases.permute(0, 2, 3, 1).reshape(batch, self.out_channels, 1, time * self.rate)
        return samples[..., self.crop_start : time * self.rate - self.crop_end]


class ResidualUnit(nn.Module):
    """One dilated residual unit; ResBlock1 of HiFi-GAN has two convolutions a unit, ResBlock2 has one."""

    def __init__(
        self, channels: int, hidden: int, block: ResBlockConfig, dilation: int, rank: int, slope: float
    ) -> None:
        super().__init__()
        self.slope = slope
        dilations = [dilation] + [1] * (block.convs_per_unit - 1)
        widths = [channels] + [hidden] * (block.convs_per_unit - 1) + [channels]
        self.convs = nn.ModuleList(
            SeparableConv2d(before, after, block.kernel_size, step, rank)
            if rank
            else time_conv(before, after, block.kernel_size, step)
            for before, after, step in zip(widths[:-1], widths[1:], dilations, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for conv in self.convs:
            residual = conv(functional.leaky_relu(residual, self.slope))
        return residual + x


def _branch(stage: StageConfig, block: ResBlockConfig, slope: float) -> nn.Sequential:
    widths = block.hidden_channels or (stage.channels,) * len(block.dilations)
    return nn.Sequential(
        *(
            ResidualUnit(stage.channels, hidden, block, dilation, stage.rank, slope)
            for dilation, hidden in zip(block.dilations, widths, strict=True)
        )
    )


class UpsampleStage(nn.Module):
    """Up-sampling and multi-receptive-field fusion: (batch, in, 1, time) -> (batch, out, 1, time * rate)."""

    def __init__(self, in_channels: int, stage: StageConfig, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.fusion_divisor = stage.fusion_divisor
        self.upsample = SubPixelUpsample2d(in_channels, stage.channels, stage.upsample_rate, stage.upsample_kernel_size)
        self.branches = nn.ModuleList(_branch(stage, block, slope) for block in stage.resblocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(functional.leaky_relu(x, self.slope))
        fused: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            fused = fused + branch(x)
        return fused / self.fusion_divisor


class HiFiGANStudent2D(nn.Module):
    """Vocoder: log-mel (batch, 1, n_mels, frames) -> audio (batch, 1, 1, frames * hop_length) in [-1, 1]."""

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        self.config = config or StudentConfig()
        widths = [self.config.initial_channels, *(stage.channels for stage in self.config.stages)]
        self.conv_pre = time_conv(self.config.n_mels, widths[0], self.config.conv_pre_kernel_size)
        self.stages = nn.ModuleList(
            UpsampleStage(width, stage, self.config.leaky_relu_slope)
            for width, stage in zip(widths, self.config.stages, strict=False)
        )
        self.conv_post = time_conv(widths[-1], 1, self.config.conv_post_kernel_size)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(mel.transpose(1, 2))
        for stage in self.stages:
            x = stage(x)
        x = self.conv_post(functional.leaky_relu(x, self.config.final_leaky_relu_slope))
        return torch.tanh(x)

    @classmethod
    def from_run(cls, folder: str | Path) -> HiFiGANStudent2D:
        """Return the student that a run made, with its weights; equals the run's `student.onnx`.

        Raises:
            RunFolderError: no finished run, or one whose recipe has no `readable-hifigan` stage.
        """
        from compressor_hifigan.finished_run import read_run

        config, weights = read_run(Path(folder))
        model = cls(config)
        model.load_state_dict(weights)
        return model.eval()
