from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressor_hifigan import HiFiGANStudent2D, ResBlockConfig, StageConfig, StudentConfig
from compressor_hifigan.student import SeparableConv2d, SubPixelUpsample2d, time_conv
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
@settings(max_examples=10, deadline=None)
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


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(deadline=None)
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
    conv = SeparableConv2d(3, 4, 5, 2, rank=2)
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
    with pytest.raises(RunFolderError, match="holds no finished run"):
        HiFiGANStudent2D.from_run(tmp_path)
