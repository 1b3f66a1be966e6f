from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressor.bootstrap import Means, percentile_interval
from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Subject
from compressor.signal_metric import Signal, SignalMetric, measured_name, split_measured_name

scores = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def first(means: Means) -> Means:
    found: Means = means[..., 0]
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    found = percentile_interval(np.array(values, float)[:, None], first)
    assert found is not None
    return found


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=14)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=40_000).confidence_interval
    width = expected.high - expected.low
    assert interval(list(values)) == pytest.approx(tuple(expected), abs=0.04 * width)


def test_intervals_of_other_statistics_are_those_of_scipy() -> None:
    table = np.random.default_rng(4).normal(0.3, 1.0, size=(20, 3))

    def largest(means: Means) -> Means:
        return cast(Means, np.abs(means).max(axis=-1))

    def of_rows(rows: FloatArray, axis: int) -> FloatArray:
        return cast(FloatArray, np.abs(table[rows].mean(axis=axis - 1 if axis < 0 else axis)).max(axis=-1))

    rows = (np.arange(len(table)),)
    expected = stats.bootstrap(rows, of_rows, method="percentile", n_resamples=40_000, vectorized=True)
    low, high = expected.confidence_interval
    assert percentile_interval(table, largest) == pytest.approx((low, high), abs=0.04 * (high - low))


@settings(max_examples=30)
@given(values=scores, scale=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_intervals_move_and_stretch_with_the_scores(values: list[float], scale: float, shift: float) -> None:
    low, high = interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = interval([scale * value + shift for value in values])
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)
    assert interval(values) == (low, high)


def test_one_sample_says_nothing_of_others() -> None:
    assert percentile_interval(np.array([[1.0]]), first) is None


class Louder(SignalMetric):
    """Difference of the means, and of the maxima; nothing of a silent signal."""

    name = "louder"

    def parts(self, rate: int) -> tuple[str, ...]:
        return ("mean", "peak")

    def score(self, output: Signal, wanted: Signal) -> list[float] | None:
        if not wanted.samples.any():
            return None
        return [float(of(output.samples) - of(wanted.samples)) for of in (np.mean, np.max)]


class Largest(Louder):
    """The larger of the two."""

    name = "largest"

    def combined(self, means: Means) -> Means:
        return cast(Means, means.max(axis=-1))


def signal(*samples: float) -> Signal:
    return Signal(np.array(samples, np.float32), 100)


def subject(outputs: list[Signal], teacher: list[Signal], recordings: list[Signal | None]) -> Subject:
    wanted = {"teacher": teacher, "recording": recordings}
    return cast(Subject, SimpleNamespace(signals=outputs, wanted=wanted.__getitem__))


def test_a_comparison_is_the_mean_over_what_says_something() -> None:
    outputs = [signal(1, 3), signal(5, 5), signal(2, 8)]
    teacher = [signal(1, 1), signal(0, 0), signal(0, 2)]
    compared = Louder().compare(subject(outputs, teacher, [None, signal(4, 4), None]), "teacher")
    assert compared.value == Louder().measure(subject(outputs, teacher, [])) == 2.5
    assert compared.scores == (1.0, None, 4.0)
    assert compared.parts == {"mean": 2.5, "peak": 4.0}
    assert compared.interval == pytest.approx((1.0, 4.0))
    largest = Largest().compare(subject(outputs, teacher, []), "teacher")
    assert (largest.value, largest.scores) == (4.0, (2.0, None, 6.0))


def test_samples_without_a_recording_are_left_out() -> None:
    outputs, teacher = [signal(1, 3), signal(5, 5)], [signal(1, 1), signal(9, 9)]
    compared = Louder().compare(subject(outputs, teacher, [None, signal(4, 4)]), "recording")
    assert (compared.value, compared.scores, compared.interval) == (1.0, (None, 1.0), None)
    with pytest.raises(MetricUnavailable, match="no validation sample"):
        Louder().compare(subject(outputs, teacher, [None, None]), "recording")


def test_an_analysis_is_made_once_for_each_signal() -> None:
    asked: list[float] = []

    def loudness(of: Signal) -> float:
        asked.append(float(of.samples[0]))
        return asked[-1]

    one, other = signal(1), signal(2)
    assert [each.once(loudness) for each in (one, other, one, one)] == [1.0, 2.0, 1.0, 1.0]
    assert asked == [1.0, 2.0]


@given(name=st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True))
def test_names_tell_what_was_compared_with(name: str) -> None:
    assert measured_name(name, "teacher") == name
    assert split_measured_name(measured_name(name, "teacher")) == (name, "teacher")
    assert split_measured_name(measured_name(name, "recording")) == (name, "recording")
