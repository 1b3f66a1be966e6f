"""The `compress` command. Nothing here imports torch before a command needs it."""

from __future__ import annotations

from compressor.cli.commands import main

__all__ = ["main"]
