"""Speech from a folder of recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compressor.data_source import DataContext
from compressor.dataset import Dataset, FloatArray, Sample
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.lazy_source import LazySource
from compressor_audio.recording_index import RecordingIndex, recordings_below
from compressor_audio.speech_corpus import SpeechCorpus, hashes_by_length
from compressor_audio.speech_samples import check_audible, content_hash, read_recording, speech_sample
from compressor_audio.speech_source import SpeechSource
from compressor_audio.vocoder_description import check_described
from compressor_audio.vocoder_inputs import VocoderInputs, vocoder_inputs
from compressor_audio.voice_change import Pitch

_REASONS_SHOWN = 5

Recordings = dict[str, FloatArray]
"""Mono audio by the file's path below its folder, in sorted order."""


class SpeechFolder(LazySource, SpeechSource):
    """All wav, flac and ogg files below a folder; the last ones in sorted order are kept for validation.

    A corpus that is too large for memory is read as training asks for it. Then only headers are looked at beforehand,
    once, in an index in the cache folder: what is silent or damaged is found on the way, and another takes its place.
    """

    name: ClassVar[str] = "speech-folder"

    path: Path = Field(description="folder of recordings, searched with its subfolders")
    validation_files: int = Field(default=6, ge=1, description="how many files, the last in sorted order, validate")
    validation_path: Path | None = Field(
        default=None, description="another folder to validate on; all files of `path` then train"
    )
    pitches: tuple[Pitch, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="each training recording is also used this many times as high, as if another voice spoke it",
    )

    @property
    def highest_pitch(self) -> float:
        return max(1.0, *self.pitches)

    @property
    def variants(self) -> int:
        """Training samples made of each recording."""
        return len(self.pitches) * len(self.f0_shifts)

    def load(self, context: DataContext) -> Dataset:
        """Return the recordings as samples; what was skipped and why stands in the findings.

        Raises:
            DataError: too few usable recordings, a teacher that takes no mel, or one described as taking another mel.
        """
        check_described(context.teacher, self.mel)
        given = vocoder_inputs(context.inputs, self.mel.n_mels)
        self.check_shifts(given)
        index = recordings_below(self.path, context)
        if not self.holds(self._bytes(index)):
            return self._lazily(index, given, context)
        train, validation, findings = self._split(index, context)
        return self._dataset(
            tuple(self._training_samples(train, given)),
            self._validating(validation, given),
            f"recordings of {self.path.name}",
            findings,
        )

    def _bytes(self, index: RecordingIndex) -> float:
        """Return the memory that all training samples take, about: mel and recording."""
        seconds = (self.heard_frames(index) / np.maximum(index.rates, 1)).sum()
        a_second = self.mel.sample_rate * (1 + self.mel.n_mels / self.mel.hop_length)
        return float(4 * a_second * seconds * self.variants)

    def heard_frames(self, index: RecordingIndex) -> NDArray[np.int64]:
        """Return the samples of each recording that are used, at its own rate."""
        heard: NDArray[np.int64] = np.minimum(index.frames, np.rint(self.max_seconds * index.rates).astype(np.int64))
        return heard

    def _validating(self, recordings: Recordings, given: VocoderInputs) -> tuple[Sample, ...]:
        return tuple(speech_sample(name, audio, given, self.mel) for name, audio in recordings.items())

    def _split(self, index: RecordingIndex, context: DataContext) -> tuple[Recordings, Recordings, tuple[str, ...]]:
        recordings, findings = self._read(index, context)
        if self.validation_path is None:
            train, validation, more = self._hold_out(recordings)
        else:
            train = recordings
            validation, more = self._read(recordings_below(self.validation_path, context), context)
        unseen = _unseen(train, validation)
        if not unseen:
            raise DataError(f"{self.path}: every recording is also held for validation; none is left to train on")
        return unseen, validation, (*findings, *more, *_left_out(train.keys() - unseen.keys()))

    def _lazily(self, index: RecordingIndex, given: VocoderInputs, context: DataContext) -> Dataset:
        rows, findings = self._usable(index)
        if self.validation_path is None:
            rows, validation, more = self._hold_out_last(index, rows)
            held_out = hashes_by_length(validation, index)
        else:
            other = recordings_below(self.validation_path, context)
            validation, more = self._read(other, context)
            held_out = hashes_by_length(validation, other)
        samples = self._validating(validation, given)
        corpus = SpeechCorpus(self, index, rows, given, held_out)
        train = self._in_words(len(corpus.lengths), float(corpus.lengths.sum()))
        return Dataset(
            train=LazySamples(corpus, context.reporter, self.helpers),
            validation=samples,
            identity=corpus.identity_with(content_hash(samples)),
            description=f"recordings of {self.path.name}: {train} to train on, read as they are needed, "
            f"{self._amount(samples)} to validate on",
            sample_rate=self.mel.sample_rate,
            findings=(*_counted(findings), *_counted(more)),
        )

    def _usable(self, index: RecordingIndex) -> tuple[NDArray[np.int64], list[str]]:
        """Return the rows that are long enough by their headers, and why the others are not used."""
        rate = self.mel.sample_rate
        seconds = np.floor(self.heard_frames(index) * rate / np.maximum(index.rates, 1) + 0.5) / rate
        broken = np.array([name in index.broken for name in index.names], bool)
        reasons = [f"skipped {index.folder / name}: {reason}" for name, reason in index.broken.items()]
        short = np.flatnonzero((seconds < self.min_seconds) & ~broken).tolist()
        reasons += [
            f"skipped {index.folder / index.names[row]}: {seconds[row]:.2f} s long; "
            f"at least {self.min_seconds:g} s are needed"
            for row in short
        ]
        rows = np.flatnonzero((seconds >= self.min_seconds) & ~broken)
        return rows, reasons

    def _hold_out_last(
        self, index: RecordingIndex, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Recordings, tuple[str, ...]]:
        """Return the rows that train, the last recordings that can be used, and why others are not."""
        kept, findings = self._held_out(len(rows))
        found: Recordings = {}
        while len(found) < kept and len(rows) > 1:
            row, rows = rows[-1], rows[:-1]
            try:
                found[index.names[row]] = self.recording(index.folder / index.names[row])
            except DataError as error:
                findings = (*findings, f"skipped {error}")
        if not found:
            raise DataError(_nothing_usable(index.folder, len(index.names), list(findings)))
        return rows, dict(reversed(found.items())), findings

    def _hold_out(self, recordings: Recordings) -> tuple[Recordings, Recordings, tuple[str, ...]]:
        kept, findings = self._held_out(len(recordings))
        names = list(recordings)
        train, validation = ({name: recordings[name] for name in part} for part in (names[:-kept], names[-kept:]))
        return train, validation, findings

    def _held_out(self, usable: int) -> tuple[int, tuple[str, ...]]:
        """Return how many recordings validate, and what there is to say of it."""
        if usable < 2:
            raise DataError(
                f"{self.path}: one usable recording; at least two are needed, to train on and to validate on"
            )
        wanted = self.validation_files
        if wanted < usable:
            return wanted, ()
        kept = usable // 2
        return kept, (f"validation_files is {wanted}, and there are {usable} recordings: only {kept} of them validate",)

    def _read(self, index: RecordingIndex, context: DataContext) -> tuple[Recordings, tuple[str, ...]]:
        recordings: Recordings = {}
        skipped: list[str] = []
        with context.reporter.task("reading recordings", len(index.names)) as task:
            for name in index.names:
                try:
                    recordings[name] = self.recording(index.folder / name)
                except DataError as error:
                    skipped.append(str(error))
                task.advance()
        if not recordings:
            raise DataError(_nothing_usable(index.folder, len(index.names), skipped))
        return recordings, tuple(f"skipped {reason}" for reason in skipped)

    def recording(self, file: Path) -> FloatArray:
        """Return a file's audio (samples,).

        Raises:
            DataError: broken, too short or silent.
        """
        audio = read_recording(file, self.mel.sample_rate, self.max_seconds)
        check_audible(str(file), audio, self.mel.sample_rate, self.min_seconds)
        return audio

    def training_sample(self, name: str, audio: FloatArray, variant: int, given: VocoderInputs) -> Sample:
        """Return one of the samples that are made of a recording: all shifts of the first pitch come first."""
        pitch, shift = divmod(variant, len(self.f0_shifts))
        made = self._training_sample(name, audio, self.mel.sample_rate, self.pitches[pitch], given)
        return next(islice(made, shift, None))

    def _training_samples(self, recordings: Recordings, given: VocoderInputs) -> Iterable[Sample]:
        for name, audio in recordings.items():
            for pitch in self.pitches:
                yield from self._training_sample(name, audio, self.mel.sample_rate, pitch, given)


def _nothing_usable(folder: Path, looked_at: int, reasons: list[str]) -> str:
    shown = [f"\n  {reason}" for reason in reasons[:_REASONS_SHOWN]]
    rest = [f"\n  and {len(reasons) - _REASONS_SHOWN} more"] if len(reasons) > _REASONS_SHOWN else []
    return "".join([f"{folder}: no usable speech in {looked_at} wav, flac or ogg files", *shown, *rest])


def _unseen(train: Recordings, validation: Recordings) -> Recordings:
    """Return what of `train` validation does not hold under another name."""
    held_out = {audio.tobytes() for audio in validation.values()}
    return {name: audio for name, audio in train.items() if audio.tobytes() not in held_out}


def _left_out(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"not trained on {name}: validation holds the same recording" for name in sorted(names))


def _counted(findings: Sequence[str]) -> tuple[str, ...]:
    """Return the first of many findings, and how many more there are."""
    more = len(findings) - _REASONS_SHOWN
    return (*findings[:_REASONS_SHOWN], *([f"and {more} more like these"] if more > 0 else []))
