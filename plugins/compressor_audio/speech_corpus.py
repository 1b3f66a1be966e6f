"""Speech that is too much for memory: what is known of it beforehand, and a sample made when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.dataset import FloatArray, Sample
from compressor.errors import DataError
from compressor_audio.recording_index import RecordingIndex
from compressor_audio.vocoder_inputs import VocoderInputs

if TYPE_CHECKING:
    from compressor_audio.speech_folder import SpeechFolder


@dataclass(frozen=True)
class SpeechCorpus:
    """The samples of recordings that train: of each recording, one for each pitch and each shift of f0, in this order.

    What validates is left out by its content when a sample is made, as that takes reading it.
    """

    source: SpeechFolder
    index: RecordingIndex
    rows: NDArray[np.int64]
    """Of the index, those that train."""
    given: VocoderInputs
    held_out: Mapping[tuple[int, int], frozenset[str]]
    """Hashes of the audio that validates, by sample rate and length of the file."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of the mels."""
        mel = self.source.mel
        heard = self.source.heard_frames(self.index)[self.rows]
        samples = np.floor(heard * mel.sample_rate / self.index.rates[self.rows] + 0.5)
        plain = samples // mel.hop_length
        by_pitch = [
            plain if pitch == 1.0 else np.minimum(plain, samples / pitch // round(mel.hop_length / pitch))
            for pitch in self.source.pitches
        ]
        return np.repeat(np.stack(by_pitch, 1), len(self.source.f0_shifts), 1).reshape(-1).astype(np.int64)

    def maker(self, index: int) -> Callable[[], Sample]:
        """Return what makes a sample; it names the file and carries nothing of the index."""
        row, variant = self._place(index)
        name = self.index.names[row]
        held_out = self.held_out.get(self._length(row))
        return partial(_made, self.source, self.index.folder / name, name, variant, self.given, held_out)

    def key(self, index: int) -> str:
        """Return a hash of the file as far as the index tells it, and of what is made of it.

        And of what validates and may be the same recording, so that what was made while it trained is not found again.
        """
        row, variant = self._place(index)
        held_out = " ".join(sorted(self.held_out.get(self._length(row), ())))
        return hashlib.sha256(self._facts(row) + f"{variant} {self._made_of_it}{held_out}".encode()).hexdigest()

    def identity_with(self, validation: str) -> str:
        """Hash all files as far as the index tells them, what is made of them, and what validates.

        Times of change play no part: copies of a corpus are one.
        """
        digest = hashlib.sha256(f"{self._made_of_it} {validation}".encode())
        for row in self.rows:
            digest.update(self._facts(int(row)))
        return digest.hexdigest()

    @cached_property
    def _made_of_it(self) -> str:
        return self.source.model_dump_json(
            include={"mel", "min_seconds", "max_seconds", "pitches", "f0_shifts", "random_f0_shift"}
        )

    def _facts(self, row: int) -> bytes:
        index = self.index
        facts = index.names[row], int(index.sizes[row]), int(index.frames[row]), int(index.rates[row])
        return repr((*facts, index.probes[row])).encode()

    def _length(self, row: int) -> tuple[int, int]:
        """Return sample rate and length of a recording, as `held_out` has them."""
        return int(self.index.rates[row]), int(self.index.frames[row])

    def _place(self, index: int) -> tuple[int, int]:
        """Return the row of the index, and which of the recording's samples it is."""
        at, variant = divmod(index, self.source.variants)
        return int(self.rows[at]), variant


def _made(
    source: SpeechFolder, path: Path, name: str, variant: int, given: VocoderInputs, held_out: frozenset[str] | None
) -> Sample:
    audio = source.recording(path)
    if held_out and _audio_hash(audio) in held_out:
        raise DataError(f"{name}: validation holds the same recording")
    return source.training_sample(name, audio, variant, given)


def hashes_by_length(
    recordings: Mapping[str, FloatArray], index: RecordingIndex
) -> Mapping[tuple[int, int], frozenset[str]]:
    """Return hashes of recordings' audio, by their sample rate and length: only files of the same need be compared."""
    row = {name: at for at, name in enumerate(index.names) if name in recordings}
    found: dict[tuple[int, int], frozenset[str]] = {}
    for name, audio in recordings.items():
        length = int(index.rates[row[name]]), int(index.frames[row[name]])
        found[length] = found.get(length, frozenset()) | {_audio_hash(audio)}
    return found


def _audio_hash(audio: FloatArray) -> str:
    return hashlib.sha256(audio.tobytes()).hexdigest()
