"""Ctrl-C during a training: between two steps, where everything that is kept belongs together."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interruptions:
    """A context in which Ctrl-C waits for `let_through`; a second one gets through at once.

    Only where Ctrl-C raises `KeyboardInterrupt` by itself, in the main thread: elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._changed = False

    def __enter__(self) -> Interruptions:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._changed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def let_through(self) -> None:
        """Raise what was held back.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self.asked:
            raise KeyboardInterrupt
