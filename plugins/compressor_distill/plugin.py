"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.loss import Loss
    from compressor.metric import Metric
    from compressor.strategy import Strategy


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer distillation."""
    from compressor_distill.distillation import Distillation

    return [Distillation]


@hookimpl
def compressor_losses() -> Sequence[type[Loss]]:
    """Offer the losses on outputs and features of any kind."""
    from compressor_distill.losses import (
        AttentionTransfer,
        Gram,
        KlDivergence,
        MeanAbsolute,
        MeanSquare,
        PairwiseSimilarity,
        RelativeL1,
    )

    return [MeanSquare, MeanAbsolute, RelativeL1, KlDivergence, Gram, AttentionTransfer, PairwiseSimilarity]


@hookimpl
def compressor_metrics() -> Sequence[type[Metric]]:
    """Offer the agreement of classifiers."""
    from compressor_distill.agreement import TopOneAgreement

    return [TopOneAgreement]
