from __future__ import annotations

import numpy as np
import pytest
from compressor_audio.mel import MelOptions
from compressor_audio.speech_samples import speech_sample
from compressor_audio.vocoder_inputs import VocoderInputs, fundamental, vocoder_inputs
from numpy.typing import NDArray

from compressor.dataset import FloatArray
from compressor.errors import DataError
from compressor.tensor_spec import TensorSpec

NSF = (TensorSpec("mel", (1, "n_frames", 80)), TensorSpec("f0", (1, "n_frames")))
MEL = MelOptions()


def tone(hertz: NDArray[np.float64]) -> FloatArray:
    """Return ten harmonics of a pitch (samples,) at 22,050 Hz."""
    turns = np.cumsum(hertz / MEL.sample_rate)
    harmonics = np.arange(1, 11)[:, None]
    audio: FloatArray = (0.2 * np.sin(2 * np.pi * turns * harmonics) / harmonics).sum(0).astype(np.float32)
    return audio


def test_finds_mel_and_pitch() -> None:
    assert vocoder_inputs((TensorSpec("features", ("batch", 80, "frames")),), 80) == VocoderInputs("features")
    assert vocoder_inputs(NSF, 80) == VocoderInputs("mel", bands_last=True, pitch="f0")


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ((TensorSpec("x", (1, 3, 224, 224)),), r"x: \(1, 3, 224, 224\) float32"),
        ((TensorSpec("mel", (1, 100, "t")),), r"mel: \(1, 100, t\)"),
        ((TensorSpec("ids", (1, 80, "t"), "int64"),), "int64"),
        ((TensorSpec("mel", (1, 80, "t")), TensorSpec("speaker", (1, "t"))), r"speaker: \(1, t\)"),
    ],
)
def test_refuses_a_teacher_that_takes_something_else(inputs: tuple[TensorSpec, ...], found: str) -> None:
    with pytest.raises(DataError, match=rf"{found}.*needs exactly one mel input \(batch, 80, frames\)"):
        vocoder_inputs(inputs, 80)


def test_pitch_is_that_of_a_glide_at_the_mel_s_frames() -> None:
    hertz = np.geomspace(110, 330, 2 * MEL.sample_rate)
    audio = tone(hertz)
    found = fundamental(audio, MEL)
    sample = speech_sample("glide", audio, vocoder_inputs(NSF, 80), MEL)
    frames = sample.inputs["mel"].shape[1]
    assert sample.inputs["mel"].shape == (1, frames, 80)
    assert sample.inputs["f0"].shape == (1, frames)
    np.testing.assert_array_equal(sample.inputs["f0"][0], found[:frames])
    centres = np.arange(frames) * MEL.hop_length + MEL.hop_length // 2
    inner = slice(4, -4)
    np.testing.assert_allclose(found[:frames][inner], hertz[centres][inner], rtol=0.02)


def test_gaps_are_bridged_and_silence_has_no_pitch() -> None:
    audio = tone(np.full(2 * MEL.sample_rate, 220.0))
    audio[15000:22000] = 0.0
    found = fundamental(audio, MEL)
    # At the edges of the gap half of what is analysed is silence.
    assert np.quantile(np.abs(found / 220 - 1), 0.8) < 0.01
    assert found.min() > 150
    assert not fundamental(np.zeros(20000, np.float32), MEL).any()
