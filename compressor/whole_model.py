"""The model around a region: it makes the region's inputs, and takes the student in the region's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError, VerificationError
from compressor.graph_editing import feed
from compressor.region import Region, part_before, put_back
from compressor.tensor_spec import TensorSpec

PROBED_SIZES = (16, 32)
"""Sizes of the dynamic axes at which the model before a region is run to learn its rates."""

MOST_DIFFERENCE = 1e-4
"""Between the student by itself and the student in its place, as a share of the largest value."""


@dataclass(frozen=True)
class WholeModel:
    """A model of which a region is compressed."""

    content: bytes
    region: Region
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def recorded(self, data: Dataset, seed: int) -> Dataset:
        """Return samples for the region, made by running the rest of the model on samples for the model.

        Raises:
            DataError: the model cannot be run on the samples.
        """
        # Kernels that draw random numbers seed their generators from this when the session is made.
        onnxruntime.set_seed(seed)
        session = _session(part_before(onnx.load_model_from_string(self.content), self.region).SerializeToString())

        def at_border(sample: Sample) -> Sample:
            try:
                made = session.run(list(self.region.inputs), _taken(session, sample.inputs))
            except Exception as error:
                raise DataError(f"the model cannot be run on '{sample.name}': {error}") from error
            return replace(sample, inputs=dict(zip(self.region.inputs, made, strict=True)))

        return replace(
            data,
            train=tuple(at_border(sample) for sample in data.train),
            validation=tuple(at_border(sample) for sample in data.validation),
            origin=data.validation[0] if data.validation else None,
        )

    def with_student(self, student: bytes, metadata: Mapping[str, str]) -> bytes:
        """Return the whole model with a student in its region, and more metadata."""
        model = put_back(onnx.load_model_from_string(self.content), self.region, onnx.load_model_from_string(student))
        known = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, {**metadata, **known})
        return bytes(model.SerializeToString())

    def check(self, content: bytes, student: torch.fx.GraphModule, inputs: Mapping[str, Any]) -> float:
        """Return how far the whole file's region is from the torch student, on one sample for the whole model.

        What enters and leaves the region is read in the run in which the file makes its output, so random operators
        around it make no difference.

        Raises:
            VerificationError: by more than rounding.
        """
        model = onnx.load_model_from_string(content)
        border = (*self.region.inputs, *self.region.outputs)
        present = {value.name for value in (*model.graph.output, *model.graph.input)}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in border if name not in present)
        session = _session(model.SerializeToString())
        given = _taken(session, inputs)
        names = [name for name in border if name not in given]
        values = {**given, **dict(zip(names, session.run(names, given), strict=True))}
        found = feed(student, tuple(torch.from_numpy(values[name]) for name in self.region.inputs))
        worst = 0.0
        for name, made in zip(self.region.outputs, found, strict=True):
            wanted = values[name]
            got = made.numpy().reshape(wanted.shape)
            worst = max(worst, float(np.abs(got - wanted).max(initial=0.0) / max(1.0, np.abs(wanted).max(initial=0.0))))
        if not worst <= MOST_DIFFERENCE:
            raise VerificationError(f"in its place the student differs from itself by {worst:.3g} of the largest value")
        return worst


def border_rates(model: onnx.ModelProto, region: Region, inputs: tuple[TensorSpec, ...]) -> dict[str, tuple[int, ...]]:
    """Return how many times as long a region's inputs are as a model's, by axis, found out by running what is before.

    Nothing where their sizes do not follow from the model's by a factor, as where a model decides how long to speak.
    """
    from compressor.tensor_spec import random_inputs

    session = _session(part_before(model, region).SerializeToString())
    shapes = []
    for size in PROBED_SIZES:
        try:
            made = session.run(list(region.inputs), _taken(session, random_inputs(inputs, size)))
        except Exception:  # A model may want inputs that fit together; nothing is known of them here.
            return {}
        shapes.append([array.shape for array in made])
    small, large = shapes
    rates: dict[str, tuple[int, ...]] = {}
    for name, first, second in zip(region.inputs, small, large, strict=True):
        axes = tuple(one // PROBED_SIZES[0] for one in first)
        fixed = [one == other for one, other in zip(first, second, strict=True)]
        grown = [rate * PROBED_SIZES[1] == other for rate, other in zip(axes, second, strict=True)]
        if not all(same or fits for same, fits in zip(fixed, grown, strict=True)):
            return {}
        rates[name] = tuple(1 if same else rate for rate, same in zip(axes, fixed, strict=True))
    return rates


def _session(content: bytes) -> Any:
    from compressor.stored_model import onnx_session

    return onnx_session(content)


def _taken(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those inputs that a session takes, in the types that it takes."""
    kinds = {value.name: value.type for value in session.get_inputs()}
    return {
        name: array.astype(np.int64) if kinds[name] == "tensor(int64)" else array
        for name, array in inputs.items()
        if name in kinds
    }
