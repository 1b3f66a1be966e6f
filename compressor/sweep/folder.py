"""A sweep's folder, written by one sweep at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import RunFolderError
from compressor.run_folder import try_lock
from compressor.sweep.results import RESULTS

LOCK = ".sweep.lock"
"""Stays: who removes it after use may remove it from under another's hands."""
OWN = {RESULTS, "study.db", "study.db-journal", "trials", "front", "best.yaml", "sweep.html"}


@contextmanager
def claimed(out: Path, *, shared: bool) -> Iterator[None]:
    """Hold a folder while the block lasts; a shared one several sweeps may write, each its own trials.

    Raises:
        RunFolderError: it holds something else, cannot be written, or another process writes it.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; expected a folder for the sweep. Choose another with --out.")
    # Names with a dot in front: what file managers leave, and files that a kill left half written.
    there = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if others := there - OWN:
        raise RunFolderError(
            f"{out} holds files of something else ({', '.join(sorted(others)[:3])}). Choose an empty folder with --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = None if shared else (out / LOCK).open("w")
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written: {error.strerror}. Use another with --out.") from error
    if lock is None:
        yield
        return
    with lock:
        if not try_lock(lock.fileno()):
            raise RunFolderError(f"{out} is being written by another sweep. Wait for it, or use --out.")
        yield
