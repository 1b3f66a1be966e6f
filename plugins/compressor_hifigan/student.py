"""The HiFi-GAN student as a plain, readable `nn.Module` of two-dimensional convolutions.

HiFi-GAN (Kong et al., arXiv 2010.05646) with three changes: a convolution that the configuration gives a rank is a sum
of that many depthwise-separable ones (Guo et al., arXiv 1808.05517), transposed convolutions are polyphase (sub-pixel)
convolutions (Shi et al., arXiv 1609.05158), and time is the width of a four-dimensional tensor of height 1, for which
inference engines keep their fast kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    ranks: tuple[tuple[int, ...], ...] = ()
    """For each unit the rank of each of its convolutions, 0 for a dense one; the stage's rank where it is empty."""

    @model_validator(mode="after")
    def _units_are_complete(self) -> ResBlockConfig:
        units = len(self.dilations)
        if self.hidden_channels and len(self.hidden_channels) != units:
            raise ValueError(f"hidden_channels has {len(self.hidden_channels)} entries for {units} units")
        if self.ranks and [len(unit) for unit in self.ranks] != [self.convs_per_unit] * units:
            raise ValueError(f"ranks needs an entry for each of {units} units, of {self.convs_per_unit} ranks each")
        return self


class StageConfig(BaseModel):
    """One up-sampling stage: a sub-pixel convolution and the fusion of its residual branches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    upsample_rate: int
    upsample_kernel_size: int
    upsample_rank: int = 0
    """Terms of the up-sampling where it is separable; 0 for a dense one."""
    rank: int = 1
    """Terms of the branches' separable convolutions; 0 for dense ones. A branch may say otherwise."""
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
    conv_pre_rank: int = 0
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


def depthwise_conv(channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv2d:
    """Build one filter a channel along time: (batch, channels, 1, time) -> the same shape."""
    padding = (0, dilation * (kernel_size - 1) // 2)
    return nn.Conv2d(
        channels, channels, (1, kernel_size), padding=padding, dilation=(1, dilation), groups=channels, bias=False
    )


class SubPixelUpsample2d(nn.Module):
    """A transposed convolution in polyphase form: (batch, in, 1, time) -> (batch, out, 1, time * rate).

    A depthwise one has one filter a channel and no bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, rate: int, kernel_size: int, *, depthwise: bool = False
    ) -> None:
        super().__init__()
        taps = kernel_size // rate
        self.rate = rate
        self.out_channels = out_channels
        self.depthwise = depthwise
        self.crop_start = (kernel_size - rate) // 2
        self.crop_end = kernel_size - rate - self.crop_start
        self.conv = nn.Conv2d(
            in_channels,
            rate * out_channels,
            (1, taps),
            padding=(0, taps - 1),
            groups=in_channels if depthwise else 1,
            bias=not depthwise,
        )

    def forward(self, x: Tensor) -> Tensor:
        phases: Tensor = self.conv(x)
        batch, _, _, time = phases.shape
        if self.depthwise:
            # The phases of one channel lie together, for they are one group of the convolution.
            phases = phases.reshape(batch, self.out_channels, self.rate, time).transpose(2, 3)
        else:
            phases = phases.reshape(batch, self.rate, self.out_channels, time).permute(0, 2, 3, 1)
        samples = phases.reshape(batch, self.out_channels, 1, time * self.rate)
        return samples[..., self.crop_start : time * self.rate - self.crop_end]


class SeparableConv2d(nn.Module):
    """A sum of depthwise convolutions, each mixed by a pointwise one: (batch, in, 1, time) -> (batch, out, 1, ...)."""

    def __init__(self, depthwise: Iterable[nn.Module], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(depthwise)
        # One bias is enough for the sum.
        self.pointwise = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 1, bias=term == 0) for term in range(len(self.depthwise))
        )

    def forward(self, x: Tensor) -> Tensor:
        terms = [pointwise(depthwise(x)) for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True)]
        total: Tensor = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def convolution(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, *, rank: int) -> nn.Module:
    """Build a convolution along time of `rank` separable terms, or a dense one for rank 0."""
    if rank == 0:
        return time_conv(in_channels, out_channels, kernel_size, dilation)
    depthwise = (depthwise_conv(in_channels, kernel_size, dilation) for _ in range(rank))
    return SeparableConv2d(depthwise, in_channels, out_channels)


def upsampling(in_channels: int, out_channels: int, rate: int, kernel_size: int, *, rank: int) -> nn.Module:
    """Build an up-sampling of `rank` separable terms, or a dense one for rank 0."""
    if rank == 0:
        return SubPixelUpsample2d(in_channels, out_channels, rate, kernel_size)
    depthwise = (SubPixelUpsample2d(in_channels, in_channels, rate, kernel_size, depthwise=True) for _ in range(rank))
    return SeparableConv2d(depthwise, in_channels, out_channels)


class ResidualUnit(nn.Module):
    """One dilated residual unit; ResBlock1 of HiFi-GAN has two convolutions a unit, ResBlock2 has one."""

    def __init__(
        self, channels: int, hidden: int, kernel_size: int, dilation: int, ranks: tuple[int, ...], slope: float
    ) -> None:
        super().__init__()
        self.slope = slope
        dilations = [dilation] + [1] * (len(ranks) - 1)
        widths = [channels] + [hidden] * (len(ranks) - 1) + [channels]
        self.convs = nn.ModuleList(
            convolution(before, after, kernel_size, step, rank=rank)
            for before, after, step, rank in zip(widths[:-1], widths[1:], dilations, ranks, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for conv in self.convs:
            residual = conv(functional.leaky_relu(residual, self.slope))
        return residual + x


def residual_branch(stage: StageConfig, block: ResBlockConfig, slope: float) -> nn.Sequential:
    """Build the residual units of one branch, one after the other; a branch without units passes on what it reads."""
    widths = block.hidden_channels or (stage.channels,) * len(block.dilations)
    ranks = block.ranks or ((stage.rank,) * block.convs_per_unit,) * len(block.dilations)
    return nn.Sequential(
        *(
            ResidualUnit(stage.channels, hidden, block.kernel_size, dilation, of_unit, slope)
            for dilation, hidden, of_unit in zip(block.dilations, widths, ranks, strict=True)
        )
    )


class UpsampleStage(nn.Module):
    """Up-sampling and multi-receptive-field fusion: (batch, in, 1, time) -> (batch, out, 1, time * rate)."""

    def __init__(self, in_channels: int, stage: StageConfig, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.fusion_divisor = stage.fusion_divisor
        self.upsample = upsampling(
            in_channels, stage.channels, stage.upsample_rate, stage.upsample_kernel_size, rank=stage.upsample_rank
        )
        self.branches = nn.ModuleList(residual_branch(stage, block, slope) for block in stage.resblocks)

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
        self.conv_pre = convolution(
            self.config.n_mels, widths[0], self.config.conv_pre_kernel_size, rank=self.config.conv_pre_rank
        )
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
