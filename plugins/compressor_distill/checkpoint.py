"""A training's state on disk: whole or not at all, and read without running anything it holds.

A file is the SHA-256 of what follows, then what `torch.save` writes; it is read with `weights_only=True`. The file
before the last is kept, for a disk may damage one.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.run_folder import write_atomically

_DIGEST_SIZE = hashlib.sha256().digest_size


class Due:
    """Says when a checkpoint is due: so many seconds or steps after the last, whichever comes first."""

    def __init__(self, seconds: float, steps: int | None, step: int) -> None:
        self.seconds = seconds
        self.steps = math.inf if steps is None else steps
        self.saved = time.monotonic(), step

    def now(self, step: int) -> bool:
        """Say whether it is after this step; then it counts as made."""
        at, before = self.saved
        due = time.monotonic() - at >= self.seconds or step - before >= self.steps
        if due:
            self.saved = time.monotonic(), step
        return due


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; the checkpoint that was there goes to `previous(path)`.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    # First it is there, then the others move: whenever this ends, a whole one is left.
    write_atomically(_newest(path), hashlib.sha256(content).digest() + content)
    if path.exists():
        path.replace(previous(path))
    _newest(path).replace(path)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the newest checkpoint of the same training that is whole, or None where there is none."""
    found = (_load(each, identity) for each in (_newest(path), path, previous(path)))
    return next((state for state in found if state is not None), None)


def previous(path: Path) -> Path:
    """Return where the checkpoint before the last is."""
    return path.with_stem(f"{path.stem}.previous")


def _newest(path: Path) -> Path:
    """Return where a checkpoint is between being written and taking its place."""
    return path.with_stem(f"{path.stem}.new")


def _load(path: Path, identity: str) -> dict[str, Any] | None:
    try:
        content = path.read_bytes()
    except OSError:  # It is not there, or the disk cannot read it.
        return None
    if hashlib.sha256(content[_DIGEST_SIZE:]).digest() != content[:_DIGEST_SIZE]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST_SIZE:]), map_location="cpu", weights_only=True)
    return state if state.get("identity") == identity else None
