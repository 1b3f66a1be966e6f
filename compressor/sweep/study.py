"""A sweep's study, kept by Optuna: in a file of SQLite, or any storage that several machines reach."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError
from compressor.progress import Reporter, SilentReporter
from compressor.sweep.definition import Sweep
from compressor.sweep.storage import patient_storage

if TYPE_CHECKING:
    import optuna

CREATED_SECONDS = 2.0
"""How long one waits who found an empty database in which another was making the tables."""


def optuna_library() -> Any:
    """Return Optuna.

    Raises:
        CompressorError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise CompressorError("a sweep needs Optuna: pip install 'onnx-student-compressor[sweep]'") from error
    # It warns of every trial that fails, which is told where it happens.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(sweep: Sweep, worker: int = 0, reporter: Reporter | None = None) -> optuna.Study:
    """Return the sweep's study, with the trials that there are; each worker draws values of its own.

    The reporter is told where the storage cannot be reached for a while.

    Raises:
        CompressorError: the storage cannot be reached, or holds a study of something else under this name.
    """
    library, shown, telling = optuna_library(), _without_password(sweep.storage), reporter or SilentReporter()

    def created() -> optuna.Study:
        study: optuna.Study = library.create_study(
            study_name=sweep.recipe.stem,
            storage=patient_storage(sweep.storage, telling.say),
            load_if_exists=True,
            directions=["maximize" if each.higher else "minimize" for each in sweep.objectives],
            # Optuna's own hold a trial's best stage against the others: see `working.Watched`.
            pruner=library.pruners.NopPruner(),
        )
        return study

    study = _created(created, shown)
    known = study.user_attrs.get("identity", None if study.trials else sweep.identity)
    if known != sweep.identity:
        raise CompressorError(
            f"{shown} holds a sweep '{sweep.recipe.stem}' of another recipe or teacher, other values or other "
            "metrics; give another --out, and another --storage where you gave one"
        )
    study.set_user_attr("identity", sweep.identity)
    # A resumed sweep goes on with other draws, rather than with the first ones again; so does each machine.
    seed = sweep.seed + len(study.trials) + 10_007 * worker
    if sweep.shared:
        seed += zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode())
    # numpy takes no larger ones.
    study.sampler = library.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=max(4, sweep.trials // 4))
    return study


def _created(create: Callable[[], optuna.Study], shown: str) -> optuna.Study:
    """Create or load a study; two that find a database empty at the same moment both make its tables, and one fails."""
    with contextlib.suppress(Exception):
        return create()
    time.sleep(CREATED_SECONDS)
    try:
        return create()
    except ValueError as error:
        # What it could not read may be part of a password.
        raise CompressorError(f"the storage {shown} cannot be used: it is no URL that SQLAlchemy reads") from error
    except Exception as error:
        raise CompressorError(f"the storage {shown} cannot be used: {error}") from error


def _without_password(storage: str) -> str:
    # Up to the last @: a password may have one of its own.
    return re.sub(r"(//[^:/@]+):.*@", r"\1:***@", storage)
