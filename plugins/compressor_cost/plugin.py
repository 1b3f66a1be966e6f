"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.metric import Metric


@hookimpl
def compressor_metrics() -> Sequence[type[Metric]]:
    """Offer the cost metrics, and the drift of the output."""
    from compressor_cost.drift import OutputDrift
    from compressor_cost.metrics import FileBytes, Latency, Macs, Parameters, RealTimeFactor, Speedup

    return [Parameters, Macs, FileBytes, Latency, RealTimeFactor, Speedup, OutputDrift]
