from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from compressor_audio.mel import MelOptions
from compressor_audio.speech_samples import at_rate, content_hash, read_recording, speech_sample
from compressor_audio.vocoder_inputs import VocoderInputs
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.dataset import FloatArray
from compressor.errors import DataError

SpeechLike = Callable[..., FloatArray]

MEL = VocoderInputs("mel")


def test_reads_mono_as_it_is(tmp_path: Path, speech_like: SpeechLike) -> None:
    audio = speech_like(1.0)
    soundfile.write(tmp_path / "a.wav", audio, 22050, subtype="FLOAT")
    np.testing.assert_array_equal(read_recording(tmp_path / "a.wav", 22050, 9.0), audio)
    np.testing.assert_array_equal(read_recording(tmp_path / "a.wav", 22050, 0.5), audio[:11025])


def test_mixes_and_resamples(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    left, right = np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 500 * time)
    soundfile.write(tmp_path / "a.flac", np.stack([left, right], axis=1) * 0.5, 44100)
    found = read_recording(tmp_path / "a.flac", 22050, 9.0)
    expected = 0.25 * (left + right)[::2]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=1e-3)


def test_refuses_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF, but no more")
    soundfile.write(tmp_path / "b.wav", np.full(9000, np.nan), 22050, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: cannot be read as audio"):
        read_recording(tmp_path / "a.wav", 22050, 9.0)
    with pytest.raises(DataError, match=r"b\.wav: .*not finite"):
        read_recording(tmp_path / "b.wav", 22050, 9.0)
    with pytest.raises(DataError, match=r"c\.wav: there is no such file"):
        read_recording(tmp_path / "c.wav", 22050, 9.0)


@settings(max_examples=20)
@given(samples=st.integers(1024, 30000))
def test_reference_and_mel_cover_the_same_time(samples: int) -> None:
    audio = np.ones(samples, dtype=np.float32)
    sample = speech_sample("x", audio, MEL, MelOptions())
    frames = sample.inputs["mel"].shape[-1]
    assert sample.inputs["mel"].shape == (1, 80, frames)
    assert sample.reference is not None
    assert sample.reference.shape == (256 * frames,)
    assert samples - 256 < 256 * frames <= samples


def test_another_rate_keeps_pitch_and_length() -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(16000) / 16000).astype(np.float32)
    resampled = at_rate(tone, 16000, 22050)
    assert len(resampled) == 22050
    assert np.argmax(np.abs(np.fft.rfft(resampled))) == pytest.approx(400, abs=1)


def test_content_hash_tells_every_difference() -> None:
    audio = np.linspace(-1, 1, 5000, dtype=np.float32)
    a, b = (speech_sample(name, audio, MEL, MelOptions()) for name in ("a", "b"))
    louder = speech_sample("a", audio * np.float32(0.9), MEL, MelOptions())
    renamed = speech_sample("a", audio, VocoderInputs("x"), MelOptions())
    alone = replace(a, reference=None)
    splits = [([a], [b]), ([b], [a]), ([a, b], []), ([louder], [b]), ([renamed], [b]), ([alone], [b]), ([a], [alone])]
    assert len({content_hash(*split) for split in splits}) == len(splits)
    assert content_hash([a], [b]) == content_hash((a,), (speech_sample("b", audio.copy(), MEL, MelOptions()),))
