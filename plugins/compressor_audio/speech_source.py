"""What all sources of speech share: the analysis, and which lengths are of use."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from compressor.data_source import DataSource
from compressor.dataset import Dataset, FloatArray, Sample
from compressor_audio.mel import MelOptions
from compressor_audio.speech_samples import (
    at_rate,
    check_audible,
    content_hash,
    mel_input,
    read_recording,
    speech_sample,
)
from compressor_audio.voice_change import changed_voice

if TYPE_CHECKING:
    from compressor.tensor_spec import TensorSpec


class SpeechSource(DataSource, ABC):
    """A source of recordings for a teacher whose one input is a mel spectrogram."""

    mel: MelOptions = Field(default=MelOptions(), description="the teacher's mel analysis; HiFi-GAN's if left out")
    min_seconds: float = Field(default=0.5, gt=0.0, description="shorter recordings are skipped")
    max_seconds: float = Field(default=20.0, gt=0.0, description="longer recordings are cut")

    @model_validator(mode="after")
    def _lengths_fit(self) -> SpeechSource:
        # A voice is made higher by playing it faster: what is left has to fill one transform.
        shortest = self.mel.n_fft / self.mel.sample_rate * self.highest_pitch
        if not shortest <= self.min_seconds <= self.max_seconds:
            faster = f", {self.highest_pitch:g} times as fast" if self.highest_pitch > 1 else ""
            raise ValueError(
                f"expected n_fft ({shortest:.3f} s{faster}) <= min_seconds <= max_seconds; "
                f"found min_seconds {self.min_seconds:g}, max_seconds {self.max_seconds:g}"
            )
        return self

    @property
    def highest_pitch(self) -> float:
        """How many times as high as its own voice a recording is used at most."""
        return 1.0

    @property
    def output_rate(self) -> int | None:
        return self.mel.sample_rate

    def analyse(self, path: Path, inputs: tuple[TensorSpec, ...]) -> Sample:
        """Return one audio file as a sample, for copy synthesis: its mel, and itself as the reference.

        Raises:
            DataError: broken, silent or too short a file, or a teacher that takes no mel.
        """
        input_name = mel_input(inputs, self.mel.n_mels)
        audio = read_recording(path, self.mel.sample_rate, self.max_seconds)
        check_audible(str(path), audio, self.mel.sample_rate, self.min_seconds)
        return speech_sample(path.stem, audio, input_name, self.mel)

    def _training_sample(self, name: str, audio: FloatArray, rate: int, pitch: float, input_name: str) -> Sample:
        """Return audio (samples,) of `rate` as a sample, as if spoken `pitch` times as high by another voice."""
        if pitch == 1.0:
            return speech_sample(name, at_rate(audio, rate, self.mel.sample_rate), input_name, self.mel)
        return Sample(f"{name}, {pitch:g} times as high", {input_name: changed_voice(audio, rate, self.mel, pitch)})

    def _dataset(
        self, train: tuple[Sample, ...], validation: tuple[Sample, ...], origin: str, findings: tuple[str, ...] = ()
    ) -> Dataset:
        return Dataset(
            train=train,
            validation=validation,
            identity=content_hash(train, validation),
            description=f"{origin}: {self._amount(train)} to train on, {self._amount(validation)} to validate on",
            sample_rate=self.mel.sample_rate,
            findings=findings,
        )

    def _amount(self, samples: tuple[Sample, ...]) -> str:
        frames = sum(mel.shape[-1] for sample in samples for mel in sample.inputs.values())
        return f"{len(samples)} utterances ({frames * self.mel.hop_length / self.mel.sample_rate:.0f} s)"
