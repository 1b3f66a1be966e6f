"""A piece of work in a process of its own: its peak memory is then its own, and what it leaves behind is gone."""

from __future__ import annotations

import multiprocessing
import pickle
import resource
from collections.abc import Callable
from typing import Any


class ProcessDiedError(Exception):
    """The process ended without a result, such as one killed for its memory."""


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns for picklable arguments.

    Raises:
        ProcessDiedError: it returned nothing.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    # Pickled here: multiprocessing would share tensors' memory, which goes with the process that has it.
    process = context.Process(target=_send, args=(sender, pickle.dumps((work, arguments))))
    process.start()
    sender.close()
    try:
        return pickle.loads(receiver.recv_bytes())  # noqa: S301 - from our own process
    except EOFError as error:
        raise ProcessDiedError(f"exit code {process.exitcode}") from error
    finally:
        process.join()


def _send(sender: Any, call: bytes) -> None:
    work, arguments = pickle.loads(call)  # noqa: S301 - from our own process
    sender.send_bytes(pickle.dumps(work(*arguments)))


def peak_gigabytes() -> float:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
