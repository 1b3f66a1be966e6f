"""How far a mean over few samples can be trusted: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0

Means = NDArray[np.float64]
"""Means of the parts of a score (..., parts); leading axes are resamples."""


def percentile_interval(scores: NDArray[np.float64], combined: Callable[[Means], Means]) -> tuple[float, float] | None:
    """Return the 95 % interval of `combined` of the mean of scores (samples, parts), resampling the samples.

    Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13), seeded: equal scores give equal intervals. None for
    fewer than two samples, which say nothing of how samples differ.
    """
    count = len(scores)
    if count < 2:
        return None
    # How often each sample is drawn is all that a mean needs to know of a resample.
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(combined(draws @ scores / count), (tail, 1 - tail))
    return float(low), float(high)
