"""Whether a phase of training is faster with recorded signals or with signals computed on the fly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Costs:
    """Seconds, as measured."""

    making: float
    """For one sample of mean length: reading and analysing it."""
    recording: float
    """For one sample of mean length: the teacher, and writing what it has."""
    reading: float
    """For one segment: from what is recorded."""
    running: float
    """For one segment: the teacher, on it and on what lies around it."""


@dataclass(frozen=True)
class Amount:
    """What a phase asks for."""

    segments: int
    sizes: NDArray[np.int64]
    """Steps of each sample; samples are chosen by them."""
    bytes_per_step: float
    """Of what is recorded."""
    most_bytes: float
    """Of it that may be kept."""

    @property
    def seen(self) -> NDArray[np.float64]:
        """The probability of each sample that any segment of it is asked for."""
        chances = self.sizes / self.sizes.sum()
        seen: NDArray[np.float64] = -np.expm1(self.segments * np.log1p(-np.minimum(chances, 1 - 1e-12)))
        return seen


def seconds_recorded(amount: Amount, costs: Costs) -> float:
    """Return the time that a phase takes for its signals, if they are recorded.

    Each sample seen is recorded once, and again whenever it is asked for after it had to go: as often as not all that
    was seen can be kept.
    """
    seen = float((amount.seen * amount.sizes).sum())
    kept = min(1.0, amount.most_bytes / max(1.0, seen * amount.bytes_per_step))
    of_mean_length = seen / float(amount.sizes.mean())
    again = max(0.0, amount.segments - float(amount.seen.sum())) * (1 - kept)
    # A long sample is asked for more often: what is recorded again is longer than the mean by that.
    longer = float(np.square(amount.sizes / amount.sizes.mean()).mean())
    return (of_mean_length + again * longer) * (costs.making + costs.recording) + amount.segments * costs.reading


def seconds_on_the_fly(amount: Amount, costs: Costs) -> float:
    """Return the time that a phase takes for its signals, if they are computed for each segment."""
    return amount.segments * (costs.making + costs.running)
