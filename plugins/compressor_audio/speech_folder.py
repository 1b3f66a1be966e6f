"""Speech from a folder of recordings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from compressor.data_source import DataContext
from compressor.dataset import Dataset, FloatArray, Sample
from compressor.errors import DataError
from compressor_audio.speech_samples import check_audible, read_recording, speech_sample
from compressor_audio.speech_source import SpeechSource
from compressor_audio.vocoder_inputs import VocoderInputs, vocoder_inputs
from compressor_audio.voice_change import Pitch

_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
_REASONS_SHOWN = 5

Recordings = dict[str, FloatArray]
"""Mono audio by the file's path below its folder, in sorted order."""


class SpeechFolder(SpeechSource):
    """All wav, flac and ogg files below a folder; the last ones in sorted order are kept for validation."""

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

    def load(self, context: DataContext) -> Dataset:
        """Return the recordings as samples; what was skipped and why stands in the findings.

        Raises:
            DataError: too few usable recordings, or a teacher that takes no mel.
        """
        given = vocoder_inputs(context.inputs, self.mel.n_mels)
        self.check_shifts(given)
        train, validation, findings = self._split(context)
        return self._dataset(
            tuple(self._training_samples(train, given)),
            tuple(speech_sample(name, audio, given, self.mel) for name, audio in validation.items()),
            f"recordings of {self.path.name}",
            findings,
        )

    def _split(self, context: DataContext) -> tuple[Recordings, Recordings, tuple[str, ...]]:
        recordings, findings = self._read(self.path, context)
        if self.validation_path is None:
            train, validation, more = self._hold_out(recordings)
        else:
            train = recordings
            validation, more = self._read(self.validation_path, context)
        unseen = _unseen(train, validation)
        if not unseen:
            raise DataError(f"{self.path}: every recording is also held for validation; none is left to train on")
        return unseen, validation, (*findings, *more, *_left_out(train.keys() - unseen.keys()))

    def _hold_out(self, recordings: Recordings) -> tuple[Recordings, Recordings, tuple[str, ...]]:
        if len(recordings) < 2:
            raise DataError(
                f"{self.path}: one usable recording; at least two are needed, to train on and to validate on"
            )
        wanted = self.validation_files
        kept = wanted if wanted < len(recordings) else len(recordings) // 2
        names = list(recordings)
        train, validation = ({name: recordings[name] for name in part} for part in (names[:-kept], names[-kept:]))
        fewer = f"validation_files is {wanted}, and there are {len(names)} recordings: only {kept} of them validate"
        return train, validation, (fewer,) if kept < wanted else ()

    def _read(self, folder: Path, context: DataContext) -> tuple[Recordings, tuple[str, ...]]:
        files = _audio_files(folder)
        recordings: Recordings = {}
        skipped: list[str] = []
        with context.reporter.task("reading recordings", len(files)) as task:
            for file in files:
                try:
                    recordings[file.relative_to(folder).as_posix()] = self._recording(file)
                except DataError as error:
                    skipped.append(str(error))
                task.advance()
        if not recordings:
            raise DataError(_nothing_usable(folder, len(files), skipped))
        return recordings, tuple(f"skipped {reason}" for reason in skipped)

    def _recording(self, file: Path) -> FloatArray:
        audio = read_recording(file, self.mel.sample_rate, self.max_seconds)
        check_audible(str(file), audio, self.mel.sample_rate, self.min_seconds)
        return audio

    def _training_samples(self, recordings: Recordings, given: VocoderInputs) -> Iterable[Sample]:
        for name, audio in recordings.items():
            for pitch in self.pitches:
                yield from self._training_sample(name, audio, self.mel.sample_rate, pitch, given)


def _audio_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of wav, flac or ogg files; there is none of that name")
    found = (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


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
