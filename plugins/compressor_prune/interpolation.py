"""Which channels say most about the others, and how the others follow from them.

Interpolative decomposition (Chee et al., arXiv 2108.00065): channels are taken one by one, each time the one with the
largest part that those taken so far do not explain (pivoted Cholesky). A dropped channel is then replaced by its best
linear combination of kept ones, which folds into the weights of the layer that reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelOrder:
    """Channels from the most to the least telling, and what is lost when only the first ones stay."""

    order: tuple[int, ...]
    errors: tuple[float, ...]
    """`errors[width]`: share of the weighted energy that the first `width` channels cannot explain."""


def channel_order(moments: Tensor, weights: Tensor) -> ChannelOrder:
    """Order channels by pivoted Cholesky of their second moments.

    Args:
        moments: (channels, channels), E[x xᵀ] of what the next layer reads, float64.
        weights: (channels,), squared norm of the next layer's weights for each channel.
    """
    scale = weights.double().clamp_min(0).sqrt()
    residual = moments.double() * scale[:, None] * scale[None, :]
    total = residual.diagonal().sum().clamp_min(1e-300)
    order: list[int] = []
    errors = [1.0]
    free = torch.ones(len(scale), dtype=torch.bool)
    for _ in range(len(scale)):
        left = residual.diagonal().masked_fill(~free, -1.0)
        pivot = int(left.argmax())
        free[pivot] = False
        order.append(pivot)
        if float(left[pivot]) > 0:
            column = residual[:, pivot] / left[pivot].sqrt()
            residual = residual - torch.outer(column, column)
        rest = residual.diagonal().masked_fill(~free, 0.0).clamp_min(0.0)
        errors.append(float(rest.sum() / total))
    return ChannelOrder(tuple(order), tuple(errors))


def interpolation(moments: Tensor, kept: list[int], dropped: list[int], ridge: float = 1e-6) -> Tensor:
    """Return the matrix (dropped, kept) that predicts dropped channels from kept ones in least squares."""
    moments = moments.double()
    among_kept = moments[kept][:, kept]
    stabiliser = ridge * among_kept.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(among_kept + stabiliser, moments[kept][:, dropped])
    return solution.T
