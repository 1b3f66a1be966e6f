"""Tests of one voice speaking as another, held against vowels that were made with the pitch and resonances wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.speech_samples import at_rate
from compressor_audio.voice_change import changed_voice

from compressor.dataset import FloatArray

RATE = 22050
MEL = MelOptions()
RESONANCES = (550.0, 1650.0, 2750.0, 3850.0)
WIDTH = 120.0
MIDDLE = slice(20, -20)


def vowel(pitch: float, stretch: float = 1.0, seconds: float = 1.5) -> FloatArray:
    """Return a vowel: harmonics of `pitch` Hz as loud as four resonances, moved by `stretch`, let them be."""
    time = np.arange(round(RATE * seconds)) / RATE
    audio = np.zeros_like(time)
    for harmonic in np.arange(pitch, 9000.0, pitch):
        gain = sum(1.0 / (1.0 + ((harmonic - stretch * at) / WIDTH) ** 2) for at in RESONANCES)
        audio += np.sqrt(pitch) * (gain + 0.01) * np.sin(2 * np.pi * harmonic * time + harmonic)
    return np.asarray(0.005 * audio, np.float32)


def analysed(audio: FloatArray) -> FloatArray:
    found: FloatArray = log_mel(torch.from_numpy(audio)[None], MEL).numpy()[0][:, MIDDLE]
    return found


@pytest.mark.parametrize("pitch", [0.8, 1.6, 2.2])
def test_sounds_like_the_voice_it_stands_for(pitch: float) -> None:
    changed = changed_voice(vowel(100.0), RATE, MEL, pitch)[0][:, MIDDLE].mean(1)
    wanted = analysed(vowel(100.0 * pitch, pitch**0.25)).mean(1)
    faster = analysed(vowel(100.0 * pitch, pitch)).mean(1)
    heard = slice(4, None)
    off = np.abs(changed - wanted - np.mean(changed - wanted))[heard].mean()
    assert off < 0.45
    assert off < 0.7 * np.abs(faster - wanted - np.mean(faster - wanted))[heard].mean()


@pytest.mark.parametrize("pitch", [0.7, 1.5, 2.8])
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_keeps_the_tempo(pitch: float, rate: int) -> None:
    audio = vowel(100.0)[: round(rate * 0.9)]
    plain = len(audio) * RATE / rate / MEL.hop_length
    frames = changed_voice(audio, rate, MEL, pitch).shape[-1]
    assert frames == pytest.approx(plain, rel=0.02)


def test_the_moment_of_a_sound_stays() -> None:
    audio = vowel(110.0, seconds=2.0)
    audio[: len(audio) // 2] *= 1e-3
    loudness = changed_voice(audio, RATE, MEL, 2.0)[0].mean(0)
    jump = int(np.argmax(np.diff(loudness)))
    assert jump == pytest.approx(len(audio) / 2 / MEL.hop_length, abs=4)


def test_is_finite_in_silence() -> None:
    assert np.isfinite(changed_voice(np.zeros(8000, np.float32), RATE, MEL, 2.0)).all()


def test_the_same_pitch_is_the_same_voice() -> None:
    np.testing.assert_allclose(
        changed_voice(vowel(120.0), RATE, MEL, 1.0)[0][:, MIDDLE], analysed(vowel(120.0)), atol=1e-3
    )


def test_audio_of_another_rate_is_the_same_voice() -> None:
    audio = vowel(120.0)
    found = changed_voice(at_rate(audio, RATE, 44100), 44100, MEL, 1.7)[0][:, MIDDLE]
    wanted = changed_voice(audio, RATE, MEL, 1.7)[0][:, MIDDLE]
    # What lies near half the sample rate is filtered away in one and not in the other.
    np.testing.assert_allclose(found[:70, :100], wanted[:70, :100], atol=0.05)


def test_too_short_a_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 468 samples; found"):
        changed_voice(np.zeros(1200, np.float32), RATE, MEL, 2.8)
