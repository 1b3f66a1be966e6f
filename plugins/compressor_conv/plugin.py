"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.strategy import Strategy


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer the convolution rewrites."""
    from compressor_conv.depthwise_separable import DepthwiseSeparableConv
    from compressor_conv.fastest_form import FastestExactForm
    from compressor_conv.fewer_multiplications import WinogradConvStrategy
    from compressor_conv.low_rank import LowRankConv
    from compressor_conv.transposed import TransposedToStandardConv
    from compressor_conv.two_dimensional import Conv1dToConv2d

    return [
        DepthwiseSeparableConv,
        LowRankConv,
        TransposedToStandardConv,
        Conv1dToConv2d,
        WinogradConvStrategy,
        FastestExactForm,
    ]
