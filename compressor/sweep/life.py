"""Signs of life of trials on a storage that several machines share.

A trial's process counts its beats in the storage; who sees a count stand still for long enough takes the trial for
dead. Each watches with a clock of its own, so machines' clocks need not agree, and a trial that never had a beat is as
dead as one that stopped. Any storage will do: nothing but attributes of trials is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compressor.sweep.trials import end

if TYPE_CHECKING:
    import optuna

BEAT = "beat"
BEAT_SECONDS, GRACE_SECONDS = 30.0, 150.0
"""Seconds between two beats, and without any until a trial counts as dead."""


@contextmanager
def signs_of_life(trial: optuna.Trial, *, shown: bool) -> Iterator[None]:
    """Count a trial's beats while the block lasts, where they are to be shown."""
    if not shown:
        yield
        return
    ended = threading.Event()

    def count() -> None:
        for beat in itertools.count(1):
            # A storage that cannot be reached for once is no reason to die of.
            with contextlib.suppress(Exception):
                trial.set_user_attr(BEAT, beat)
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Lives:
    """What one process has seen of trials that are under way."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, float]] = {}
        """The beats of a trial, by its number, and for how many seconds of looking there were no more."""
        self.looked = time.monotonic()

    def left(self, study: optuna.Study) -> int:
        """Put down dead trials as interrupted; returns how many are alive."""
        running = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]
        now = time.monotonic()
        # Who looks seldom (a trial of one's own lasts for hours, a laptop sleeps) has not seen a count stand still.
        since, self.looked = min(now - self.looked, BEAT_SECONDS), now
        dead = [trial for trial in running if self._is_dead(trial, since)]
        end(study, dead)
        return len(running) - len(dead)

    def _is_dead(self, trial: optuna.trial.FrozenTrial, since: float) -> bool:
        beats = trial.user_attrs.get(BEAT, 0)
        known, still = self.seen.get(trial.number, (-1, 0.0))
        self.seen[trial.number] = beats, still + since if known == beats else 0.0
        return self.seen[trial.number][1] > GRACE_SECONDS
