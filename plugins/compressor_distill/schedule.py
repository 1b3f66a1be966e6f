"""How far a phase of training is, by steps or by time, and the learning rate that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One phase: warm-up, then a cosine to zero, over its steps or over its share of the time, whichever ends first."""

    steps: int
    learning_rate: float
    warmup_steps: int
    starts_at_seconds: float
    ends_at_seconds: float
    """Seconds of training, counted over all phases; infinite without a time limit."""
    falls: bool = True
    """False: the learning rate stays as it is after the warm-up."""

    def done(self, step: int, seconds: float) -> float:
        """Return the share of the phase that lies behind; one or more is the end."""
        by_steps = step / self.steps if self.steps else 1.0
        if math.isinf(self.ends_at_seconds):
            return by_steps
        return max(by_steps, (seconds - self.starts_at_seconds) / (self.ends_at_seconds - self.starts_at_seconds))

    def rate(self, step: int, done: float) -> float:
        """Return the learning rate of a step."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done))) if self.falls else 1.0
        return self.learning_rate * warmup * fall
