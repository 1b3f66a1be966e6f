"""What is known of the recordings below a folder from their headers, kept so that a large folder is read once only.

Nothing of it depends on how recordings are analysed, so that one index serves all options.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from compressor.data_source import DataContext
from compressor.errors import DataError, RunFolderError
from compressor.run_folder import write_atomically
from compressor.working_ahead import usable_cores

SUFFIXES = (".wav", ".flac", ".ogg")

KEPT_FROM = 1000
"""Files from which an index is kept: the headers of fewer are soon read."""

AT_ONCE = 100
"""Files that a thread reads before it asks for more."""

PROBED_BYTES = 4096
"""From the middle of a file, to tell it from another of the same size."""


@dataclass(frozen=True)
class RecordingIndex:
    """The recordings below a folder: a row each, in the sorted order of their paths."""

    folder: Path
    names: Sequence[str]
    """Paths below the folder, with slashes."""
    sizes: NDArray[np.int64]
    """Bytes."""
    frames: NDArray[np.int64]
    """Samples of one channel; 0 for what is broken."""
    rates: NDArray[np.int64]
    """Samples per second; 0 for what is broken."""
    probes: Sequence[str]
    """Hash of some bytes from the middle."""
    broken: Mapping[str, str]
    """By name, why it cannot be read as audio."""


class _Stored(BaseModel):
    """The index as a file; a list each, as a hundred thousand small objects take long to read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    names: list[str] = []
    sizes: list[int] = []
    changed: list[int] = []
    """Time of the last change in nanoseconds."""
    frames: list[int] = []
    rates: list[int] = []
    probes: list[str] = []
    broken: dict[str, str] = {}

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        if (
            len({len(each) for each in (self.names, self.sizes, self.changed, self.frames, self.rates, self.probes)})
            > 1
        ):
            raise ValueError("columns of different lengths")
        return self


class _Header(NamedTuple):
    """What a file's header says, or why it is `broken`."""

    frames: int = 0
    rate: int = 0
    probe: str = ""
    broken: str = ""


def recordings_below(folder: Path, context: DataContext) -> RecordingIndex:
    """Return the index of a folder: of what changed since it was kept, headers are read; the rest is known.

    Raises:
        DataError: no such folder, or one that cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of wav, flac or ogg files; there is none of that name")
    files = sorted(_audio_files(folder, ""))
    path = context.cache_dir / f"recordings-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()}.json"
    kept = _read(path) if len(files) >= KEPT_FROM else _Stored()
    known = {row[:3]: at for at, row in enumerate(zip(kept.names, kept.sizes, kept.changed, strict=True))}
    new = [file[0] for file in files if file not in known]
    headers = dict(zip(new, _headers(folder, new, context), strict=True))

    def header(file: tuple[str, int, int]) -> _Header:
        at = known.get(file)
        if at is None:
            return headers[file[0]]
        return _Header(kept.frames[at], kept.rates[at], kept.probes[at], kept.broken.get(file[0], ""))

    rows = [header(file) for file in files]
    stored = _Stored(
        names=[name for name, _, _ in files],
        sizes=[size for _, size, _ in files],
        changed=[changed for _, _, changed in files],
        frames=[row.frames for row in rows],
        rates=[row.rate for row in rows],
        probes=[row.probe for row in rows],
        broken={file[0]: row.broken for file, row in zip(files, rows, strict=True) if row.broken},
    )
    if len(files) >= KEPT_FROM and stored != kept:
        _keep(path, stored, context)
    return RecordingIndex(
        folder,
        stored.names,
        np.array(stored.sizes, np.int64),
        np.array(stored.frames, np.int64),
        np.array(stored.rates, np.int64),
        stored.probes,
        stored.broken,
    )


def _audio_files(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Yield path below the folder, size and time of change of each file; folders behind links are not searched."""
    try:
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from _audio_files(folder, f"{name}/")
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    facts = entry.stat()
                    yield name, facts.st_size, facts.st_mtime_ns
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); mend it or move it away") from error


def _headers(folder: Path, names: Sequence[str], context: DataContext) -> Iterator[_Header]:
    if not names:
        return
    # Threads do: what takes time is the disk, or lies in a library that lets other threads run.
    with (
        context.reporter.task("reading the headers of recordings", len(names)) as task,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
        for headers in pool.map(lambda part: [_header(f"{folder}/{name}") for name in part], parts):
            yield from headers
            task.advance(len(headers))


def _header(path: str) -> _Header:
    import soundfile

    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a path object for each of many files takes long
            file.seek(max(0, os.fstat(file.fileno()).st_size // 2 - PROBED_BYTES // 2))
            probe = hashlib.sha256(file.read(PROBED_BYTES)).hexdigest()[:16]
        with soundfile.SoundFile(path) as audio:
            return _Header(int(audio.frames), int(audio.samplerate), probe)
    except soundfile.LibsndfileError as error:
        return _Header(broken=f"cannot be read as audio: {error.error_string}")
    except OSError as error:
        return _Header(broken=f"cannot be read: {error.strerror}")


def _read(path: Path) -> _Stored:
    try:
        return _Stored.model_validate_json(path.read_bytes())
    # A damaged index is as good as none: it is made anew and overwritten.
    except (OSError, ValidationError):
        return _Stored()


def _keep(path: Path, index: _Stored, context: DataContext) -> None:
    try:
        write_atomically(path, index.model_dump_json().encode())
    # No space, or a file's name that is no text.
    except (RunFolderError, ValueError) as error:
        context.reporter.say(f"the recordings' headers will be read again next time: {error.__cause__ or error}")
