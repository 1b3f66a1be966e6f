"""The `compress` command. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from compressor.cli import looking, making
from compressor.cli.group import main

__all__ = ["looking", "main", "making"]
