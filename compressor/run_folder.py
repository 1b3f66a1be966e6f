"""The run folder: written atomically, never mixed with another run's, resumable.

Every file is written under a temporary name and renamed, so a full disk or a kill leaves no half-written artifact
that could be taken for whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from compressor.errors import RunFolderBusyError, RunFolderError

if TYPE_CHECKING:
    from torch import Tensor

STATE = "run.json"
LOCK = "run.lock"
LOOK_SECONDS = 2.0
"""How often one looks who waits for what another run is making."""
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What a system says of a lock that another process has; other errors mean that there are no locks."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Free some space or choose another folder with "
            "--out, then run the same command again: it resumes."
        ) from error


class RunFolder:
    """One run's folder, bound to the run's identity (recipe, teacher, seed, plugin versions)."""

    def __init__(self, path: Path, identity: str, *, resume: bool, beside: Path | None = None) -> None:
        """Check, without writing, that the folder is free or holds an unfinished run of the same identity.

        Runs in one folder `beside` share what training stages made of the same.

        Raises:
            RunFolderError: the folder holds something else, a finished run, or a run in progress.
        """
        self.path = path
        self.identity = identity
        self.resume = resume
        self.beside = beside
        self.resuming = self._check()

    def _check(self) -> bool:
        """Refuse a folder that is not this run's; say whether it holds an earlier part of it."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; expected a folder for the run. Choose another with --out.")
        state = self._state()
        # Names with a dot in front: what file managers leave, and a first file that a kill left half written.
        files = [file for file in self.path.iterdir() if file.name[0] != "."] if self.path.is_dir() else []
        if state is None and {file.name for file in files} - {LOCK}:
            raise RunFolderError(
                f"{self.path} holds files that are no run of this tool. Choose an empty folder with --out."
            )
        if state is not None and state.get("identity") != self.identity:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe, teacher or seed. Choose another folder with --out, or "
                "delete this one."
            )
        if state is not None and state.get("finished") and not self.resume:
            raise RunFolderError(
                f"{self.path} holds this very run, finished. Look at {self.path / 'report.html'}; choose another "
                "folder with --out to run it again, or pass --resume to make the student and its report anew from "
                "the trained weights."
            )
        return state is not None

    def _state(self) -> dict[str, object] | None:
        try:
            state = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.path / STATE} is damaged: {error}. Choose another folder with --out."
            ) from error
        return state if isinstance(state, dict) else {}

    def __enter__(self) -> RunFolder:
        """Claim the folder for this process, and look again: another may have finished there in the meantime."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = _locked(self.path / LOCK)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}. Use another with --out.") from error
        if lock is None:
            raise RunFolderBusyError(f"{self.path} is being written by another process. Wait for it, or use --out.")
        self._lock = lock
        try:
            self._check()
            self._write_state(finished=False)
        except RunFolderError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # While it is held: who opened it before sees that it is gone, see `_locked`.
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink()
        self._lock.close()

    def finish(self) -> None:
        """Mark the run as whole; to be called last."""
        self._write_state(finished=True)

    def _write_state(self, *, finished: bool) -> None:
        state = {"identity": self.identity, "finished": finished}
        self.write(STATE, json.dumps(state, indent=2).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the run, whole or not at all."""
        write_atomically(self.path / name, content)

    def read(self, name: str) -> bytes | None:
        """Return one file of the run, or None where there is none."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def save_weights(self, label: str, fingerprint: str, weights: Mapping[str, Tensor]) -> None:
        """Keep what a training stage made, under the fingerprint of all that led to it."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        self.write(f"stages/{label}.safetensors", save(tensors, {"fingerprint": fingerprint}))

    def saved_weights(self, label: str, fingerprint: str) -> dict[str, Tensor] | None:
        """Return what a training stage made if the same things led to it; None otherwise."""
        return _saved_weights(self.path / "stages" / f"{label}.safetensors", fingerprint)

    def trained(self, label: str, fingerprint: str) -> tuple[dict[str, Tensor], bytes] | None:
        """Return what a training stage made, here or in a run beside this one, and what was noted of it."""
        runs = sorted(self.beside.iterdir()) if self.beside is not None and self.beside.is_dir() else []
        for stages in (run / "stages" for run in (self.path, *runs)):
            weights = _saved_weights(stages / f"{label}.safetensors", fingerprint)
            with contextlib.suppress(FileNotFoundError):
                if weights is not None:
                    return weights, (stages / f"{label}.json").read_bytes()
        return None

    @contextmanager
    def alone_with(self, fingerprint: str, say: Callable[[str], object]) -> Iterator[None]:
        """Keep runs beside this one from making the same meanwhile; they wait, and take what was made."""
        if self.beside is None:
            yield
            return
        with (self.beside / f".{fingerprint[:16]}.lock").open("w") as lock:
            told = False
            while not try_lock(lock.fileno()):
                if not told:
                    say("waiting for another run, which is making the same")
                told = True
                time.sleep(LOOK_SECONDS)
            yield


def _saved_weights(path: Path, fingerprint: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError):
        return None


def is_busy(path: Path) -> bool:
    """Say whether another process writes a run into a folder at this moment."""
    try:
        # To be written: where locks go over a network, one that excludes others needs that.
        with (path / LOCK).open("r+") as lock:
            return not try_lock(lock.fileno())
    except OSError:
        return False


def _locked(path: Path) -> TextIO | None:
    """Return a file that this process has locked; None where another one holds it."""
    while True:
        lock = path.open("w")
        if not try_lock(lock.fileno()):
            lock.close()
            return None
        # It may have been removed by its holder after it was opened here, and another be there now.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()


def try_lock(descriptor: int) -> bool:
    """Lock a file for this process; False where another one holds it.

    Where there are no locks (Windows, some file systems of a network) two runs into one folder are the user's to avoid.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD
    return True
