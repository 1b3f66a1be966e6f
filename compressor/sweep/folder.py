"""A sweep's folder, written by one sweep at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compressor.errors import RunFolderError
from compressor.run_folder import try_lock
from compressor.sweep.definition import Sweep
from compressor.sweep.results import BEST, RESULTS

PAGE = "sweep.html"

LOCK = ".sweep.lock"
"""Stays: who removes it after use may remove it from under another's hands."""
OWN = {RESULTS, "trials", "front", BEST, PAGE}
DATABASE = "study.db"
BESIDE_A_DATABASE = ("", "-journal", "-wal", "-shm")
"""What SQLite adds to the names of files that it keeps beside a database."""


@contextmanager
def claimed(sweep: Sweep) -> Iterator[None]:
    """Hold a sweep's folder while the block lasts; a shared one several sweeps may write, each its own trials.

    Raises:
        RunFolderError: it holds something else, cannot be written, or another process writes it.
    """
    out, databases = sweep.out, {DATABASE}
    if sweep.database is not None and sweep.database.absolute().parent == out:
        databases.add(sweep.database.name)
    own = OWN | {name + ending for name in databases for ending in BESIDE_A_DATABASE}
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; expected a folder for the sweep. Choose another with --out.")
    # Names with a dot in front: what file managers leave, and files that a kill left half written.
    there = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if others := there - own:
        raise RunFolderError(
            f"{out} holds files of something else ({', '.join(sorted(others)[:3])}). Choose an empty folder with --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = None if sweep.shared else (out / LOCK).open("w")
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written: {error.strerror}. Use another with --out.") from error
    if lock is None:
        yield
        return
    with lock:
        if not try_lock(lock.fileno()):
            raise RunFolderError(f"{out} is being written by another sweep. Wait for it, or use --out.")
        yield
