"""Two narrow matrices in place of a layer's one, that lose least of what the layer puts out.

The weights cut to a rank by singular values keep the weights; what should be kept is the output. With the covariance C
of all that the layer reads, the output's error is a quadratic form in the weights. Where the narrow place is behind
the kernel, its minimum is known: the principal components of the output, W'CW (the singular vectors of the root of C
times W). Where it is before the kernel, one mixing of channels serves every tap: it is taken from the singular vectors
of the weights after the root of the channels' covariance, and the kernel then follows from linear equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-4
"""Regularisation of the kernel's equations, relative to the mean energy, towards the projected weights."""


@dataclass(frozen=True)
class LowRankFactors:
    """The matrices of two layers in the order of `compressor.unfolding.matrix`, in float64."""

    first: Tensor
    """(in * taps, rank), or (in, rank) where the channels are mixed first."""
    second: Tensor
    """(rank, out), or (rank * taps, out)."""
    product: Tensor
    """The filters they stand for, (in, taps, out)."""


def kernel_first(filters: Tensor, moment: Tensor | None, rank: int) -> LowRankFactors:
    """Return the best factors with the narrow place behind the kernel.

    Args:
        filters: the dense weights, (in, taps, out), float64.
        moment: of what the layer reads, (in * taps, in * taps); None keeps the weights instead.
        rank: channels of the narrow place.
    """
    dense = filters.flatten(0, 1)
    put_out = dense.T @ dense if moment is None else dense.T @ moment @ dense
    components = torch.linalg.eigh(put_out).eigenvectors.flip(1)[:, :rank]
    first, second = dense @ components, components.T
    return LowRankFactors(first, second, (first @ second).reshape(filters.shape))


def mixing_first(filters: Tensor, moment: Tensor | None, rank: int) -> LowRankFactors:
    """Return good factors with the narrow place before the kernel; see `kernel_first` for the arguments.

    The kernel is the best one for its mixing of channels, and without `moment` the mixing is the best one too.
    """
    inputs, taps = filters.shape[:2]
    wide = filters.flatten(1)
    by_channel = None if moment is None else moment.reshape(inputs, taps, inputs, taps).diagonal(dim1=1, dim2=3).mean(2)
    root = torch.eye(inputs, dtype=wide.dtype) if by_channel is None else _root(by_channel)
    left = torch.linalg.eigh(root @ (wide @ wide.T) @ root).eigenvectors.flip(1)[:, :rank]
    # The span that S^-1/2 takes these vectors to, without an inverse.
    mixing = torch.linalg.qr(wide @ (wide.T @ (root @ left))).Q
    kernel = torch.einsum("cr,cto->rto", mixing, filters)
    if moment is not None:
        kernel = _best_kernel(mixing, filters, moment, kernel)
    return LowRankFactors(mixing, kernel.flatten(0, 1), torch.einsum("cr,rto->cto", mixing, kernel))


def lost_energy(filters: Tensor, found: LowRankFactors, moment: Tensor | None) -> float:
    """Return the energy of the error as a share: of the output's, or of the filters' without `moment`."""

    def energy(values: Tensor) -> Tensor:
        rows = values.flatten(0, 1)
        return (rows * (rows if moment is None else moment @ rows)).sum()

    return float((energy(filters - found.product) / energy(filters).clamp_min(1e-300)).clamp(0.0, 1.0))


def _best_kernel(mixing: Tensor, filters: Tensor, moment: Tensor, prior: Tensor) -> Tensor:
    """Solve for the kernel (rank, taps, out) that a mixing of channels leaves the least output error with."""
    inputs, taps = filters.shape[:2]
    by_channel = moment.reshape(inputs, taps, inputs, taps)
    mixed = torch.einsum("cr,ctdu->rtdu", mixing, by_channel)
    gram = torch.einsum("rtdu,ds->rtsu", mixed, mixing).reshape(mixing.shape[1] * taps, -1)
    missing = torch.einsum("rtdu,duo->rto", mixed, filters).flatten(0, 1) - gram @ prior.flatten(0, 1)
    regular = gram.clone()
    regular.diagonal().add_(RIDGE * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        return prior
    return prior + torch.cholesky_solve(missing, factor).reshape(prior.shape)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    return root
