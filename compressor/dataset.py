"""What training, calibration and validation work on: named arrays for the teacher's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One example: an array per teacher input (batch axis of one; time, where there is one, last)."""

    name: str
    inputs: Mapping[str, FloatArray]
    reference: FloatArray | None = None
    """What a perfect model would put out, such as the recording, flat: (samples,)."""


@dataclass(frozen=True)
class Dataset:
    """Samples for training and, never mixed with them, for validation."""

    train: Sequence[Sample]
    """In memory, or `LazySamples` where there are too many: take a few, or one after the other, never all at once."""
    validation: tuple[Sample, ...]
    identity: str
    """sha256 over what tells the samples' content: two datasets of one identity are interchangeable."""
    description: str = ""
    sample_rate: int | None = None
    """Output samples per second, where the output is a signal."""
    findings: tuple[str, ...] = field(default=())
    """What the user should know: files skipped and why."""
    origin: Sample | None = None
    """Where samples are a region's: the whole model's that the first to validate was made from."""
