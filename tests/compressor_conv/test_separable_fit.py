"""Laws of fitting depthwise-separable filters to what a layer reads, for random filters and covariances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from compressor_conv.separable_fit import RIDGE, SeparableFilters, decomposed, fitted, output_error
from compressor_conv.separable_fit import _depthwise as depthwise_filters
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

Problem = tuple[Tensor, Tensor]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Draw filters (in, taps, out) and rows of what is read (rows, in * taps), its columns alike and unlike."""
    width, taps, out = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    filters = torch.randn(width, taps, out, generator=generator, dtype=torch.float64)
    mixing = torch.randn(width * taps, width * taps, generator=generator, dtype=torch.float64)
    loudness = 10 ** (draw(st.integers(0, 2)) * torch.randn(width * taps, generator=generator, dtype=torch.float64) / 2)
    rows = torch.randn(draw(st.integers(1, 60)), width * taps, generator=generator, dtype=torch.float64)
    return filters, rows @ mixing * loudness


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def measured_error(filters: Tensor, rows: Tensor, found: SeparableFilters) -> float:
    """Return the error of depthwise, then pointwise convolution, run on rows: a share of the output's energy."""
    width, taps, _ = filters.shape
    seen = rows.numpy().reshape(-1, width, taps)
    wanted = np.einsum("nct,cto->no", seen, filters.numpy())
    made = sum(
        np.einsum("nct,ct->nc", seen, depthwise.numpy()) @ pointwise.numpy()
        for depthwise, pointwise in zip(found.depthwise, found.pointwise, strict=True)
    )
    return float(np.square(wanted - made).sum() / np.square(wanted).sum())


@given(problems(), st.integers(1, 3))
def test_the_error_is_the_one_measured_on_the_rows(problem: Problem, rank: int) -> None:
    filters, rows = problem
    for found in (decomposed(filters, rank), fitted(filters, moment(rows), decomposed(filters, rank), 2)):
        wanted = measured_error(filters, rows, found)
        assert output_error(filters, moment(rows), found) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(problems(), st.integers(1, 3))
def test_no_round_adds_to_the_error(problem: Problem, rank: int) -> None:
    filters, rows = problem
    start = decomposed(filters, rank)
    errors = [output_error(filters, moment(rows), start)]
    errors += [output_error(filters, moment(rows), fitted(filters, moment(rows), start, n)) for n in range(5)]
    assert all(later <= earlier * (1 + 1e-9) + 1e-12 for earlier, later in pairwise(errors))


def test_fitting_pays_where_what_is_read_is_unlike_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(6, 5, 8, generator=generator, dtype=torch.float64)
    # A signal whose neighbouring values are alike, as those of speech are.
    walk = torch.randn(400, 6, 9, generator=generator, dtype=torch.float64).cumsum(-1)
    rows = walk[..., 4:].reshape(400, -1)
    start = decomposed(filters, 1)
    once, often = (output_error(filters, moment(rows), fitted(filters, moment(rows), start, n)) for n in (0, 3))
    assert once < 0.5 * output_error(filters, moment(rows), start)
    assert often < 0.6 * once


@given(problems())
def test_full_rank_is_exact(problem: Problem) -> None:
    filters, rows = problem
    start = decomposed(filters, min(filters.shape[1:]))
    torch.testing.assert_close(start.product, filters)
    found = fitted(filters, moment(rows), start, 2)
    torch.testing.assert_close(found.product, filters, rtol=1e-6, atol=1e-6)


@given(problems(), st.integers(1, 4))
def test_the_decomposition_is_the_nearest_of_its_rank(problem: Problem, rank: int) -> None:
    filters, _ = problem
    rank = min(rank, *filters.shape[1:])
    lost = (filters - decomposed(filters, rank).product).square().sum((1, 2)).numpy()
    for channel, weights in zip(lost, filters.numpy(), strict=True):
        # Eckart and Young.
        values = np.linalg.svd(weights, compute_uv=False)
        assert channel == pytest.approx(np.square(values[rank:]).sum(), abs=1e-9)


@given(problems())
def test_pointwise_weights_are_those_of_least_squares_with_a_ridge(problem: Problem) -> None:
    filters, rows = problem
    width, taps, _ = filters.shape
    start = decomposed(filters, 1)
    found = fitted(filters, moment(rows), start, 0)
    between = torch.einsum("nct,ct->nc", rows.reshape(-1, width, taps), start.depthwise[0]).numpy()
    wanted = rows.numpy() @ filters.flatten(0, 1).numpy()
    # Further rows want each weight to be as decomposed, a little.
    strength = np.sqrt(RIDGE * np.square(between).sum() / width)
    read = np.vstack([between, strength * np.eye(width)])
    targets = np.vstack([wanted, strength * start.pointwise[0].numpy()])
    expected = np.linalg.lstsq(read, targets, rcond=None)[0]
    np.testing.assert_allclose(found.pointwise[0].numpy(), expected, atol=1e-6, rtol=1e-6)


def test_what_is_never_read_is_left_as_decomposed() -> None:
    filters = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = decomposed(filters, 1)
    found = fitted(filters, torch.zeros(9, 9, dtype=torch.float64), start, 2)
    assert torch.equal(found.product, start.product)
    assert output_error(filters, torch.zeros(9, 9, dtype=torch.float64), found) == 0.0


@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_filters_are_those_of_the_linear_equations(rank: int) -> None:
    """Numpy solves for the 11 taps of 12 channels, of a smooth signal: what neighbouring taps read is much alike."""
    generator = np.random.default_rng(0)
    width, taps, out = 12, 11, 8
    signal = np.cumsum(generator.standard_normal((width, 2000)), axis=1)
    rows = np.lib.stride_tricks.sliding_window_view(signal, taps, axis=1).transpose(1, 0, 2).reshape(-1, width * taps)
    covariance = np.cov(rows.T)
    filters = torch.from_numpy(generator.standard_normal((width, taps, out)))
    start = decomposed(filters, rank)
    pointwise = start.pointwise.numpy()
    # The output is linear in the depthwise weights (rank, in, taps): `design` maps them to dense filters.
    design = np.einsum("rco,cd,tu->ctordu", pointwise, np.eye(width), np.eye(taps)).reshape(width * taps, out, -1)
    gram = np.einsum("iop,ij,joq->pq", design, covariance, design, optimize=True)
    right = np.einsum("iop,ij,jo->p", design, covariance, filters.flatten(0, 1).numpy(), optimize=True)
    wanted = np.linalg.lstsq(gram, right, rcond=1e-12)[0].reshape(rank, width, taps)
    moments = torch.from_numpy(covariance)
    best = output_error(filters, moments, SeparableFilters(torch.from_numpy(wanted), start.pointwise))
    depthwise = depthwise_filters(moments @ filters.flatten(0, 1), moments, start)
    found = output_error(filters, moments, SeparableFilters(depthwise, start.pointwise))
    assert best < 0.9 * output_error(filters, moments, start)
    assert best <= found <= 1.01 * best
