from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from compressor_audio.losses import MelL1, MultiResolutionStft, WaveformL1
from compressor_audio.mel import MelOptions, log_mel
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from compressor.loss import Loss

LOSSES: list[Loss] = [MelL1(), MultiResolutionStft(), WaveformL1()]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def noise(seed: int, batch: int = 2, samples: int = 4096) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@each_loss
def test_is_zero_for_equal_signals_and_positive_otherwise(loss: Loss) -> None:
    assert loss.compute(noise(0), noise(0)).item() == 0.0
    assert loss.compute(noise(0), noise(1)).item() > 0.0
    assert loss.compute(noise(0), noise(1)).shape == ()


@each_loss
@pytest.mark.parametrize("shape", [(2, 1, 4096), (2, 1, 1, 4096), (2, 4096)])
def test_takes_outputs_of_any_shape(loss: Loss, shape: tuple[int, ...]) -> None:
    flat = loss.compute(noise(0), noise(1))
    assert torch.equal(loss.compute(noise(0).reshape(shape), noise(1).reshape(shape)), flat)


@each_loss
@pytest.mark.parametrize(("student", "teacher"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_gradients_are_finite_at_silence_and_equality(loss: Loss, student: float, teacher: float) -> None:
    signal = (student * noise(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.compute(signal, teacher * noise(0)), signal)
    assert gradient.isfinite().all()


@each_loss
def test_is_float32_under_autocast(loss: Loss) -> None:
    expected = loss.compute(noise(0), noise(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.compute(noise(0), noise(1)), expected)
        rounded = loss.compute(noise(0).bfloat16(), noise(1))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(expected.item(), rel=0.02)


def test_multi_resolution_stft_follows_the_paper() -> None:
    student, teacher = noise(0, batch=1), noise(1, batch=1)
    parts = []
    for size in (512, 1024, 256):
        found, expected = (
            np.abs(librosa.stft(x[0].double().numpy(), n_fft=size, hop_length=size // 4, pad_mode="reflect"))
            for x in (student, teacher)
        )
        convergence = np.linalg.norm(expected - found) / np.linalg.norm(expected)
        parts.append(convergence + np.abs(np.log(expected) - np.log(found)).mean())
    assert MultiResolutionStft().compute(student, teacher).item() == pytest.approx(np.mean(parts), rel=1e-3)


def test_mel_l1_uses_its_own_analysis() -> None:
    mel = MelOptions(n_mels=20, fmax=None)
    expected = (log_mel(noise(0), mel) - log_mel(noise(1), mel)).abs().mean()
    assert torch.equal(MelL1(mel=mel).compute(noise(0), noise(1)), expected)


@settings(max_examples=20, deadline=None)
@given(offset=st.floats(-1.0, 1.0, width=32))
def test_waveform_l1_of_an_offset_is_the_offset(offset: float) -> None:
    assert WaveformL1().compute(noise(0) + offset, noise(0)).item() == pytest.approx(abs(offset), abs=1e-6)


def test_refuses_fft_sizes_without_a_whole_quarter() -> None:
    with pytest.raises(ValidationError, match="multiple of 4"):
        MultiResolutionStft(fft_sizes=(510,))
