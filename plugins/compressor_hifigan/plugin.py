"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.strategy import Strategy


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer the strategies for HiFi-GAN's family."""
    from compressor_hifigan.mrf_simplification import MrfSimplification
    from compressor_hifigan.readable_student import ReadableHiFiGAN

    return [MrfSimplification, ReadableHiFiGAN]
