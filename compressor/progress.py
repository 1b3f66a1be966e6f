"""How long work tells what it is doing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol


class Task(Protocol):
    """A piece of long work with a known number of steps; a context manager."""

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Count `steps` as done; `status` is a short text such as the current losses."""

    def __enter__(self) -> Task: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reporter(Protocol):
    """Where messages and progress go: a terminal, a log, or nowhere."""

    def say(self, message: str) -> None:
        """Tell one line."""

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> Task:
        """Open a piece of work of `total` steps.

        Args:
            label: what it is called.
            total: its steps, those included that lie behind.
            done: steps that an earlier start did.
            at_most: seconds from now after which it ends, whatever is left of it.
        """


class SilentTask:
    """Shows nothing."""

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Do nothing."""

    def __enter__(self) -> SilentTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class SilentReporter:
    """The default of the Python API: nothing is printed."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        """Return a task that shows nothing."""
        return SilentTask()


class RecordingReporter:
    """Passes everything on and keeps the lines, with the time of day (UTC), for a run's log."""

    def __init__(self, inner: Reporter) -> None:
        self.inner = inner
        self.lines: list[str] = []

    def __reduce__(self) -> tuple[type[SilentReporter], tuple[()]]:
        # In another process of the same run: one of them speaks.
        return SilentReporter, ()

    def say(self, message: str) -> None:
        """Tell and keep one line."""
        self.lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {message}")
        self.inner.say(message)

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> Task:
        """Open the task where this passes on to."""
        self.lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {label}: {total} steps")
        return self.inner.task(label, total, done=done, at_most=at_most)
