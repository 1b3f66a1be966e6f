"""What a Piper voice itself takes: sentences as phoneme ids, for compressing a part of the voice without any speech."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.package_files import resolve_package_path
from compressor_audio.piper_speech import Sentence, all_sentences
from compressor_audio.piper_voice import PiperVoice, Scales
from compressor_audio.speech_samples import content_hash

INPUTS = ("input", "input_lengths", "scales")
"""What a voice of one speaker takes."""


class PiperPhonemes(DataSource):
    """English sentences as the phoneme ids of a Piper voice, for a teacher that is a region of that voice.

    The voice's `.onnx.json` beside it says what the ids are. No sentence both trains and validates. Training
    sentences are spoken slower and faster in turn.
    """

    name: ClassVar[str] = "piper-phonemes"

    voice: str = Field(
        default="",
        description="a single-speaker English voice: path, or package://IMPORT_NAME/PATH; the teacher if left out",
    )
    sentences: int = Field(default=54, ge=1, description="how many sentences train, from the beginning of the list")
    validation_sentences: int = Field(default=6, ge=1, description="how many validate, from the end of the list")
    noise_scale: float = Field(default=0.667, ge=0.0, le=2.0, description="how much the sound varies")
    noise_w: float = Field(default=0.8, ge=0.0, le=2.0, description="how much the phonemes' durations vary")
    length_scales: tuple[Annotated[float, Field(ge=0.3, le=3.0)], ...] = Field(
        default=(1.0, 0.9, 1.15), min_length=1, description="how slowly training sentences are spoken, in turn"
    )

    def load(self, context: DataContext) -> Dataset:
        """Return the sentences as samples.

        Raises:
            DataError: no such voice, or a teacher that is no part of one.
        """
        names = {spec.name for spec in context.inputs}
        if not names >= set(INPUTS):
            raise DataError(
                f"'{self.name}' gives {', '.join(INPUTS)}, which Piper voices take; the teacher takes "
                f"{', '.join(sorted(names))}. A region of a voice: teacher: {{onnx: …, region: …}}."
            )
        path = resolve_package_path(self.voice or context.teacher, DataError)
        voice = PiperVoice.read(path)
        known = all_sentences()
        validation = self._samples("validation sentence", voice, known[-self.validation_sentences :], (1.0,))
        train = self._samples("sentence", voice, known[: self.sentences], self.length_scales)
        return Dataset(
            train=train,
            validation=validation,
            identity=content_hash(train, validation),
            description=f"{len(train)} sentences in the phonemes of {Path(path).stem}, {len(validation)} to validate",
            sample_rate=voice.sample_rate,
        )

    def _samples(
        self, kind: str, voice: PiperVoice, sentences: Sequence[Sentence], lengths: Sequence[float]
    ) -> tuple[Sample, ...]:
        samples = []
        for number, (sentence, length) in enumerate(zip(sentences, cycle(lengths), strict=False), start=1):
            ids = np.array([voice.ids(sentence.phonemes)], dtype=np.int64)
            inputs = {
                "input": ids,
                "input_lengths": np.array([ids.shape[1]], dtype=np.int64),
                "scales": np.array(Scales(self.noise_scale, length, self.noise_w), dtype=np.float32),
            }
            samples.append(Sample(f"{kind} {number}", inputs))  # type: ignore[arg-type]  # ids are whole numbers
        return tuple(samples)
