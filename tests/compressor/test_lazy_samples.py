from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compressor.dataset import Sample
from compressor.errors import DataError
from compressor.lazy_samples import MOST_UNUSABLE, LazySamples
from compressor.progress import RecordingReporter, SilentReporter


def made(index: int, length: int, *, usable: bool) -> Sample:
    if not usable:
        raise DataError(f"{index} is silent")
    values = np.full((1, 2, length), index, np.float32)
    return Sample(str(index), {"mel": values}, values.reshape(-1))


def made_elsewhere(index: int) -> Sample:
    """Tell in what process this ran; 4 is of no use."""
    if index == 4:
        raise DataError("4 is silent")
    return Sample(str(index), {"process": np.array([os.getpid(), index], np.float32)})


def ends_its_process(index: int) -> Sample:
    if multiprocessing.parent_process() is not None:
        os._exit(1)
    return made(index, 1, usable=True)


@dataclass
class Store:
    given_lengths: list[int]
    unusable: set[int] = field(default_factory=set)
    make: Callable[[int], Sample] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array(self.given_lengths)

    def maker(self, index: int) -> Callable[[], Sample]:
        if self.make is not None:
            return partial(self.make, index)
        return partial(made, index, self.given_lengths[index], usable=index not in self.unusable)

    def key(self, index: int) -> str:
        return f"key {index}"


def lazy(store: Store, workers: int = 0) -> tuple[LazySamples, RecordingReporter]:
    reporter = RecordingReporter(SilentReporter())
    return LazySamples(store, reporter, workers), reporter


def told(reporter: RecordingReporter) -> list[str]:
    """Return what was said, less the time."""
    return [line.split(" ", 2)[2] for line in reporter.lines]


def stands_at(store: Store, index: int) -> str:
    """Return the sample that should stand at a position, from the rule as it is written."""
    rank = sorted(range(len(store.given_lengths)), key=lambda at: (store.given_lengths[at], at))
    at = rank.index(index)
    return next(str(other) for other in [*rank[at:], *reversed(rank[:at])] if other not in store.unusable)


@given(st.data())
def test_the_next_longer_sample_takes_the_place_of_one_of_no_use(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    places = range(len(lengths))
    store = Store(lengths, data.draw(st.sets(st.sampled_from(places), max_size=len(lengths) - 1)))
    samples, reporter = lazy(store)
    asked = data.draw(st.lists(st.sampled_from(places), max_size=12))
    for index in asked:
        wanted = stands_at(store, index)
        assert samples[index].name == wanted
        assert samples.inputs(index)["mel"][0, 0, 0] == float(wanted)
    assert len(told(reporter)) == len(set(told(reporter)))
    assert len(told(reporter)) <= len(store.unusable)


def test_is_a_sequence() -> None:
    samples, _ = lazy(Store([3, 1, 2]))
    assert len(samples) == 3
    assert [sample.name for sample in samples] == ["0", "1", "2"]
    assert samples[-1].name == "2"
    assert [sample.name for sample in samples[1:]] == ["1", "2"]
    assert samples.key(1) == "key 1"
    with pytest.raises(IndexError):
        samples[3]


def test_gives_up_where_nothing_can_be_used() -> None:
    samples, _ = lazy(Store([1, 2], {0, 1}))
    with pytest.raises(DataError, match="none of the 2 samples can be used; the last: "):
        samples[0]
    many = MOST_UNUSABLE + 5
    samples, _ = lazy(Store([1] * many, set(range(many))))
    with pytest.raises(DataError, match=r"(?s)100 samples one after the other cannot be used, such as\n  0 is silent"):
        samples[0]


def test_goes_to_another_process_of_the_run() -> None:
    samples, _ = lazy(Store([1, 2], {0}), workers=1)
    assert samples[0].name == "1"
    samples.expect([1])
    there = pickle.loads(pickle.dumps(samples))  # noqa: S301 - its own
    assert (there[0].name, len(there), there.workers) == ("1", 2, 1)


def test_samples_can_be_changed_on_the_way() -> None:
    samples, _ = lazy(Store([1, 2], {0}))
    twice = samples.changed(lambda sample: Sample(sample.name * 2, sample.inputs), 2 * samples.lengths, "twice")
    assert (twice[0].name, twice[1].name) == ("11", "11")
    assert (list(twice.lengths), list(samples.lengths)) == ([2, 4], [1, 2])
    again = twice.changed(lambda sample: Sample(f"{sample.name} again", sample.inputs), twice.lengths, "again")
    assert again[1].name == "11 again"


def test_a_key_tells_what_samples_were_changed_by() -> None:
    samples, _ = lazy(Store([1, 2]))

    def keys(*named: str) -> tuple[str, ...]:
        made = samples
        for name in named:
            made = made.changed(lambda sample: sample, samples.lengths, name)
        return made.key(0), made.key(1)

    assert keys("a") == keys("a")
    assert len({*keys(), *keys("a"), *keys("b"), *keys("a", "b"), *keys("b", "a")}) == 10


def test_a_key_names_the_sample_that_stands_at_a_position() -> None:
    """In a later run in which the first can be used, what is known by its key must not be another's."""
    samples, _ = lazy(Store([1, 2], {0}))
    assert samples[0].name == "1"
    assert (samples.key(0), samples.key(1)) == ("key 1", "key 1")


@given(st.data())
def test_samples_that_a_check_refuses_are_of_no_use(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    places = range(len(lengths))
    silent, short = (data.draw(st.sets(st.sampled_from(places))) for _ in range(2))
    store = Store(lengths, silent)
    samples, reporter = lazy(store)

    def check(sample: Sample) -> None:
        if int(sample.name) in short:
            raise DataError(f"{sample.name} is short")

    wanted = Store(lengths, silent | short)
    for index in data.draw(st.lists(st.sampled_from(places), max_size=12)):
        # Another view, as each phase of a training has its own, tells nothing again.
        for view in (samples.refusing(check), samples.refusing(check)):
            if len(wanted.unusable) == len(lengths):
                with pytest.raises(DataError, match="can be used; the last: "):
                    view[index]
            else:
                assert view[index].name == view.inputs(index)["mel"][0, 0, 0].astype(int).astype(str)
                assert view[index].name == stands_at(wanted, index)
        if len(silent) < len(lengths):
            assert samples[index].name == stands_at(store, index)
    assert len(told(reporter)) == len(set(told(reporter)))


def test_what_nothing_can_be_made_of_is_of_no_use() -> None:
    samples, reporter = lazy(Store([1, 2, 3]))

    def change(sample: Sample) -> Sample:
        if sample.name == "1":
            raise DataError("1 cannot be run")
        return sample

    assert [sample.name for sample in samples.changed(change, samples.lengths, "run")] == ["0", "2", "2"]
    assert told(reporter) == ["not trained on, another takes its place: 1 cannot be run"]


def test_workers_make_what_is_expected_and_nothing_else() -> None:
    samples, reporter = lazy(Store([1] * 5, make=made_elsewhere), workers=1)
    here = float(np.float32(os.getpid()))
    samples.expect([3, 1])
    assert all(samples.inputs(index)["process"][0] != here for index in (1, 3))
    assert samples.inputs(2)["process"][0] == here
    assert [int(samples.inputs(index)["process"][1]) for index in range(4)] == [0, 1, 2, 3]
    # What is not named again is forgotten.
    samples.expect([4])
    assert samples.inputs(1)["process"][0] == here
    assert samples.inputs(4)["process"][1] == 3
    assert any(line.endswith("another takes its place: 4 is silent") for line in reporter.lines)


def test_a_worker_that_dies_loses_time_only() -> None:
    samples, reporter = lazy(Store([1, 1], make=ends_its_process), workers=1)
    samples.expect([0, 1])
    assert [samples.inputs(index)["mel"][0, 0, 0] for index in (0, 1)] == [0.0, 1.0]
    assert samples.workers == 0
    assert sum("died" in line for line in reporter.lines) == 1
    samples.expect([1])
