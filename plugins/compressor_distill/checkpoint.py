"""A training's state on disk: whole or not at all, and read without running anything it holds."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from compressor.run_folder import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the file before it is kept until this one is whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return a checkpoint of the same training, or None where there is none or it is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None
