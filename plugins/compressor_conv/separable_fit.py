"""The depthwise-separable convolution that is nearest to a trained one on what it really reads.

A singular value decomposition keeps the weights as well as it can; what should be kept is the output. Given the
covariance of all that the layer reads (channels and taps together), the error is a quadratic form, and for fixed
depthwise filters the best pointwise weights follow from linear equations, and the other way round. Starting from the
decomposition, both are solved in turn; each step can only lower the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-5
"""Regularisation of each solve, relative to the mean energy, towards the weights of the round before."""


@dataclass(frozen=True)
class SeparableFilters:
    """A sum of pairs: depthwise (rank, in, taps) and pointwise (rank, in, out), in float64."""

    depthwise: Tensor
    pointwise: Tensor

    @property
    def product(self) -> Tensor:
        """The dense filters they stand for, (in, taps, out)."""
        return torch.einsum("rct,rco->cto", self.depthwise, self.pointwise)


def decomposed(filters: Tensor, rank: int) -> SeparableFilters:
    """Return the nearest filters by singular value decomposition, channel by channel (arXiv 1808.05517).

    Args:
        filters: the dense weights, (in, taps, out).
        rank: number of pairs.
    """
    left, values, right = torch.linalg.svd(filters.double(), full_matrices=False)
    root = values[:, :rank].sqrt()
    depthwise = (left[:, :, :rank] * root[:, None]).permute(2, 0, 1)
    return SeparableFilters(depthwise.contiguous(), (root[:, :, None] * right[:, :rank]).transpose(0, 1).contiguous())


def fitted(filters: Tensor, covariance: Tensor, start: SeparableFilters, rounds: int) -> SeparableFilters:
    """Return filters of less output error than `start`.

    Args:
        filters: the dense weights, (in, taps, out), float64.
        covariance: of what the layer reads, (in * taps, in * taps), float64; its second moment if the layer cannot
            make up for a mean.
        start: where to begin.
        rounds: how often pointwise and depthwise weights are solved in turn.
    """
    found = start
    wanted = covariance @ filters.flatten(0, 1)
    for _ in range(rounds):
        found = SeparableFilters(found.depthwise, _pointwise(wanted, covariance, found))
        found = SeparableFilters(_depthwise(wanted, covariance, found), found.pointwise)
    return SeparableFilters(found.depthwise, _pointwise(wanted, covariance, found))


def output_error(filters: Tensor, covariance: Tensor, found: SeparableFilters) -> float:
    """Return the energy of the output's error as a share of the output's energy."""
    off = (filters - found.product).flatten(0, 1)
    whole = filters.flatten(0, 1)
    return float((off * (covariance @ off)).sum() / (whole * (covariance @ whole)).sum().clamp_min(1e-300))


def _pointwise(wanted: Tensor, covariance: Tensor, now: SeparableFilters) -> Tensor:
    rank, width, taps = now.depthwise.shape
    by_channel = covariance.reshape(width, taps, width, taps)
    gram = torch.einsum("rct,ctdu,sdu->rcsd", now.depthwise, by_channel, now.depthwise).reshape(rank * width, -1)
    right = torch.einsum("rct,cto->rco", now.depthwise, wanted.reshape(width, taps, -1)).flatten(0, 1)
    return _solved(gram, right, now.pointwise.flatten(0, 1)).reshape(now.pointwise.shape)


def _depthwise(wanted: Tensor, covariance: Tensor, now: SeparableFilters) -> Tensor:
    rank, width, taps = now.depthwise.shape
    together = torch.einsum("rco,sdo->rcsd", now.pointwise, now.pointwise)
    by_channel = covariance.reshape(width, taps, width, taps)
    gram = (together[:, :, None, :, :, None] * by_channel[None, :, :, None]).reshape(rank * width * taps, -1)
    right = torch.einsum("rco,cto->rct", now.pointwise, wanted.reshape(width, taps, -1)).reshape(-1, 1)
    return _solved(gram, right, now.depthwise.reshape(-1, 1)).reshape(now.depthwise.shape)


def _solved(gram: Tensor, right: Tensor, prior: Tensor) -> Tensor:
    regular = gram.clone()
    regular.diagonal().add_(RIDGE * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        return prior
    return prior + torch.cholesky_solve(right - gram @ prior, factor)
