"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data_source import DataSource
from compressor.hookspecs import hookimpl
from compressor_arrays.array_folder import ArrayFolder


@hookimpl
def compressor_data_sources() -> Sequence[type[DataSource]]:
    """Offer files of arrays."""
    return [ArrayFolder]
