from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compressor_distill.signal_choice import Amount, Costs, seconds_on_the_fly, seconds_recorded
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=20)
SECONDS = st.floats(0, 10)
COSTS = st.builds(Costs, SECONDS, SECONDS, SECONDS, SECONDS)


def test_the_expected_number_of_recordings_is_that_of_many_trials() -> None:
    sizes = np.array([100, 300, 50, 800])
    amount = Amount(3, sizes, 1.0, 1e9)
    random = np.random.default_rng(0)
    drawn = random.choice(4, (20_000, 3), p=sizes / sizes.sum())
    steps = np.mean([sizes[np.unique(row)].sum() for row in drawn])
    costs = Costs(making=0.0, recording=1.0, reading=0.0, running=0.0)
    assert seconds_recorded(amount, costs) * sizes.mean() == pytest.approx(steps, rel=0.01)


def test_recordings_that_cannot_be_kept_are_made_again() -> None:
    sizes = np.full(100, 10)
    costs = Costs(making=1.0, recording=2.0, reading=0.5, running=9.0)
    # 1000 steps of 2 bytes, of which a quarter can be kept; every sample is seen.
    found = seconds_recorded(Amount(10_000, sizes, 2.0, 500.0), costs)
    assert found == pytest.approx((100 + (10_000 - 100) * 0.75) * 3.0 + 10_000 * 0.5)
    assert seconds_on_the_fly(Amount(10_000, sizes, 2.0, 500.0), costs) == 100_000


@given(SIZES, st.integers(1, 10_000), COSTS, st.floats(0, 1e4), st.floats(1, 3))
def test_more_to_do_takes_longer_and_more_room_never(
    sizes: list[int], segments: int, costs: Costs, most: float, factor: float
) -> None:
    amount = Amount(segments, np.array(sizes), 2.0, most)
    seconds = seconds_recorded(amount, costs)
    slack = 1e-6 * (1 + seconds)
    assert seconds_recorded(replace(amount, most_bytes=most * factor), costs) <= seconds + slack
    assert seconds_recorded(amount, replace(costs, recording=costs.recording * factor)) >= seconds - slack
    everything = replace(amount, most_bytes=1e12)
    assert seconds_recorded(replace(everything, segments=2 * segments), costs) >= (
        seconds_recorded(everything, costs) - slack
    )
    # Once for each sample at most, where all can be kept.
    most_seconds = len(sizes) * (costs.making + costs.recording) + segments * costs.reading
    assert seconds_recorded(everything, costs) <= most_seconds + slack
