"""The contract of a data source: where samples for training and validation come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.progress import Reporter
from compressor.tensor_spec import TensorSpec


@dataclass(frozen=True)
class DataContext:
    """What a data source may know: the teacher's inputs and outputs, a seed, and where it may cache."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    seed: int
    cache_dir: Path
    reporter: Reporter
    teacher: str = ""
    """Where the teacher is: what it lies beside may say what it takes."""


class DataSource(BaseModel, ABC):
    """A frozen model whose fields are the recipe's `data` options, with one method.

    A source whose samples come from a folder calls that field `path`: `compress run --data FOLDER` fills it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]

    @property
    def output_rate(self) -> int | None:
        """Output samples per second, where the output is a signal one can listen to."""
        return None

    def analyse(self, path: Path, inputs: tuple[TensorSpec, ...]) -> Sample:
        """Return one file of the user's as a sample for a model with these inputs.

        Raises:
            DataError: this source cannot, or the file cannot be used.
        """
        raise DataError(f"{path}: the data source '{self.name}' cannot analyse a single file")

    @abstractmethod
    def load(self, context: DataContext) -> Dataset:
        """Return the samples; raise `DataError` where there are none to use."""
