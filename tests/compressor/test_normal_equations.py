"""Least squares from sums, held against numpy's on all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compressor.normal_equations import NormalEquations

Array = NDArray[np.float64]
RIDGE = 1e-12


@st.composite
def regressions(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw rows of what is read and of what is wanted: nearly linear, with an offset, more rows than columns."""
    columns, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    read = random.standard_normal((draw(st.integers(3 * columns + 3, 40)), columns)) + random.standard_normal(columns)
    wanted = read @ random.standard_normal((columns, outputs)) + random.standard_normal(outputs)
    return read, wanted + 0.1 * random.standard_normal(wanted.shape)


def equations(read: Array, wanted: Array, parts: int = 1) -> NormalEquations:
    found = NormalEquations()
    for some, of_them in zip(np.array_split(read, parts), np.array_split(wanted, parts), strict=True):
        found.add(torch.from_numpy(some), torch.from_numpy(of_them))
    return found


def with_ones(read: Array) -> Array:
    return np.hstack([read, np.ones((len(read), 1))])


@given(regressions(), st.integers(1, 3))
def test_the_solution_is_numpy_s(regression: tuple[Array, Array], parts: int) -> None:
    read, wanted = regression
    found = equations(read, wanted, parts)
    weights = found.solve(torch.zeros(read.shape[1] + 1, wanted.shape[1]), RIDGE)
    expected = np.linalg.lstsq(with_ones(read), wanted, rcond=None)[0]
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-6, rtol=1e-6)
    assert found.rows == len(read)


@given(regressions(), st.floats(1e-3, 10.0))
def test_a_ridge_is_least_squares_with_the_prior_as_further_rows(regression: tuple[Array, Array], ridge: float) -> None:
    read, wanted = regression
    ones = with_ones(read)
    prior = np.random.default_rng(len(read)).standard_normal((ones.shape[1], wanted.shape[1]))
    weights = equations(read, wanted).solve(torch.from_numpy(prior), ridge)
    # Each further row wants one weight to be as before, as strongly as `ridge` says of the columns' mean energy.
    strength = np.sqrt(ridge * (ones**2).sum() / ones.shape[1])
    rows, targets = np.vstack([ones, strength * np.eye(ones.shape[1])]), np.vstack([wanted, strength * prior])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-7, rtol=1e-7)


@given(regressions())
def test_the_error_is_that_of_the_rows(regression: tuple[Array, Array]) -> None:
    read, wanted = regression
    found = equations(read, wanted)
    weights = np.random.default_rng(len(read)).standard_normal((read.shape[1] + 1, wanted.shape[1]))
    squares = (wanted - with_ones(read) @ weights) ** 2
    np.testing.assert_allclose(found.error(torch.from_numpy(weights)).numpy(), squares.sum(0), rtol=1e-8)
    relative = squares.sum() / (wanted**2).sum()
    assert found.relative_error(torch.from_numpy(weights)) == pytest.approx(relative, rel=1e-8)


def test_columns_that_are_never_read_keep_the_prior() -> None:
    read = np.random.default_rng(0).standard_normal((30, 3))
    read[:, 1] = 0.0
    found = equations(read, read[:, :1] + 2.0)
    weights = found.solve(torch.tensor([[0.5], [7.0], [0.5], [0.5]]), 1e-9)
    np.testing.assert_allclose(weights.numpy()[:, 0], [1.0, 7.0, 0.0, 2.0], atol=1e-6)


def test_an_exact_fit_has_no_error_and_float32_rows_will_do() -> None:
    random = np.random.default_rng(1)
    read, weights = random.standard_normal((500, 4)), random.standard_normal((5, 2))
    wanted = with_ones(read) @ weights
    found = NormalEquations()
    found.add(torch.from_numpy(read).float(), torch.from_numpy(wanted).float())
    solved = found.solve(torch.zeros(5, 2), RIDGE)
    np.testing.assert_allclose(solved.numpy(), weights, atol=1e-4)
    assert 0.0 <= found.relative_error(solved) < 1e-6
