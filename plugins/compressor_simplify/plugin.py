"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.strategy import Strategy


@hookimpl
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Offer simplifications that know no architecture."""
    from compressor_simplify.activation_replacement import ActivationReplacement
    from compressor_simplify.folding import Fold

    return [Fold, ActivationReplacement]
