from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from compressor_audio.mel import MelOptions, log_bands, log_mel, magnitudes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

HIFI_GAN = MelOptions()
VARIANTS = [
    HIFI_GAN,
    MelOptions(sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=128, fmin=40, fmax=16000),
    MelOptions(n_fft=512, win_length=400, hop_length=160, n_mels=40, fmax=None),
    MelOptions(mel_scale="htk", norm=None, log="10", clamp=1e-3),
]


def audio_of(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def by_librosa(audio: NDArray[np.float32], options: MelOptions) -> NDArray[np.float64]:
    margin = (options.n_fft - options.hop_length) // 2
    padded = np.pad(audio.astype(np.float64), margin, mode="reflect")
    spectrum = librosa.stft(
        padded, n_fft=options.n_fft, hop_length=options.hop_length, win_length=options.win_length, center=False
    )
    filters = librosa.filters.mel(
        sr=options.sample_rate,
        n_fft=options.n_fft,
        n_mels=options.n_mels,
        fmin=options.fmin,
        fmax=options.fmax,
        htk=options.mel_scale == "htk",
        norm=options.norm,
    )
    bands = np.maximum(filters @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9), options.clamp)
    return np.asarray(np.log(bands) if options.log == "e" else np.log10(bands))


@pytest.mark.parametrize("options", VARIANTS)
def test_agrees_with_librosa(options: MelOptions) -> None:
    audio = np.stack([audio_of(9000, seed) for seed in (1, 2)])
    found = log_mel(torch.from_numpy(audio), options).numpy()
    expected = np.stack([by_librosa(row, options) for row in audio])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


@settings(max_examples=40)
@given(samples=st.integers(512, 6000), hop=st.integers(1, 1024))
def test_has_a_frame_per_hop(samples: int, hop: int) -> None:
    # Half a transform is reflected at most, which has to lie inside the audio.
    samples = max(samples + 1, hop)
    assert log_mel(torch.zeros(1, samples), MelOptions(hop_length=hop)).shape == (1, 80, samples // hop)
    assert magnitudes(torch.zeros(1, samples), HIFI_GAN, hop).shape == (1, 513, samples // hop)


@pytest.mark.parametrize("hop", [91, 256, 400])
def test_magnitudes_are_librosa_s_at_any_hop(hop: int) -> None:
    audio = audio_of(5000)
    left = (1024 - hop) // 2
    padded = np.pad(audio.astype(np.float64), (left, 1024 - hop - left), mode="reflect")
    expected = np.abs(librosa.stft(padded, n_fft=1024, hop_length=hop, win_length=1024, center=False))
    found = magnitudes(torch.from_numpy(audio)[None], HIFI_GAN, hop)
    np.testing.assert_allclose(found[0].numpy(), np.sqrt(expected**2 + 1e-9), atol=1e-4)


def test_bands_of_a_single_frequency() -> None:
    """A bin's weight in each band is librosa's filter there; silence is the clamp."""
    magnitude = torch.zeros(1, 513, 2)
    magnitude[0, 100, 1] = 3.0
    found = log_bands(magnitude, HIFI_GAN)[0].numpy()
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    np.testing.assert_allclose(found[:, 0], np.log(1e-5), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], np.log(np.maximum(3.0 * filters[:, 100], 1e-5)), rtol=1e-5)


def test_gradient_of_silence_is_finite() -> None:
    audio = torch.zeros(1, 4096, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_mel(audio, MelOptions(clamp=1e-12)).sum(), audio)
    assert gradient.isfinite().all()


def test_is_float32_under_autocast() -> None:
    audio = torch.from_numpy(audio_of(4096))[None]
    expected = log_mel(audio, HIFI_GAN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(audio, HIFI_GAN), expected)
        assert log_mel(audio.bfloat16(), HIFI_GAN).dtype == torch.float32


def test_can_train_after_inference_mode() -> None:
    options = MelOptions(n_mels=13)
    with torch.inference_mode():
        log_mel(torch.zeros(1, 4096), options)
    audio = torch.rand(1, 4096, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_mel(audio, options).sum(), audio)
    assert gradient.abs().sum() > 0


def test_a_shorter_hop_needs_longer_audio() -> None:
    assert magnitudes(torch.zeros(1, 468), HIFI_GAN, 91).shape == (1, 513, 5)
    with pytest.raises(ValueError, match="at least 468 samples; found"):
        magnitudes(torch.zeros(1, 467), HIFI_GAN, 91)


@pytest.mark.parametrize("shape", [(4096,), (1, 1, 4096), (1, 384)])
def test_refuses_shapes_it_cannot_use(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 385 samples; found"):
        log_mel(torch.zeros(shape), HIFI_GAN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 12000}, "fmin < fmax <= 11025"),
        ({"fmin": 9000}, "found fmin 9000, fmax 8000"),
        ({"win_length": 2048}, "may not exceed n_fft"),
        ({"hop": 256}, "Extra inputs"),
    ],
)
def test_refuses_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MelOptions.model_validate(options)
