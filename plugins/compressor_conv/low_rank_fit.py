"""Two narrow matrices in place of a layer's one, that lose least of what the layer puts out.

The weights cut to a rank by singular values keep the weights; what should be kept is the output. With the covariance C
of all that the layer reads, the output's error is a quadratic form in the weights. Where the narrow place is behind
the kernel, its minimum is known: the principal components of the output, W'CW (the singular vectors of the root of C
times W). Where it is before the kernel, one mixing of channels serves every tap: it is taken from the singular vectors
of the weights after the root of the channels' covariance, and the kernel then follows from linear equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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


class LayerFactors:
    """The factors of one layer for every rank; what does not depend on the rank is computed once.

    Args:
        filters: the dense weights, (in, taps, out), float64.
        moment: of what the layer reads, (in * taps, in * taps); None keeps the weights instead.
    """

    def __init__(self, filters: Tensor, moment: Tensor | None) -> None:
        self.filters = filters
        self.moment = moment

    def kernel_first(self, rank: int) -> LowRankFactors:
        """Return the best factors with `rank` channels behind the kernel."""
        components = self._components[:, :rank]
        first, second = self.filters.flatten(0, 1) @ components, components.T
        return LowRankFactors(first, second, (first @ second).reshape(self.filters.shape))

    def mixing_first(self, rank: int) -> LowRankFactors:
        """Return good factors with `rank` channels before the kernel.

        The kernel is the best one for its mixing of channels, and without `moment` the mixing is the best one too.
        """
        mixing = self._mixing[:, :rank]
        kernel = torch.einsum("cr,cto->rto", mixing, self.filters)
        if self.moment is not None:
            kernel = _best_kernel(mixing, self.filters, self.moment, kernel)
        return LowRankFactors(mixing, kernel.flatten(0, 1), torch.einsum("cr,rto->cto", mixing, kernel))

    def lost_energy(self, found: LowRankFactors) -> float:
        """Return the energy of the error as a share: of the output's, or of the filters' without `moment`."""
        lost = self._energy(self.filters - found.product)
        return float((lost / self._whole.clamp_min(1e-300)).clamp(0.0, 1.0))

    @cached_property
    def _whole(self) -> Tensor:
        return self._energy(self.filters)

    def _energy(self, values: Tensor) -> Tensor:
        rows = values.flatten(0, 1)
        return (rows * (rows if self.moment is None else self.moment @ rows)).sum()

    @cached_property
    def _components(self) -> Tensor:
        """The principal components of the output, the largest first: (out, out)."""
        dense = self.filters.flatten(0, 1)
        put_out = dense.T @ dense if self.moment is None else dense.T @ self.moment @ dense
        components: Tensor = torch.linalg.eigh(put_out).eigenvectors.flip(1)
        return components

    @cached_property
    def _mixing(self) -> Tensor:
        """Directions of the input channels, orthonormal, the most telling first: (in, in)."""
        inputs, taps = self.filters.shape[:2]
        wide = self.filters.flatten(1)
        if self.moment is None:
            root = torch.eye(inputs, dtype=wide.dtype)
        else:
            root = _root(self.moment.reshape(inputs, taps, inputs, taps).diagonal(dim1=1, dim2=3).mean(2))
        left = torch.linalg.eigh(root @ (wide @ wide.T) @ root).eigenvectors.flip(1)
        # The span that S^-1/2 takes these vectors to, without an inverse; the first of it is spanned by its first.
        mixing: Tensor = torch.linalg.qr(wide @ (wide.T @ (root @ left))).Q
        return mixing


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
