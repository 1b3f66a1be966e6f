"""What all sources of speech share: the analysis, and which lengths are of use."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from compressor.data_source import DataSource
from compressor.dataset import Dataset, FloatArray, Sample
from compressor.errors import DataError
from compressor_audio.mel import MelOptions
from compressor_audio.speech_samples import (
    at_rate,
    check_audible,
    content_hash,
    read_recording,
    speech_sample,
)
from compressor_audio.vocoder_inputs import VocoderInputs, vocoder_inputs
from compressor_audio.voice_change import changed_voice

if TYPE_CHECKING:
    from compressor.tensor_spec import TensorSpec


class SpeechSource(DataSource, ABC):
    """A source of recordings for a teacher that takes a mel spectrogram, and perhaps f0."""

    mel: MelOptions = Field(default=MelOptions(), description="the teacher's mel analysis; HiFi-GAN's if left out")
    min_seconds: float = Field(default=0.5, gt=0.0, description="shorter recordings are skipped")
    max_seconds: float = Field(default=20.0, gt=0.0, description="longer recordings are cut")

    f0_shifts: tuple[Annotated[float, Field(ge=-24.0, le=24.0)], ...] = Field(
        default=(0.0,),
        min_length=1,
        description="semitones by which f0 departs from the mel's pitch, each in a training sample of its own: for "
        "vocoders that shift the pitch so",
    )
    random_f0_shift: float = Field(
        default=0.0,
        ge=0.0,
        le=24.0,
        description="most semitones, up or down, by which f0 of each training sample departs at random, besides "
        "`f0_shifts`; the same in every run",
    )

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
        given = vocoder_inputs(inputs, self.mel.n_mels)
        audio = read_recording(path, self.mel.sample_rate, self.max_seconds)
        check_audible(str(path), audio, self.mel.sample_rate, self.min_seconds)
        return speech_sample(path.stem, audio, given, self.mel)

    def check_shifts(self, given: VocoderInputs) -> None:
        """Refuse shifts of f0 for a teacher that takes none.

        Raises:
            DataError: it takes no f0.
        """
        shifting = {"f0_shifts": set(self.f0_shifts) != {0.0}, "random_f0_shift": self.random_f0_shift > 0}
        if not given.pitch and (asked := [name for name, there in shifting.items() if there]):
            raise DataError(f"{' and '.join(asked)}: the teacher takes no f0; leave it out")

    def _training_sample(
        self, name: str, audio: FloatArray, rate: int, pitch: float, given: VocoderInputs
    ) -> Iterator[Sample]:
        """Yield audio (samples,) of `rate` as samples, as if spoken `pitch` times as high, one for each shift of f0."""
        plain = speech_sample(name, at_rate(audio, rate, self.mel.sample_rate), given, self.mel)
        f0 = plain.inputs[given.pitch][0] * np.float32(pitch) if given.pitch else None
        frames = plain.inputs[given.mel].swapaxes(1, 2) if given.bands_last else plain.inputs[given.mel]
        if pitch != 1.0:
            name = f"{name}, {pitch:g} times as high"
            frames = changed_voice(audio, rate, self.mel, pitch)
        for shift in self._shifts(name):
            if shift == 0.0 and pitch == 1.0:
                yield plain
            elif f0 is None:
                yield Sample(name, given.filled(frames, None))
            else:
                shifted = f0 * np.float32(2 ** (shift / 12))
                yield Sample(f"{name}, f0 {shift:+.4g}" if shift else name, given.filled(frames, shifted))

    def _shifts(self, name: str) -> list[float]:
        """Return the semitones by which f0 departs in the samples of one name."""
        random = np.random.default_rng(list(name.encode()))
        most = self.random_f0_shift
        return [shift + float(random.uniform(-most, most)) if most else shift for shift in self.f0_shifts]

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
        # The mel is by far the largest of a sample's inputs.
        sizes = (max(array.size for array in sample.inputs.values()) for sample in samples)
        return self._in_words(len(samples), sum(sizes) / self.mel.n_mels)

    def _in_words(self, samples: int, frames: float) -> str:
        return f"{samples} utterances ({frames * self.mel.hop_length / self.mel.sample_rate:.0f} s)"
