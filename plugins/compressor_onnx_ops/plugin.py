"""What this plugin offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.hookspecs import hookimpl

if TYPE_CHECKING:
    from compressor.hookspecs import Converters


@hookimpl
def compressor_onnx_converters() -> Converters:
    """Offer the operators that onnx2torch lacks, up to the newest version that the installed onnx knows."""
    from compressor_onnx_ops.registration import all_converters

    return all_converters()
