"""The depthwise-separable convolution that is nearest to a trained one on what it really reads.

A singular value decomposition keeps the weights as well as it can; what should be kept is the output. Given the
covariance of all that the layer reads (channels and taps together), the error is a quadratic form, and for fixed
depthwise filters the best pointwise weights follow from linear equations, and the other way round. Starting from the
decomposition, both are solved in turn; each step can only lower the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-5
"""Regularisation of each solve, relative to the mean energy, towards the weights of the round before."""

STEPS = 20
"""Of conjugate gradients, for each solve of depthwise filters."""

BLOCK_RIDGE = 1e-3
"""Regularisation of a channel's own block where it prepares those steps, relative to its mean energy."""


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
    """Return depthwise filters of less error, by conjugate gradients: a wide layer has thousands of them.

    Solving for 512 channels of 11 taps outright takes as long as all the rest of a vocoder; a few steps, prepared with
    what the taps of each channel mean to each other, come as near (three digits of the error are the same).
    """
    rank, width, taps = now.depthwise.shape
    together = torch.einsum("rco,sdo->rcsd", now.pointwise, now.pointwise)
    by_channel = covariance.reshape(width, taps, width, taps)
    gram = (together[:, :, None, :, :, None] * by_channel[None, :, :, None]).reshape(rank * width * taps, -1)
    right = torch.einsum("rco,cto->rct", now.pointwise, wanted.reshape(width, taps, -1)).reshape(-1)
    ridge = RIDGE * gram.diagonal().mean()
    channels = gram.reshape(rank, width, taps, rank, width, taps).diagonal(dim1=1, dim2=4).permute(4, 0, 1, 2, 3)
    blocks = channels.reshape(width, rank * taps, rank * taps).clone()
    blocks.diagonal(dim1=1, dim2=2).add_(BLOCK_RIDGE * blocks.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + ridge)
    factor, failed = torch.linalg.cholesky_ex(blocks)
    if failed.any():
        return now.depthwise

    def prepared(values: Tensor) -> Tensor:
        own = values.reshape(rank, width, taps).transpose(0, 1).reshape(width, rank * taps, 1)
        return torch.cholesky_solve(own, factor).reshape(width, rank, taps).transpose(0, 1).reshape(-1)

    prior = now.depthwise.reshape(-1)
    step = _conjugate_gradients(lambda values: gram @ values + ridge * values, right - gram @ prior, prepared)
    return (prior + step).reshape(now.depthwise.shape)


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, prepared: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return what `product` nearly makes `right` of, from zero (Hestenes and Stiefel, 1952, preconditioned)."""
    found, off = torch.zeros_like(right), right
    ready = prepared(off)
    direction, energy = ready, off @ ready
    for _ in range(STEPS):
        if not energy > 0:
            break
        ahead = product(direction)
        curvature = direction @ ahead
        if not curvature > 0:
            break
        length = energy / curvature
        found = found + length * direction
        off = off - length * ahead
        ready = prepared(off)
        before, energy = energy, off @ ready
        direction = ready + energy / before * direction
    return found


def _solved(gram: Tensor, right: Tensor, prior: Tensor) -> Tensor:
    regular = gram.clone()
    regular.diagonal().add_(RIDGE * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        return prior
    return prior + torch.cholesky_solve(right - gram @ prior, factor)
