"""Results that other processes make before they are asked for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from typing import Generic, TypeVar

from compressor.progress import Reporter

Result = TypeVar("Result")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class WorkingAhead(Generic[Result]):
    """Results by number, made in processes of their own; what they are depends on their makers alone.

    Processes are started (`spawn`) when something is first expected, and end with this object or with this process.
    """

    def __init__(self, workers: int, reporter: Reporter) -> None:
        self.workers = workers
        self._reporter = reporter
        self._pool: ProcessPoolExecutor | None = None
        self._coming: dict[int, Future[Result]] = {}

    def __reduce__(self) -> tuple[type[WorkingAhead[Result]], tuple[int, Reporter]]:
        # In another process of the same run: with processes of its own.
        return WorkingAhead, (self.workers, self._reporter)

    def expect(self, makers: Mapping[int, Callable[[], Result]]) -> None:
        """Have these made; what was expected before and is not among them is forgotten."""
        for number in self._coming.keys() - makers.keys():
            self._coming.pop(number).cancel()
        if not self.workers:
            return
        pool = self._running()
        for number, make in makers.items():
            if number not in self._coming:
                try:
                    self._coming[number] = pool.submit(make)
                except BrokenProcessPool:
                    self._do_without()
                    return

    def take(self, number: int) -> Result | None:
        """Return what was expected, waiting for it; None if it was not, or if the processes died.

        Raises what its maker raises.
        """
        future = self._coming.get(number)
        if future is None:
            return None
        try:
            return future.result()
        except BrokenProcessPool:
            self._do_without()
            return None

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_prepare)
            # Not `weakref.finalize`: a process that is itself a worker waits for its children before it runs that.
            Finalize(self, self._pool.shutdown, kwargs={"wait": True, "cancel_futures": True}, exitpriority=100)
        return self._pool

    def _do_without(self) -> None:
        if self.workers:
            self._reporter.say("a process that prepares training data died: they are prepared here instead, slower")
        self.workers = 0
        self._coming.clear()


def _prepare() -> None:
    """Leave Ctrl-C to the parent, end when it does, and take one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
