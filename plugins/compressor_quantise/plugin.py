"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.strategy import Strategy


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer 8-bit quantisation."""
    from compressor_quantise.int8 import Int8Quantisation

    return [Int8Quantisation]
