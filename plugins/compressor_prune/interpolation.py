"""Which channels say most about the others, and how the others follow from them.

Interpolative decomposition (Chee et al., arXiv 2108.00065): channels are taken one by one, each time the one with the
largest part that those taken so far do not explain (pivoted Cholesky). A dropped channel is then replaced by its best
linear combination of kept ones, which folds into the weights of the layer that reads them.

Several layers may read the same channels, each through its own function. Then one order serves all of them, by the sum
of what each is left with, but each gets its own combinations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOISE = 1e-12
"""Share of a channel's energy below which what is left of it is rounding."""


@dataclass(frozen=True)
class ChannelOrder:
    """Channels from the most to the least telling, and what is lost when only the first ones stay."""

    order: tuple[int, ...]
    errors: tuple[float, ...]
    """`errors[count]`: share of the weighted energy that is lost with the first `count` channels only."""


def channel_order(moments: Tensor, weights: Tensor) -> ChannelOrder:
    """Order channels by pivoted Cholesky of their second moments, for one or several readers at once.

    Args:
        moments: (readers, channels, channels) or (channels, channels), E[x xᵀ] of what reads, float64.
        weights: (readers, channels) or (channels,), squared norm of a reader's weights for each channel.
    """
    scale = weights.double().clamp_min(0).sqrt().reshape(-1, weights.shape[-1])
    scaled = moments.double().reshape(len(scale), *moments.shape[-2:]) * scale[:, :, None] * scale[:, None, :]
    left = scaled.diagonal(dim1=1, dim2=2).clone()
    noise, total = NOISE * left, left.sum().clamp_min(1e-300)
    columns = torch.zeros_like(scaled)
    free = torch.ones(scaled.shape[-1], dtype=torch.bool)
    order: list[int] = []
    errors = [1.0]
    for step in range(len(free)):
        pivot = int(left.sum(0).masked_fill(~free, -1.0).argmax())
        free[pivot] = False
        order.append(pivot)
        rest = scaled[:, :, pivot] - torch.einsum("rcs,rs->rc", columns[:, :, :step], columns[:, pivot, :step])
        known = left[:, pivot] > noise[:, pivot]
        columns[:, :, step] = torch.where(known[:, None], rest / left[:, pivot, None].clamp_min(1e-300).sqrt(), 0.0)
        left = ((left - columns[:, :, step].square()) * free).clamp_min(0.0)
        errors.append(float(left.sum() / total))
    return ChannelOrder(tuple(order), tuple(errors))


def interpolation(moments: Tensor, kept: list[int], dropped: list[int], ridge: float = 1e-6) -> Tensor:
    """Return the matrix (dropped, kept) that predicts dropped channels from kept ones in least squares."""
    moments = moments.double()
    among_kept = moments[kept][:, kept]
    # Where all are silent any answer will do, but there must be one.
    stabiliser = (ridge * among_kept.diagonal().mean()).clamp_min(1e-30) * torch.eye(len(kept), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(among_kept + stabiliser, moments[kept][:, dropped])
    return solution.T
