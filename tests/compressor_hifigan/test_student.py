from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compressor_hifigan import HiFiGANStudent2D, ResBlockConfig, StageConfig, StudentConfig
from compressor_hifigan.student import SeparableConv2d, SubPixelUpsample2d, convolution, time_conv, upsampling
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from compressor.errors import RunFolderError

SMALL = StudentConfig(
    n_mels=4,
    initial_channels=6,
    stages=(
        StageConfig(
            channels=4,
            upsample_rate=3,
            upsample_kernel_size=6,
            rank=2,
            resblocks=(ResBlockConfig(kernel_size=3, dilations=(1, 3)), ResBlockConfig(kernel_size=5, dilations=())),
            fusion_divisor=2.0,
        ),
        StageConfig(
            channels=2,
            upsample_rate=2,
            upsample_kernel_size=4,
            rank=0,
            resblocks=(ResBlockConfig(kernel_size=3, dilations=(1, 2), convs_per_unit=1),),
            fusion_divisor=1.0,
        ),
    ),
)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_default_has_30_percent_of_nsf_hifigan_s_parameters() -> None:
    model = HiFiGANStudent2D()
    # openvpi's NSF-HiFiGAN has 14,168,525.
    assert 4_240_000 <= parameters(model) <= 4_250_557
    assert model.config.hop_length == 512


def test_the_default_maps_mels_to_audio() -> None:
    with torch.no_grad():
        audio = HiFiGANStudent2D().eval()(torch.randn(1, 1, 80, 80))
    assert audio.shape == (1, 1, 1, 80 * 512)
    assert float(audio.abs().max()) <= 1


@given(st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=10)
def test_any_batch_and_length(batch: int, frames: int) -> None:
    with torch.no_grad():
        assert HiFiGANStudent2D(SMALL)(torch.randn(batch, 1, 4, frames)).shape == (batch, 1, 1, 6 * frames)


def test_all_its_convolutions_are_two_dimensional_and_of_height_one() -> None:
    convs = [module for module in HiFiGANStudent2D().modules() if isinstance(module, nn.modules.conv._ConvNd)]
    assert all(isinstance(conv, nn.Conv2d) and conv.kernel_size[0] == 1 for conv in convs)


def test_a_state_dict_goes_there_and_back(tmp_path: Path) -> None:
    model, other = HiFiGANStudent2D(SMALL).eval(), HiFiGANStudent2D(SMALL).eval()
    path = tmp_path / "student_model.pt"
    torch.save(model.state_dict(), path)
    other.load_state_dict(torch.load(path, weights_only=True))
    value = torch.randn(1, 1, 4, 5)
    with torch.no_grad():
        assert torch.equal(model(value), other(value))
    names = list(model.state_dict())
    assert "conv_pre.weight" in names
    assert "stages.0.branches.0.1.convs.0.depthwise.1.weight" in names


EARLIER: dict[str, Any] = {
    "n_mels": 4,
    "initial_channels": 6,
    "conv_pre_kernel_size": 7,
    "conv_post_kernel_size": 7,
    "leaky_relu_slope": 0.1,
    "final_leaky_relu_slope": 0.01,
    "stages": [
        {
            "channels": 4,
            "upsample_rate": 2,
            "upsample_kernel_size": 4,
            "rank": 2,
            "resblocks": [
                {"kernel_size": 3, "dilations": [1, 3], "convs_per_unit": 2, "hidden_channels": [5, 4]},
                {"kernel_size": 3, "dilations": [], "convs_per_unit": 2, "hidden_channels": []},
            ],
            "fusion_divisor": 2.0,
        }
    ],
}
"""A configuration as version 0.1.0 wrote it."""


def test_a_configuration_of_an_earlier_run_is_the_same_module() -> None:
    model = HiFiGANStudent2D(StudentConfig.model_validate(EARLIER))
    weights = {name: tuple(value.shape) for name, value in model.state_dict().items() if name.endswith("weight")}
    unit = "stages.0.branches.0.1.convs"
    assert weights["conv_pre.weight"] == (6, 4, 1, 7)
    assert weights["stages.0.upsample.conv.weight"] == (8, 6, 1, 2)
    assert weights["stages.0.branches.0.0.convs.0.pointwise.1.weight"] == (5, 4, 1, 1)
    assert {name: shape for name, shape in weights.items() if name.startswith(unit)} == {
        f"{unit}.{conv}.{part}.{term}.weight": (4, 4, 1, 1) if part == "pointwise" else (4, 1, 1, 3)
        for conv in (0, 1)
        for part in ("depthwise", "pointwise")
        for term in (0, 1)
    }
    assert len(weights) == 3 + 2 * 2 * 4


def test_a_configuration_goes_through_json() -> None:
    assert StudentConfig.model_validate_json(SMALL.model_dump_json()) == SMALL


@pytest.mark.parametrize(("rate", "kernel"), [(4, 6), (4, 2)])
def test_kernels_without_whole_taps_are_refused(rate: int, kernel: int) -> None:
    stage = StageConfig(channels=2, upsample_rate=rate, upsample_kernel_size=kernel, resblocks=())
    with pytest.raises(ValidationError, match=f"upsample_kernel_size {kernel} is no multiple of upsample_rate {rate}"):
        StudentConfig(stages=(stage,))


def test_hidden_widths_are_those_asked_for() -> None:
    block = ResBlockConfig(kernel_size=3, dilations=(1, 3), hidden_channels=(5, 7))
    stage = StageConfig(channels=4, upsample_rate=2, upsample_kernel_size=4, resblocks=(block,), rank=0)
    model = HiFiGANStudent2D(StudentConfig(n_mels=4, initial_channels=6, stages=(stage,)))
    convs = [conv for name, conv in model.named_modules() if "branches" in name and isinstance(conv, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [5, 4, 7, 4]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4))
@settings(max_examples=25)
def test_ranks_are_those_asked_for(ranks: list[tuple[int, ...]]) -> None:
    """Count the depthwise and pointwise convolutions of each convolution of each unit."""
    dilations = tuple(range(1, len(ranks) + 1))
    block = ResBlockConfig(kernel_size=3, dilations=dilations, ranks=tuple(ranks))
    stage = StageConfig(channels=4, upsample_rate=2, upsample_kernel_size=4, resblocks=(block,), rank=3)
    model = HiFiGANStudent2D(StudentConfig(n_mels=4, initial_channels=6, stages=(stage,))).stages[0]
    names = [name for name, conv in model.named_modules() if isinstance(conv, nn.Conv2d)]
    for unit, of_unit in enumerate(ranks):
        for conv, rank in enumerate(of_unit):
            path = f"branches.0.{unit}.convs.{conv}"
            terms = [f"{path}.{part}.{term}" for part in ("depthwise", "pointwise") for term in range(rank)]
            assert [name for name in names if name.startswith(path)] == (terms or [path])
    assert len(names) == 1 + sum(max(1, 2 * rank) for of_unit in ranks for rank in of_unit)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"hidden_channels": (4,)}, "hidden_channels has 1 entries for 2 units"),
        ({"ranks": ((1, 1),)}, "ranks needs an entry for each of 2 units, of 2 ranks each"),
        ({"ranks": ((1,), (1,))}, "ranks needs an entry for each of 2 units, of 2 ranks each"),
    ],
)
def test_incomplete_units_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ResBlockConfig(kernel_size=3, dilations=(1, 3), **options)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=50)
def test_separable_up_sampling_is_a_sum_of_transposed_convolutions(
    rank: int, rate: int, taps: int, frames: int
) -> None:
    """Hold it against torch's transposed convolutions of one filter a channel, each mixed by a matrix."""
    up = upsampling(2, 3, rate, taps * rate, rank=rank).double()
    assert isinstance(up, SeparableConv2d)
    value = torch.randn(1, 2, 1, frames, dtype=torch.float64)
    start = (taps * rate - rate) // 2
    wanted = torch.zeros(1, 3, frames * rate, dtype=torch.float64)
    with torch.no_grad():
        for depthwise, pointwise in zip(up.depthwise, up.pointwise, strict=True):
            assert isinstance(depthwise, SubPixelUpsample2d)
            assert isinstance(pointwise, nn.Conv2d)
            # (channels * rate, 1, 1, taps) -> (channels, 1, taps * rate); the newest tap comes last in a convolution.
            kernel = depthwise.conv.weight.reshape(2, rate, taps).flip(2).transpose(1, 2).reshape(2, 1, -1)
            plain = nn.functional.conv_transpose1d(value[:, :, 0], kernel, stride=rate, groups=2)
            mixed = pointwise.weight[:, :, 0, 0] @ plain[..., start : start + frames * rate]
            wanted += mixed if pointwise.bias is None else mixed + pointwise.bias[:, None]
        torch.testing.assert_close(up(value)[:, :, 0], wanted)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_up_sampling_is_a_transposed_convolution(rate: int, taps: int, frames: int) -> None:
    """Hold the sub-pixel form against torch's transposed convolution with the same taps."""
    up = SubPixelUpsample2d(2, 3, rate, taps * rate).double()
    kernel = up.conv.weight.detach().reshape(rate, 3, 2, taps).flip(3).permute(2, 1, 3, 0).reshape(2, 3, taps * rate)
    bias = up.conv.bias
    assert bias is not None
    with torch.no_grad():
        # One bias for each channel, whatever the phase.
        bias.copy_(torch.arange(3).repeat(rate))
        value = torch.randn(1, 2, 1, frames, dtype=torch.float64)
        plain = nn.functional.conv_transpose1d(value[:, :, 0], kernel, torch.arange(3).double(), stride=rate)
        start = (taps * rate - rate) // 2
        wanted = plain[..., start : start + frames * rate]
        torch.testing.assert_close(up(value)[:, :, 0], wanted)


def test_a_separable_convolution_is_the_sum_of_its_terms() -> None:
    conv = convolution(3, 4, 5, 2, rank=2)
    assert isinstance(conv, SeparableConv2d)
    dense = time_conv(3, 4, 5, 2)
    bias = conv.pointwise[0].bias
    assert isinstance(bias, nn.Parameter)
    assert dense.bias is not None
    with torch.no_grad():
        pairs = zip(conv.depthwise, conv.pointwise, strict=True)
        terms = [
            pointwise.weight * depthwise.weight[:, 0, 0][None, :, None]
            for depthwise, pointwise in pairs
            if isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        ]
        dense.weight.copy_(torch.stack(terms).sum(0))
        dense.bias.copy_(bias)
        value = torch.randn(1, 3, 1, 12)
        torch.testing.assert_close(conv(value), dense(value))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        HiFiGANStudent2D.from_run(tmp_path)
