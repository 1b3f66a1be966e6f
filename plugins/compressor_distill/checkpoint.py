"""A training's state on disk: whole or not at all, and read without running anything it holds.

A file is the SHA-256 of what follows, then what `torch.save` writes; it is read with `weights_only=True`. The file
before the last is kept, for a disk may damage one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.run_folder import write_atomically

_DIGEST_SIZE = hashlib.sha256().digest_size


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; the checkpoint that was there goes to `previous(path)`.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    if path.exists():
        path.replace(previous(path))
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the newest checkpoint of the same training that is whole, or None where there is none."""
    return next((state for each in (path, previous(path)) if (state := _load(each, identity)) is not None), None)


def previous(path: Path) -> Path:
    """Return where the checkpoint before the last is."""
    return path.with_stem(f"{path.stem}.previous")


def _load(path: Path, identity: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST_SIZE:]).digest() != content[:_DIGEST_SIZE]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST_SIZE:]), map_location="cpu", weights_only=True)
    return state if state.get("identity") == identity else None
