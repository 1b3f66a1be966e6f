from __future__ import annotations

from typing import Literal

import librosa
import numpy as np
import pytest
import torch
from compressor_audio.losses import ComplexStft, MelL1, MultiResolutionStft, Phase, WaveformL1
from compressor_audio.mel import MelOptions, log_mel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from compressor.loss import Loss

LOSSES: list[Loss] = [
    MelL1(),
    MultiResolutionStft(),
    MultiResolutionStft(spectral_convergence=0.5, log_magnitude=0.0, linear_magnitude=2.0),
    ComplexStft(),
    ComplexStft(norm="l2"),
    Phase(),
    WaveformL1(),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def noise(seed: int, batch: int = 2, samples: int = 4096) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@each_loss
def test_is_zero_for_equal_signals_and_positive_otherwise(loss: Loss) -> None:
    assert loss.compute(noise(0), noise(0)).item() == 0.0
    assert loss.compute(noise(0), noise(1)).item() > 0.0
    assert loss.compute(noise(0), noise(1)).shape == ()


@each_loss
def test_the_order_of_a_batch_is_nothing_to_it(loss: Loss) -> None:
    order = torch.tensor([2, 0, 1])
    student, teacher = noise(0, batch=3), noise(1, batch=3)
    turned = loss.compute(student[order], teacher[order])
    assert turned.item() == pytest.approx(loss.compute(student, teacher).item(), rel=1e-5)


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


def spectra(signal: Tensor, size: int) -> NDArray[np.complex128]:
    """Return the spectrogram (bins, frames) of a batch of one, by librosa in double precision."""
    return np.asarray(librosa.stft(signal[0].double().numpy(), n_fft=size, hop_length=size // 4, pad_mode="reflect"))


def test_multi_resolution_stft_follows_the_paper() -> None:
    student, teacher = noise(0, batch=1), noise(1, batch=1)
    parts = []
    for size in (512, 1024, 256):
        found, expected = (np.abs(spectra(signal, size)) for signal in (student, teacher))
        convergence = np.linalg.norm(expected - found) / np.linalg.norm(expected)
        logarithm = np.abs(np.log(expected) - np.log(found)).mean()
        parts.append((convergence, logarithm, np.abs(expected - found).mean()))
    convergence, logarithm, linear = np.mean(parts, axis=0)
    assert MultiResolutionStft().compute(student, teacher).item() == pytest.approx(convergence + logarithm, rel=1e-3)
    weighted = MultiResolutionStft(spectral_convergence=3.0, log_magnitude=0.5, linear_magnitude=2.0)
    expected_sum = 3.0 * convergence + 0.5 * logarithm + 2.0 * linear
    assert weighted.compute(student, teacher).item() == pytest.approx(expected_sum, rel=1e-3)


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2)])
def test_complex_stft_is_a_share_of_the_teacher(norm: Literal["l1", "l2"], order: int) -> None:
    student, teacher = noise(0, batch=1), noise(1, batch=1)
    found, expected = (spectra(signal, 512).ravel() for signal in (student, teacher))
    share = np.linalg.norm(found - expected, order) / np.linalg.norm(expected, order)
    assert ComplexStft(fft_sizes=(512,), norm=norm).compute(student, teacher).item() == pytest.approx(share, rel=1e-4)


@settings(max_examples=20)
@given(gain=st.floats(-2.0, 2.0, width=32), norm=st.sampled_from(["l1", "l2"]))
def test_complex_stft_of_a_gain_is_what_is_missing(gain: float, norm: Literal["l1", "l2"]) -> None:
    found = ComplexStft(norm=norm).compute(gain * noise(0), noise(0)).item()
    assert found == pytest.approx(abs(1.0 - gain), rel=1e-3, abs=1e-5)


def on_the_circle(angle: NDArray[np.float64]) -> float:
    return float(np.abs(np.angle(np.exp(1j * angle))).mean())


def test_phase_follows_the_paper() -> None:
    student, teacher = noise(0, batch=1), noise(1, batch=1)
    error = np.angle(spectra(student, 512)) - np.angle(spectra(teacher, 512))
    terms = [on_the_circle(each) for each in (error, np.diff(error, axis=0), np.diff(error, axis=1))]
    names = ("instantaneous_phase", "group_delay", "time_difference")
    for position, wanted in enumerate(terms):
        factors = {name: 2.0 * (place == position) for place, name in enumerate(names)}
        loss = Phase(fft_sizes=(512,), **factors)
        assert loss.compute(student, teacher).item() == pytest.approx(2.0 * wanted, rel=1e-3)
    assert Phase(fft_sizes=(512,)).compute(student, teacher).item() == pytest.approx(sum(terms), rel=1e-3)


@settings(max_examples=20)
@given(gain=st.floats(0.25, 4.0, width=32))
def test_phase_hears_the_sign_and_no_gain(gain: float) -> None:
    assert Phase().compute(gain * noise(0), noise(0)).item() == pytest.approx(0.0, abs=5e-3)
    assert Phase().compute(-gain * noise(0), noise(0)).item() == pytest.approx(np.pi, abs=5e-3)


def test_gradients_of_a_sound_that_fades_into_silence_are_finite() -> None:
    fading = noise(0) * torch.logspace(0, -12, 4096)
    for loss in LOSSES:
        signal = fading.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss.compute(signal, noise(1)), signal)
        assert gradient.isfinite().all(), loss


def test_mel_l1_uses_its_own_analysis() -> None:
    mel = MelOptions(n_mels=20, fmax=None)
    expected = (log_mel(noise(0), mel) - log_mel(noise(1), mel)).abs().mean()
    assert torch.equal(MelL1(mel=mel).compute(noise(0), noise(1)), expected)


@settings(max_examples=20)
@given(offset=st.floats(-1.0, 1.0, width=32))
def test_waveform_l1_of_an_offset_is_the_offset(offset: float) -> None:
    assert WaveformL1().compute(noise(0) + offset, noise(0)).item() == pytest.approx(abs(offset), abs=1e-6)


def test_refuses_fft_sizes_without_a_whole_quarter() -> None:
    with pytest.raises(ValidationError, match="multiple of 4"):
        MultiResolutionStft(fft_sizes=(510,))


@pytest.mark.parametrize("loss", [MultiResolutionStft(), ComplexStft(), Phase()], ids=lambda loss: loss.name)
def test_says_how_long_signals_must_be(loss: Loss) -> None:
    assert loss.compute(noise(0, samples=513), noise(1, samples=513)).isfinite()
    with pytest.raises(ValueError, match=r"at least 513 samples.* found \(2, 512\)"):
        loss.compute(noise(0, samples=512), noise(1, samples=512))


def test_refuses_to_compare_nothing() -> None:
    with pytest.raises(ValidationError, match="are all 0: nothing would be compared; raise one, or drop"):
        MultiResolutionStft(spectral_convergence=0.0, log_magnitude=0.0)
    with pytest.raises(ValidationError, match="instantaneous_phase, group_delay, time_difference are all 0"):
        Phase(instantaneous_phase=0.0, group_delay=0.0, time_difference=0.0)


def test_mel_l1_analyses_at_the_rate_of_the_data_unless_it_has_an_analysis_of_its_own() -> None:
    student, teacher = noise(0), noise(1)
    wanted = MelOptions.for_rate(44100)
    assert (wanted.n_fft, wanted.fmax) == (2048, 16000)
    distance = (log_mel(student, wanted) - log_mel(teacher, wanted)).abs().mean()
    assert torch.equal(MelL1().at_rate(44100).compute(student, teacher), distance)
    assert not torch.equal(MelL1().compute(student, teacher), distance)
    for rate in (None, 800, 22050):
        assert torch.equal(MelL1().at_rate(rate).compute(student, teacher), MelL1().compute(student, teacher))
    own = MelL1(mel=MelOptions(n_mels=40))
    assert own.at_rate(44100) == own
    assert WaveformL1().at_rate(44100) == WaveformL1()
