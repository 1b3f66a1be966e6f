"""What a run says while it works: bars on a terminal, plain lines in a log; and tables."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from compressor.figures import NOTHING, duration_in_words, in_words

if TYPE_CHECKING:
    # rich takes a noticeable part of a second to import, which `compress --help` should not wait for.
    from rich.console import Console
    from rich.progress import Progress

LOG_INTERVAL_SECONDS = 10.0
_QUANTITY = re.compile(r"([-+]?\d[\d.,]*(e[-+]?\d+)?( ?[^\W\d]{1,5}|[%\xd7])? ?)+|-?inf|nan")


class ConsoleReporter:
    """A `compressor.progress.Reporter` that writes to `stream`, by default standard error."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        # Not rich's own judgement: FORCE_COLOR, which CI services set, makes it take a log for a terminal.
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bars = _Bars(self._stream) if terminal else None

    def say(self, message: str) -> None:
        """Print one line; above the bars where there are some."""
        if self._bars:
            self._bars.say(message)
        else:
            self._stream.write(f"{message}\n")
            self._stream.flush()

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> BarTask | LogTask:
        """Return a piece of work of `total` steps, shown from `with` on until its end."""
        pace = Pace(total, self._clock, done, at_most)
        return BarTask(self._bars, label, pace) if self._bars else LogTask(self.say, label, pace)


class Pace:
    """How far a piece of work has come, and how fast."""

    def __init__(self, total: int, clock: Callable[[], float], done: int = 0, at_most: float = math.inf) -> None:
        self.total = total
        self.done = self._before = done
        self._at_most = at_most
        self.status = ""
        self._clock = clock
        self._started = clock()

    def advance(self, steps: int, status: str) -> None:
        """Count `steps` as done; an empty `status` leaves the last one standing."""
        self.done += steps
        self.status = status or self.status

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._started

    def progress(self) -> str:
        """Return `120/500, 4.2 steps/s, 1 min 30 s left, loss 0.21`, as far as known."""
        return _joined(f"{self.done}/{self.total}", *self._speed(), self.status)

    def conclusion(self, error: BaseException | None) -> str:
        """Return the last word: done, or where it stopped."""
        after = duration_in_words(self.seconds)
        if error is not None:
            return _joined(f"stopped at {self.done}/{self.total} after {after}", self.status)
        return _joined(f"{self.done}/{self.total} done in {after}", self.status)

    def _speed(self) -> list[str]:
        own = self.done - self._before
        if not own or self.seconds <= 0:
            return []
        rate = own / self.seconds
        left = max(min((self.total - self.done) / rate, self._at_most - self.seconds), 0)
        return [f"{in_words(rate)} steps/s", f"{duration_in_words(round(left))} left"]


class LogTask:
    """Progress as plain lines: the first, one every ten seconds at most, and the last."""

    def __init__(self, say: Callable[[str], None], label: str, pace: Pace) -> None:
        self._say = say
        self._label = label
        self._pace = pace
        self._told = 0.0

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Count `steps`, and print a line if the last one is ten seconds old."""
        self._pace.advance(steps, status)
        if self._pace.seconds - self._told >= LOG_INTERVAL_SECONDS:
            self._tell(self._pace.progress())

    def __enter__(self) -> LogTask:
        self._tell(self._pace.progress())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print the last line."""
        self._tell(self._pace.conclusion(error))

    def _tell(self, text: str) -> None:
        self._told = self._pace.seconds
        self._say(f"{self._label}: {text}")


class BarTask:
    """Progress as a bar that leaves one line behind."""

    def __init__(self, bars: _Bars, label: str, pace: Pace) -> None:
        self._bars = bars
        self._label = label
        self._pace = pace
        self._bar: int | None = None

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Count `steps` and move the bar."""
        self._pace.advance(steps, status)
        if self._bar is not None:
            self._bars.move(self._bar, self._pace)

    def __enter__(self) -> BarTask:
        self._bar = self._bars.open(self._label, self._pace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Replace the bar by its last line."""
        if self._bar is not None:
            self._bars.close(self._bar)
        self._bars.say(f"{self._label}: {self._pace.conclusion(error)}")


class _Bars:
    """The bars of one terminal: one display for all, since rich shows no two at once."""

    def __init__(self, stream: TextIO) -> None:
        self._console, self._progress = _display(stream)

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def open(self, label: str, pace: Pace) -> int:
        self._progress.start()
        return self._progress.add_task(label, total=pace.total, completed=pace.done, text=pace.progress())

    def move(self, bar: int, pace: Pace) -> None:
        from rich.progress import TaskID

        self._progress.update(TaskID(bar), completed=pace.done, text=pace.progress())

    def close(self, bar: int) -> None:
        from rich.progress import TaskID

        self._progress.remove_task(TaskID(bar))
        if not self._progress.task_ids:
            self._progress.stop()


def _display(stream: TextIO) -> tuple[Console, Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=stream)
    label = TextColumn("{task.description}", markup=False)
    text = TextColumn("{task.fields[text]}", markup=False)
    return console, Progress(label, BarColumn(bar_width=24), text, console=console, transient=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table to standard output: a column of numbers to the right, any other to the left.

    Raises:
        ValueError: a row has more or fewer cells than there are headers.
    """
    columns = [_aligned(header, cells) for header, cells in zip(headers, _columns(headers, rows), strict=True)]
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    sys.stdout.write("\n".join(lines) + "\n")


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a table of {len(headers)} columns got a row of {len(row)} cells: {list(row)}")
    return [[row[index] for row in rows] for index in range(len(headers))]


def _aligned(header: str, cells: Sequence[str]) -> list[str]:
    """Return header, rule and cells, padded to one width."""
    width = max(len(text) for text in (header, *cells))
    told = [cell for cell in cells if cell not in ("", NOTHING)]
    numbers = bool(told) and all(_QUANTITY.fullmatch(cell) for cell in told)
    padded = [text.rjust(width) if numbers else text.ljust(width) for text in (header, *cells)]
    return [padded[0], "-" * width, *padded[1:]]


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
