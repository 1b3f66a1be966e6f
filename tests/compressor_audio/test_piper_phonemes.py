"""A voice's own inputs, held against what Piper's own format says and what onnxruntime speaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compressor_audio.piper_phonemes import PiperPhonemes
from compressor_audio.piper_speech import all_sentences

from compressor.data_source import DataContext
from compressor.errors import DataError
from compressor.stored_model import onnx_session
from compressor.tensor_spec import TensorSpec
from tests.piper_voice import write_piper_voice

INPUTS = (TensorSpec("input", (1, "phonemes")), TensorSpec("input_lengths", (1,)), TensorSpec("scales", (3,)))


@pytest.fixture
def asked(context: DataContext, tmp_path: Path) -> DataContext:
    """Return what a source hears whose teacher is a part of a tiny voice."""
    write_piper_voice(tmp_path / "voice.onnx")
    return replace(context, inputs=INPUTS, teacher=str(tmp_path / "voice.onnx"))


def test_sentences_are_spoken_by_the_voice_itself_slower_and_faster_in_turn(asked: DataContext) -> None:
    data = PiperPhonemes(sentences=4, validation_sentences=2, length_scales=(1.0, 0.8)).load(asked)
    known = json.loads(Path(f"{asked.teacher}.json").read_text(encoding="utf-8"))["phoneme_id_map"]
    session = onnx_session(Path(asked.teacher).read_bytes())
    sentences = all_sentences()
    for sample, sentence in zip((*data.train, *data.validation), (*sentences[:4], *sentences[-2:]), strict=True):
        # Start, every phoneme with a pad after it, end.
        ids = [1, 0, *(each for phoneme in sentence.phonemes for each in (*known[phoneme], 0)), 2]
        assert sample.inputs["input"].tolist() == [ids]
        assert sample.inputs["input_lengths"].tolist() == [len(ids)]
        (audio,) = session.run(None, dict(sample.inputs))
        assert audio.shape[-1] > 8 * len(ids)
        assert 0.02 < np.sqrt(np.mean(audio**2)) < 1.0
    np.testing.assert_allclose([sample.inputs["scales"][1] for sample in data.train], [1.0, 0.8, 1.0, 0.8])
    np.testing.assert_allclose(data.validation[0].inputs["scales"], [0.667, 1.0, 0.8], rtol=1e-6)
    assert data.sample_rate == 8000


def test_a_teacher_that_is_no_voice_is_refused(context: DataContext) -> None:
    with pytest.raises(DataError, match="gives input, input_lengths, scales, which Piper"):
        PiperPhonemes().load(context)
