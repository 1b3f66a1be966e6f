"""Which of the teacher's channels a pruned tensor still has: those that it goes along with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compressor_reconstruct.refit import Evidence

ALIKE = 0.5
"""Least correlation of a kept channel with the teacher's: errors of the layers before may have blurred it."""


def same_channels(evidence: Sequence[Evidence]) -> Sequence[Evidence]:
    """Return evidence that wants of the teacher what the student kept; unchanged where nothing was removed.

    Unchanged too where it does not show: pruning keeps the order of channels, so those that are most alike must stand
    in order as well.
    """
    ours, theirs = evidence[0].now, evidence[0].wanted
    if ours.dim() < 3 or ours.shape[1] >= theirs.shape[1] or ours.shape[2:] != theirs.shape[2:]:
        return evidence
    alike = _correlation(ours, theirs)
    kept = alike.argmax(1)
    if not (bool((kept.diff() > 0).all()) and bool((alike.max(1).values > ALIKE).all())):
        return evidence
    return [replace(each, wanted=each.wanted[:, kept]) for each in evidence]


def _correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return (our channels, their channels)."""
    rows = [value.movedim(1, 0).flatten(1) for value in (ours, theirs)]
    rows = [row - row.mean(1, keepdim=True) for row in rows]
    first, second = (row / row.norm(dim=1, keepdim=True).clamp_min(1e-20) for row in rows)
    return torch.mm(first, second.T)
