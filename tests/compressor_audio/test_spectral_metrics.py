from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import pytest
from compressor_audio.mel import MelOptions
from compressor_audio.metrics import MelDistance
from compressor_audio.pitch_metrics import F0Error
from compressor_audio.spectral_metrics import (
    BandEnergy,
    LogSpectralDistance,
    MelCepstralDistortion,
    mel_cepstrum,
    power,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import signal as scipy_signal

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.signal_metric import Signal

SpeechLike = Callable[..., FloatArray]
RATE = 22050


def white(seconds: float = 1.0, seed: int = 0, rate: int = RATE, level: float = 0.1) -> FloatArray:
    noise = level * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return noise.astype(np.float32)


def log_mels(audio: FloatArray) -> FloatArray:
    """By librosa, in the frames of HiFi-GAN."""
    padded = np.pad(audio, 384, mode="reflect")
    magnitude = np.sqrt(np.abs(librosa.stft(padded, n_fft=1024, hop_length=256, center=False)) ** 2 + 1e-9)
    filters = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    bands: FloatArray = np.log(np.maximum(filters @ magnitude, 1e-5))
    return bands


def test_the_mel_cepstrum_gives_the_log_mel_bands_back() -> None:
    audio = white()
    cepstrum = mel_cepstrum(Signal(audio, RATE))
    order, band = np.meshgrid(np.arange(80), np.arange(80), indexing="ij")
    series = np.cos(np.pi * order * (band + 0.5) / 80).T @ cepstrum
    np.testing.assert_allclose(series, log_mels(audio), atol=1e-3)


def test_distortion_is_kubichek_s_formula(speech_like: SpeechLike) -> None:
    output, wanted = speech_like(1.0), speech_like(1.0, seed=3)
    bands = log_mels(output) - log_mels(wanted)
    order, band = np.meshgrid(np.arange(1, 14), np.arange(80), indexing="ij")
    difference = 2 / 80 * np.cos(np.pi * order * (band + 0.5) / 80) @ bands
    expected = np.mean(10 / np.log(10) * np.sqrt(2 * (difference**2).sum(axis=0)))
    assert MelCepstralDistortion().score(Signal(output, RATE), Signal(wanted, RATE)) == pytest.approx(
        expected, rel=1e-3
    )


@settings(max_examples=10)
@given(gain=st.floats(0.2, 4.0))
def test_loudness_is_no_distortion_and_is_all_of_the_band_energy(gain: float) -> None:
    wanted = white()
    output, teacher = Signal((gain * wanted).astype(np.float32), RATE), Signal(wanted, RATE)
    decibels = 20 * np.log10(gain)
    assert MelCepstralDistortion().score(output, teacher) == pytest.approx(0.0, abs=0.01)
    assert BandEnergy().score(output, teacher) == pytest.approx([decibels] * 8, abs=0.01)
    assert LogSpectralDistance().score(output, teacher) == pytest.approx([abs(decibels)] * 9, abs=0.01)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_power_adds_up_to_the_mean_square(rate: int) -> None:
    audio = white(2.0, rate=rate)
    assert power(Signal(audio, rate)).sum(axis=0).mean() == pytest.approx(np.mean(audio**2), rel=0.02)


def test_bands_are_those_of_a_filter() -> None:
    wanted = white(3.0)
    sections = scipy_signal.butter(8, [3100, 3900], "bandpass", fs=RATE, output="sos")
    output = (wanted + scipy_signal.sosfilt(sections, white(3.0, seed=1))).astype(np.float32)
    metric = BandEnergy()
    named = dict(zip(metric.parts(RATE), metric.score(Signal(output, RATE), Signal(wanted, RATE)), strict=True))
    # What the filter lets through of equal noise, by its own response.
    frequencies, response = scipy_signal.sosfreqz(sections, worN=8192, fs=RATE)
    inside = (frequencies >= 3000) & (frequencies < 4000)
    expected = 10 * np.log10(1 + np.mean(np.abs(response[inside]) ** 2))
    assert named.pop("3 to 4 kHz") == pytest.approx(expected, abs=0.15)
    assert max(map(abs, named.values())) < 0.15


def test_log_spectral_distance_is_the_root_mean_square_of_decibels() -> None:
    output, wanted = white(seed=1), white(seed=2)
    padded = [np.pad(audio, 384, mode="reflect") for audio in (output, wanted)]
    spectra = [np.abs(librosa.stft(audio, n_fft=1024, hop_length=256, center=False)) ** 2 for audio in padded]
    frequencies = librosa.fft_frequencies(sr=RATE, n_fft=1024)
    squares = (10 * np.log10(spectra[0] / spectra[1])) ** 2
    expected = [
        np.sqrt(squares[(frequencies >= low) & (frequencies < high)].mean(axis=0)).mean()
        for low, high in [(0, 8000), *((1000 * edge, 1000 * edge + 1000) for edge in range(8))]
    ]
    found = LogSpectralDistance().score(Signal(output, RATE), Signal(wanted, RATE))
    assert found == pytest.approx(expected, rel=2e-3)


def test_the_largest_band_counts_whichever_way_it_departs() -> None:
    assert BandEnergy().combined(np.array([[0.5, -2.0, 1.0], [0.1, 0.2, 0.3]])) == pytest.approx([2.0, 0.3])


def test_silences_do_not_differ() -> None:
    near_silence = Signal(white(level=1e-7), RATE)
    nothing = Signal(np.zeros(RATE, np.float32), RATE)
    assert BandEnergy().score(near_silence, nothing) == pytest.approx([0.0] * 8, abs=0.01)
    assert LogSpectralDistance().score(near_silence, nothing) == pytest.approx([0.0] * 9, abs=0.01)


def test_bands_above_half_the_sample_rate_are_left_out() -> None:
    assert BandEnergy().parts(8000) == ("0 to 1 kHz", "1 to 2 kHz", "2 to 3 kHz", "3 to 4 kHz")
    assert LogSpectralDistance(band_edges=(0, 500, 6000)).parts(11025) == ("all bands", "0 to 0.5 kHz")
    with pytest.raises(MetricUnavailable, match="no band lies below 4000 Hz"):
        BandEnergy(band_edges=(5000, 6000)).parts(8000)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (Signal(white(rate=800), 800), "needs audio of 8000 samples per second or more; this has 800"),
        (Signal(white(0.02), RATE), "of at least 1024 output samples; one has 441"),
    ],
)
def test_what_is_no_speech_is_not_measured(signal: Signal, message: str) -> None:
    for metric in (BandEnergy(), LogSpectralDistance(), MelCepstralDistortion(), MelDistance(), F0Error()):
        with pytest.raises(MetricUnavailable, match=message):
            metric.score(signal, signal)


@pytest.mark.parametrize("edges", [(0.0, 1000.0, 1000.0), (-1.0, 100.0), (0.0, 40.0), (100.0,)])
def test_edges_rise(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        BandEnergy(band_edges=edges)


@given(rate=st.integers(1000, 192_000))
def test_an_analysis_for_any_rate_keeps_its_frames(rate: int) -> None:
    options = MelOptions.for_rate(rate)
    assert options.n_fft / rate == pytest.approx(1024 / 22050, rel=0.42)
    assert options.n_fft == options.win_length == 4 * options.hop_length
    assert options.upper_edge <= rate / 2
    # A band no narrower than 50 Hz holds a bin.
    assert rate / options.n_fft < 50


def test_at_22_khz_the_analysis_is_hifi_gan_s() -> None:
    assert MelOptions.for_rate(22050) == MelOptions()
    assert MelOptions.for_rate(44100).upper_edge == 16000
