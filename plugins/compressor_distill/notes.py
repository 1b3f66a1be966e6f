"""What a training has to say: on the screen as it happens, and in the report."""

from __future__ import annotations

from collections.abc import Iterable

from compressor.progress import Reporter
from compressor.strategy import Finding


class Notes:
    """Collects remarks in their order."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.messages: list[str] = []

    def tell(self, message: str) -> None:
        """Say something now, and in the report."""
        self.messages.append(message)
        self.reporter.say(message)

    def tell_once(self, message: str) -> None:
        """Say something, unless it was said before."""
        if message not in self.messages:
            self.tell(message)

    def restore(self, messages: Iterable[str]) -> None:
        """Take up what a checkpoint kept."""
        self.messages = list(messages)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The remarks, as a report has them."""
        return tuple(map(Finding, self.messages))
