from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor_prune.interpolation import channel_order, interpolation
from hypothesis import given
from hypothesis import strategies as st

Signals = tuple[np.ndarray, np.ndarray]


@st.composite
def signals(draw: st.DrawFn) -> Signals:
    """Draw channels over 60 positions, of which some are combinations of others, and the weights that read them."""
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    free, dependent = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    independent = random.standard_normal((free, 60)) * random.uniform(0.1, 3, (free, 1))
    mixed = random.uniform(-1, 1, (dependent, free)) @ independent
    order = random.permutation(free + dependent)
    values = np.concatenate([independent, mixed])[order]
    return values, random.uniform(0.2, 2, free + dependent)


def moments(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values @ values.T)


def unexplained(values: np.ndarray, weights: np.ndarray, kept: list[int]) -> float:
    """Return the share of the weighted energy that numpy's least squares on the kept channels leave."""
    scaled = values * np.sqrt(weights)[:, None]
    coefficients = np.linalg.lstsq(scaled[kept].T, scaled.T, rcond=None)[0]
    return float(np.square(scaled.T - scaled[kept].T @ coefficients).sum() / np.square(scaled).sum())


@given(signals())
def test_an_order_is_a_permutation_whose_errors_never_rise(drawn: Signals) -> None:
    values, weights = drawn
    found = channel_order(moments(values), torch.from_numpy(weights))
    assert sorted(found.order) == list(range(len(values)))
    assert len(found.errors) == len(values) + 1
    assert found.errors[0] == 1.0
    assert found.errors[-1] == 0.0
    assert all(after <= before + 1e-12 for before, after in zip(found.errors[:-1], found.errors[1:], strict=True))


@given(signals())
def test_errors_are_those_of_least_squares(drawn: Signals) -> None:
    values, weights = drawn
    found = channel_order(moments(values), torch.from_numpy(weights))
    for width in range(1, len(values) + 1):
        assert found.errors[width] == pytest.approx(unexplained(values, weights, list(found.order[:width])), abs=1e-9)


@given(signals())
def test_the_first_channel_taken_carries_the_most_energy(drawn: Signals) -> None:
    values, weights = drawn
    found = channel_order(moments(values), torch.from_numpy(weights))
    energies = np.square(values).sum(1) * weights
    assert energies[found.order[0]] == pytest.approx(energies.max())


@given(signals())
def test_combinations_of_kept_channels_are_recovered(drawn: Signals) -> None:
    values, weights = drawn
    rank = int(np.linalg.matrix_rank(values))
    order = channel_order(moments(values), torch.from_numpy(weights))
    assert order.errors[rank] == pytest.approx(0.0, abs=1e-9)
    kept, dropped = sorted(order.order[:rank]), sorted(order.order[rank:])
    matrix = interpolation(moments(values), kept, dropped, ridge=1e-12)
    assert matrix.shape == (len(dropped), len(kept))
    np.testing.assert_allclose(matrix.numpy() @ values[kept], values[dropped], atol=1e-5 * np.abs(values).max())


@given(signals(), st.integers(1, 7))
def test_interpolation_is_least_squares(drawn: Signals, count: int) -> None:
    values, _ = drawn
    kept, dropped = list(range(len(values)))[:count], list(range(len(values)))[count:]
    found = interpolation(moments(values), kept, dropped, ridge=1e-9).numpy() @ values[kept]
    coefficients = np.linalg.lstsq(values[kept].T, values[dropped].T, rcond=None)[0]
    best = np.square(values[dropped] - coefficients.T @ values[kept]).sum()
    # It has the least of error plus ridge times squared weights: where kept channels are nearly alike, those are large.
    ridge = 1e-9 * np.square(values[kept]).sum(1).mean() * np.square(coefficients).sum()
    assert np.square(values[dropped] - found).sum() <= best + ridge + 1e-6 * np.square(values).sum()


def test_silent_channels_come_last_and_cost_nothing() -> None:
    values = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = channel_order(moments(values), torch.ones(3))
    assert found.order[0] == 1
    assert found.errors == (1.0, 0.0, 0.0, 0.0)


def test_of_all_silent_channels_any_order_will_do() -> None:
    found = channel_order(torch.zeros(3, 3), torch.ones(3))
    assert sorted(found.order) == [0, 1, 2]
    assert found.errors[-1] == 0.0
    assert torch.isfinite(interpolation(torch.eye(3) * 1e-3, [0], [1, 2])).all()


@given(signals(), signals())
def test_one_order_serves_several_readers(first: Signals, second: Signals) -> None:
    count = min(len(first[0]), len(second[0]))
    readers = [(values[:count], weights[:count]) for values, weights in (first, second)]
    stacked = torch.stack([moments(values) for values, _ in readers])
    found = channel_order(stacked, torch.from_numpy(np.stack([weights for _, weights in readers])))
    energies = [np.square(values).sum(1) @ weights for values, weights in readers]
    for width in range(1, count + 1):
        left = [unexplained(values, weights, list(found.order[:width])) for values, weights in readers]
        wanted = np.dot(left, energies) / np.sum(energies)
        assert found.errors[width] == pytest.approx(wanted, abs=1e-9)
    assert channel_order(stacked[0], torch.from_numpy(readers[0][1])) == channel_order(
        stacked[:1], torch.from_numpy(readers[0][1][None])
    )


def test_silence_is_predicted_by_silence() -> None:
    assert torch.equal(interpolation(torch.zeros(3, 3), [0], [1, 2]), torch.zeros(2, 1, dtype=torch.float64))
