"""Notices a training that goes wrong: what it says is told to the user as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.report import CurvePoint

EXPLODED = 10.0
"""A loss this many times its running median has exploded."""
WORSE = 3.0
"""A validation this many times worse than the best has."""
BLANK_DB = -20.0
"""An output this far below its teacher's energy is blank."""
LEAST = 1e-3
"""A sum of losses below which a student is as good as its teacher."""
REMEMBERED = 100
AT_LEAST = 20
"""Steps seen before a median means something."""


class Health:
    """The last losses of a training, and what they and its validations say."""

    def __init__(self, recent: list[float] | None = None) -> None:
        self.recent = recent or []

    def of_step(self, losses: Mapping[str, float]) -> str:
        """Return what is wrong with a step's losses, before it is taken; empty if nothing is."""
        total = sum(losses.values())
        if not math.isfinite(total):
            wrong = next((name for name, value in losses.items() if not math.isfinite(value)), "the gradient")
            return f"{wrong} is no finite number"
        usual = median(self.recent) if len(self.recent) >= AT_LEAST else math.inf
        self.recent = [*self.recent[1 - REMEMBERED :], total]
        if total > EXPLODED * usual:
            return f"the loss exploded: {total:.3g}, where {usual:.3g} was usual"
        return ""

    @staticmethod
    def of_validation(score: float, best: float, level_db: float, level_before_db: float) -> str:
        """Return what is wrong with a validation; empty if nothing is.

        Args:
            score: the sum of the weighted losses.
            best: the lowest so far.
            level_db: the output's energy against the teacher's.
            level_before_db: the same before any training.
        """
        if not math.isfinite(score):
            return "the validation's losses are no finite numbers"
        if level_db < BLANK_DB <= level_before_db:
            return f"the output went blank: {-level_db:.0f} dB below the teacher's energy"
        # A student that starts equal to its teacher cannot get better, and a little worse is no harm.
        if score > WORSE * max(best, LEAST):
            return f"validation got {score / max(best, LEAST):.1f} times worse than its best"
        return ""


def overfitting_in(curve: Sequence[CurvePoint]) -> str:
    """Return the same warning for a phase's curve."""
    return overfitting(
        [sum(point.losses.values()) for point in curve], [sum(point.validation.values()) for point in curve]
    )


def overfitting(training: list[float], validation: list[float]) -> str:
    """Return a warning where the last validations rose while training fell; both are sums of losses, in order."""
    if len(validation) < 4:
        return ""
    before, *rising = validation[-4:]
    if before < rising[0] < rising[1] < rising[2] and training[-1] < training[-4]:
        return (
            "validation has been getting worse for three times while training gets better: overfitting; use more data"
        )
    return ""
