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
from safetensors.torch import save_file
from torch import Tensor

SUFFIX = ".safetensors"

PARTS = 16
"""The folder is looked at again whenever this process has written one part of so many of what may be kept, and emptied
to two parts below the bound: that holds it for two processes at once."""

ABANDONED_SECONDS = 3600.0
"""Age at which an unfinished file is that of a process that died."""


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
    """

    def __init__(self, folder: Path, most_bytes: float) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.failure = ""
        """Why the last file could not be written."""
        self._checked: set[str] = set()
        self._written = float("inf")

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
        size = sum(value.nbytes for value in tensors.values())
        if size > self.most_bytes:
            self.failure = f"{size / 1e6:.0f} MB are more than the {self.most_bytes / 1e6:.0f} MB that may be kept"
            return
        held = {name: value.contiguous() for name, value in tensors.items()}
        temporary = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=SUFFIX)
            os.close(descriptor)
            save_file(held, temporary, {"checksum": _checksum(held)})
            Path(temporary).replace(self._path(key))
        except (OSError, SafetensorError) as error:
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
        self._written += size
        if self._written < self.most_bytes / PARTS:
            return
        self._written = 0.0
        files = sorted(self._files())
        excess = sum(each[1] for each in files) + size - self.most_bytes * (PARTS - 2) / PARTS
        for _, held, path in files:
            if excess <= 0:
                break
            # Where a file that another process reads cannot be deleted, another one is.
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
                excess -= held

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
                if not entry.name.startswith("."):
                    yield facts.st_mtime, facts.st_size, Path(entry.path)
                elif facts.st_mtime < time.time() - ABANDONED_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)  # type: ignore[arg-type]
    return f"{value:08x}"
