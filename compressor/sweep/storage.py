"""The storage of a sweep's study, which is asked again where it cannot be reached for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.errors import CompressorError

if TYPE_CHECKING:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import BaseStorage

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds between tries of a storage that cannot be reached."""
PATIENCE_SECONDS = sum(PAUSES)
"""After which no try follows, however long each took."""
Found = TypeVar("Found")


class StorageLostError(CompressorError):
    """A storage that could not be reached for two minutes, or that refuses what is asked."""


def patient_storage(url: str, say: Callable[[str], object]) -> BaseStorage:
    """Return Optuna's storage at an SQLAlchemy URL, each of whose methods is patient; `say` hears of outages."""
    from optuna.storages import BaseStorage, RDBStorage

    kept = RDBStorage(url, engine_kwargs=_engine(url))

    def patient(name: str) -> Callable[..., Any]:
        def method(_: BaseStorage, *arguments: Any, **named: Any) -> Any:
            return patiently(partial(getattr(kept, name), *arguments, **named), say)

        return method

    methods = {name: patient(name) for name in BaseStorage.__abstractmethods__}
    storage: BaseStorage = type("PatientStorage", (BaseStorage,), methods)()
    return storage


def _engine(url: str) -> dict[str, Any]:
    """Return how SQLAlchemy is to reach a database."""
    from sqlalchemy.pool import NullPool

    if not url.startswith("sqlite"):
        # A server may have closed a connection meanwhile.
        return {"pool_pre_ping": True}
    # A file is locked for as long as another process writes; closed after each use, for nobody says when a study ends.
    return {"connect_args": {"timeout": 30}, "poolclass": NullPool}


def patiently(action: Callable[[], Found], say: Callable[[str], object]) -> Found:
    """Do something with the storage; where it cannot be reached, again after a while.

    Raises:
        StorageLostError: it could not be reached for two minutes, or refuses for another reason.
    """
    from optuna.exceptions import StorageInternalError

    until = time.monotonic() + PATIENCE_SECONDS
    for tried, pause in enumerate((*PAUSES, None)):
        try:
            return action()
        except StorageInternalError as error:
            if pause is None or time.monotonic() > until or not _may_pass(error):
                raise StorageLostError(
                    f"the storage cannot be used any more: {error.__cause__ or error}. The same command goes on where "
                    "this one ended."
                ) from error
        if not tried:
            say("the storage cannot be reached; trying again for two minutes")
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _may_pass(error: StorageInternalError) -> bool:
    """Say whether an outage or another's lock is behind an error, rather than what was asked."""
    from sqlalchemy import exc

    return isinstance(error.__cause__, exc.OperationalError | exc.InterfaceError | exc.TimeoutError)
