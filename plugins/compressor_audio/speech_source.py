"""What all sources of speech share: the analysis, and which lengths are of use."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from compressor.data_source import DataSource
from compressor.dataset import Dataset, Sample
from compressor_audio.mel import MelOptions
from compressor_audio.speech_samples import check_audible, content_hash, mel_input, read_recording, speech_sample

if TYPE_CHECKING:
    from compressor.tensor_spec import TensorSpec

Speed = Annotated[float, Field(ge=0.5, le=3.0)]


class SpeechSource(DataSource, ABC):
    """A source of recordings for a teacher whose one input is a mel spectrogram."""

    mel: MelOptions = Field(default=MelOptions(), description="the teacher's mel analysis; HiFi-GAN's if left out")
    min_seconds: float = Field(default=0.5, gt=0.0, description="shorter recordings are skipped")
    max_seconds: float = Field(default=20.0, gt=0.0, description="longer recordings are cut")

    @model_validator(mode="after")
    def _lengths_fit(self) -> SpeechSource:
        if not self.mel.n_fft / self.mel.sample_rate <= self.min_seconds <= self.max_seconds:
            raise ValueError(
                f"expected n_fft ({self.mel.n_fft / self.mel.sample_rate:.3f} s) <= min_seconds <= max_seconds; "
                f"found min_seconds {self.min_seconds:g}, max_seconds {self.max_seconds:g}"
            )
        return self

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
        seconds = sum(len(sample.reference) for sample in samples if sample.reference is not None)
        return f"{len(samples)} utterances ({seconds / self.mel.sample_rate:.0f} s)"
