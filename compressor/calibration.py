"""Inputs for measuring a student: training samples, cut short where their length is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compressor.dataset import Sample
from compressor.tensor_spec import TensorSpec

LONGEST = 256
"""Size of a dynamic last axis above which calibration inputs are cut: more of a sample says little more."""


def calibration_inputs(
    specs: Sequence[TensorSpec], samples: Sequence[Sample], longest: int = LONGEST
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs of each sample in the model's order."""
    for sample in samples:
        values = (torch.from_numpy(sample.inputs[spec.name]) for spec in specs)
        yield tuple(
            value[..., :longest] if len(spec.shape) - 1 in spec.dynamic_axes else value
            for spec, value in zip(specs, values, strict=True)
        )
