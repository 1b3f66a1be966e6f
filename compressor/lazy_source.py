"""What sources share whose samples may be too many for memory."""

from __future__ import annotations

from abc import ABC

from pydantic import Field

from compressor.data_source import DataSource
from compressor.working_ahead import usable_cores

MOST_WORKERS = 8


class LazySource(DataSource, ABC):
    """A source that holds its training samples, or where they are too many makes them as training asks for them.

    Those are `LazySamples`, made ahead by `helpers` processes.
    """

    memory_mb: int = Field(
        default=512,
        ge=0,
        description="training samples that take more than this are made as they are needed, each time",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="processes that make such samples ahead; null: one less than there are cores, at most 8",
    )

    def holds(self, size: float) -> bool:
        """Say whether training samples of so many bytes are held in memory."""
        return size <= self.memory_mb * 1e6

    @property
    def helpers(self) -> int:
        """Processes that make samples ahead."""
        return min(MOST_WORKERS, usable_cores() - 1) if self.workers is None else self.workers
