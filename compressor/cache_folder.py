"""Where things are kept that are costly to make and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return the user's cache folder for this tool (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnx-student-compressor"
