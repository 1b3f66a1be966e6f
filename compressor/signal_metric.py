"""The contract of a metric that compares signals: one score for each validation sample, of which it is the mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from compressor.bootstrap import Means, percentile_interval
from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric

if TYPE_CHECKING:
    from compressor.metric import Subject

_Made = TypeVar("_Made")

Against = Literal["teacher", "recording"]
"""What a student's output is compared with: the teacher's output, or the sample's reference, such as a recording."""

_RECORDED = "/recording"


@dataclass(frozen=True, eq=False)
class Signal:
    """One sample's signal, and what was computed of it: an analysis lives as long as the signal does."""

    samples: FloatArray
    """(samples,)"""
    rate: int
    """Samples per second."""
    _known: dict[Callable[[Signal], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, analysis: Callable[[Signal], _Made]) -> _Made:
        """Return what `analysis` makes of this signal, computed when it is first asked for."""
        if analysis not in self._known:
            self._known[analysis] = analysis(self)
        return cast(_Made, self._known[analysis])


@dataclass(frozen=True)
class Comparison:
    """What a metric says of all validation samples together."""

    value: float
    interval: tuple[float, float] | None
    """95 %, by bootstrap over the samples; None for a single sample."""
    scores: tuple[float | None, ...]
    """One for each sample, in their order; None where a sample says nothing."""
    parts: Mapping[str, float]
    """Means of what the value is made of, such as one for each frequency band."""


class SignalMetric(Metric):
    """A metric that compares each output with what it should be; its number is the mean over the validation samples.

    It is measured against the teacher's output, and for a finished student against the recording where there is one.
    """

    needs_data: ClassVar[bool] = True
    needs_signal: ClassVar[bool] = True
    speechless: ClassVar[str] = "no validation sample says anything by this metric"
    """Why there is no number where there is no score."""

    @abstractmethod
    def score(self, output: Signal, wanted: Signal) -> float | Sequence[float] | None:
        """Return how an output compares with what it should be, both of one rate and length.

        One number, or one for each of `parts`; None where the sample says nothing. Raise `MetricUnavailable` where
        something must be installed first.
        """

    def parts(self, rate: int) -> tuple[str, ...]:
        """Return the names of the numbers of a score, at a sample rate; none where it is one number."""
        return ()

    def combined(self, means: Means) -> Means:
        """Return the metric's number from the means of a score's parts (..., parts): the first, unless overridden."""
        first: Means = means[..., 0]
        return first

    def measure(self, subject: Subject) -> float:
        """Return the number against the teacher.

        Raises:
            MetricUnavailable: something must be installed first, or no sample says anything.
        """
        return self.compare(subject, "teacher").value

    def compare(self, subject: Subject, against: Against) -> Comparison:
        """Return number, interval, scores and parts; samples without a recording are left out of a comparison with it.

        Raises:
            MetricUnavailable: something must be installed first, or no sample says anything.
        """
        pairs = list(zip(subject.signals, subject.wanted(against), strict=True))
        found = [None if wanted is None else self._row(output, wanted) for output, wanted in pairs]
        rows = [row for row in found if row is not None]
        if not rows:
            raise MetricUnavailable(self.speechless)
        table = np.stack(rows)
        means = table.mean(axis=0)
        return Comparison(
            value=float(self.combined(means)),
            interval=percentile_interval(table, self.combined),
            scores=tuple(None if row is None else float(self.combined(row)) for row in found),
            parts=dict(zip(self.parts(pairs[0][0].rate), map(float, means), strict=False)),
        )

    def _row(self, output: Signal, wanted: Signal) -> NDArray[np.float64] | None:
        score = self.score(output, wanted)
        return None if score is None else np.atleast_1d(np.asarray(score, dtype=np.float64))


def measured_name(metric: str, against: Against) -> str:
    """Return what a measurement is called: the metric's name, with `/recording` where it is against the recording."""
    return metric + _RECORDED if against == "recording" else metric


def split_measured_name(name: str) -> tuple[str, Against]:
    """Return the metric of a measurement's name, and what it compares with."""
    metric = name.removesuffix(_RECORDED)
    return metric, "teacher" if metric == name else "recording"
