"""Tensors on disk that can be computed again: bounded, shared by processes, and never trusted when damaged."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

SUFFIX = ".safetensors"

PARTS = 16
"""Of what may be kept. A folder that is full but for less than one part is emptied to two parts below the bound, so
that it need not be looked at again for every file."""

WRITTEN = ".written"
"""File that has a byte for every unit that any process has written: its length tells a process in one call how much
others may have added since it looked at the folder."""

UNIT = 1 << 16
"""Bytes; what is less counts as one."""

ABANDONED_SECONDS = 3600.0
"""Age at which an unfinished file is that of a process that died."""

UNFINISHED = float("inf")
"""Time of last use of a file that is still being written."""


class StoredTensors:
    """Tensors of one file, of which parts can be read by themselves."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.names = frozenset(file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def part(self, name: str, axis: int, start: int, size: int) -> Tensor:
        """Return `size` places from `start` along an axis, and of the others all."""
        before = (slice(None),) * (axis % len(self.shape(name)))
        tensor: Tensor = self._file.get_slice(name)[(*before, slice(start, start + size))]
        return tensor

    def whole(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


class SignalCache:
    """A folder of safetensors files of at most so many bytes; those not used for longest go first.

    Files are written to a temporary name and renamed, and those of other processes that go missing are missing only.
    However many processes write, the bound holds: each first takes the room that its file needs, then tells that it
    has, then sees whether what all took is too much. So of any that write at once the last one sees them all.
    """

    def __init__(self, folder: Path, most_bytes: float) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.failure = ""
        """Why the last file could not be written."""
        self._checked: set[str] = set()
        self._found = float("inf")
        """Bytes in the folder when it was last looked at."""
        self._found_at = 0
        """Units that all had told of by then."""
        self._told = 0
        """Units that all had told of when this process last did."""

    def has(self, key: str) -> bool:
        """Say whether there is a file; it may be damaged, or gone when it is opened."""
        return self._path(key).exists()

    @contextmanager
    def open(self, key: str) -> Iterator[StoredTensors | None]:
        """Give access to the tensors of a key; to None where there are none, or damaged ones."""
        path = self._path(key)
        try:
            file = safe_open(path, "pt")
        except (OSError, SafetensorError, RuntimeError):
            # The last is torch's, which opens the file once more: it may have had to go in between.
            yield None
            return
        with file as opened:
            stored = StoredTensors(opened)
            if not self._intact(key, stored, opened.metadata() or {}):
                path.unlink(missing_ok=True)
                yield None
                return
            with contextlib.suppress(OSError):
                os.utime(path)
            yield stored

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors if there is room; that there is none, or that a disk is full, loses time only."""
        held = {name: value.contiguous() for name, value in tensors.items()}
        content = save(held, {"checksum": _checksum(held)})
        if len(content) > self.most_bytes:
            self.failure = (
                f"{len(content) / 1e6:.0f} MB are more than the {self.most_bytes / 1e6:.0f} MB that may be kept"
            )
            return
        temporary = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=SUFFIX)
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(len(content))
                self._make_room(len(content))
                file.write(content)
            Path(temporary).replace(self._path(key))
        except OSError as error:
            self.failure = str(error)
            if temporary:
                Path(temporary).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _intact(self, key: str, stored: StoredTensors, metadata: Mapping[str, str]) -> bool:
        """Compare with what was written, the first time that this process reads it."""
        if key not in self._checked:
            if metadata.get("checksum") != _checksum({name: stored.whole(name) for name in stored.names}):
                return False
            self._checked.add(key)
        return True

    def _make_room(self, size: int) -> None:
        """Delete files if there may be too much; one of this size has taken its room already.

        Raises:
            OSError: what others are writing leaves no room.
        """
        before, self._told = self._told, self._tell(size)
        since = (self._told - self._found_at) * UNIT
        # It only grows, but where somebody cleared the folder.
        if self._told > before and self._found + since <= self.most_bytes:
            return
        files = sorted(self._files())
        kept = sum(held for _, held, _ in files)
        wanted = self.most_bytes * (PARTS - 2) / PARTS if kept > self.most_bytes * (PARTS - 1) / PARTS else kept
        for used, held, path in files:
            if kept <= wanted or used == UNFINISHED:
                break
            # Where a file that another process reads cannot be deleted, another one is.
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
                kept -= held
        self._found, self._found_at = kept, self._told
        if kept > self.most_bytes:
            raise OSError(f"other processes are writing all of the {self.most_bytes / 1e6:.0f} MB that may be kept")

    def _tell(self, size: int) -> int:
        """Tell the other processes of so many bytes; returns the units that all have told of."""
        with (self.folder / WRITTEN).open("ab") as file:
            file.write(bytes(-(-size // UNIT)))
            file.flush()
            return os.fstat(file.fileno()).st_size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and path; unfinished files of the dead are deleted."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX):
                    continue
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    continue
                unfinished = entry.name.startswith(".")
                if unfinished and facts.st_mtime < time.time() - ABANDONED_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
                else:
                    yield UNFINISHED if unfinished else facts.st_mtime, facts.st_size, Path(entry.path)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)  # type: ignore[arg-type]
    return f"{value:08x}"
