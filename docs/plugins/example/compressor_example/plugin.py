"""What this plugin offers. Classes are imported inside the hooks: `compress --help` should not wait for torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.metric import Metric
    from compressor.strategy import Strategy

COMPRESSOR_API = 1


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer weight rounding."""
    from compressor_example.weight_rounding import WeightRounding

    return [WeightRounding]


@hookimpl
def compressor_metrics() -> Sequence[type[Metric]]:
    """Offer the largest difference of the output."""
    from compressor_example.max_abs_difference import MaxAbsDifference

    return [MaxAbsDifference]
