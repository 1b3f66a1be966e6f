"""The model around a region: it makes the region's inputs, and takes the student in the region's place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError, VerificationError
from compressor.graph_editing import feed
from compressor.lazy_samples import LazySamples
from compressor.region import Region, part_before, put_back
from compressor.segments import can_be_cut, length_of
from compressor.tensor_spec import TensorSpec

PROBED_SIZES = (16, 32)
"""Sizes of the dynamic axes at which the model before a region is run to learn its rates."""

DRAWING = frozenset({"Multinomial", "Bernoulli", "Dropout"})
"""Operators that draw random numbers, besides those whose name says so."""

MOST_DIFFERENCE = 1e-4
"""Between the student by itself and the student in its place, as a share of the largest value."""


@dataclass(frozen=True)
class WholeModel:
    """A model of which a region is compressed."""

    content: bytes
    region: Region
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def recorded(self, data: Dataset, seed: int, specs: tuple[TensorSpec, ...]) -> Dataset:
        """Return samples for the region, whose inputs `specs` tell, by running the rest of the model on the model's.

        Their identity tells what was run as well, and with what seed if that draws random numbers.

        Raises:
            DataError: the model cannot be run on the samples.
        """
        before = _PartBefore(part_before(onnx.load_model_from_string(self.content), self.region), self.region, seed)
        named = f"{self.before_sha256} {seed if before.draws else ''}"
        train = data.train
        lazy = before.lazily(train, specs, named) if isinstance(train, LazySamples) else None
        return replace(
            data,
            train=tuple(map(before.run, train)) if lazy is None else lazy,
            validation=tuple(map(before.run, data.validation)),
            identity=hashlib.sha256(f"{data.identity} {named}".encode()).hexdigest(),
            origin=data.validation[0] if data.validation else None,
        )

    @cached_property
    def before_sha256(self) -> str:
        """Hash of all that makes the region's inputs from the model's, and of the names at the region's border.

        What the file tells besides, such as who made it, plays no part.
        """
        model = part_before(onnx.load_model_from_string(self.content), self.region)
        for node in model.graph.node:
            node.ClearField("doc_string")
        graph = onnx.helper.make_graph(
            model.graph.node, "before", model.graph.input, model.graph.output, model.graph.initializer,
            sparse_initializer=model.graph.sparse_initializer,
        )  # fmt: skip
        alone = onnx.helper.make_model(
            graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
        )
        digest = hashlib.sha256(alone.SerializeToString(deterministic=True))
        digest.update(repr((self.region.inputs, self.region.outputs)).encode())
        return digest.hexdigest()

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


class _PartBefore:
    """Runs what lies before a region on samples for the whole model."""

    def __init__(self, model: onnx.ModelProto, region: Region, seed: int) -> None:
        self.region = region
        self.seed = seed
        self.content = model.SerializeToString()
        nodes = chain(model.graph.node, *(function.node for function in model.functions))
        self.draws = any(name.startswith("Random") or name in DRAWING for name in _operators(nodes))
        self.session = self._fresh_session()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.session = self._fresh_session()

    def _fresh_session(self) -> Any:
        # Kernels that draw random numbers seed their generators from this when the session is made.
        onnxruntime.set_seed(self.seed)
        return _session(self.content)

    def run(self, sample: Sample) -> Sample:
        try:
            made = self.session.run(list(self.region.inputs), _taken(self.session, sample.inputs))
        except Exception as error:
            raise DataError(f"the model cannot be run on '{sample.name}': {error}") from error
        return replace(sample, inputs=dict(zip(self.region.inputs, made, strict=True)))

    def lazily(self, samples: LazySamples, specs: tuple[TensorSpec, ...], named: str) -> LazySamples:
        """Return samples that are run when asked for; their lengths are judged by the first's."""
        made = samples.changed(self._run_alone, samples.lengths, named)
        if not can_be_cut(specs):
            return made
        first = made[0]
        steps = length_of([torch.from_numpy(first.inputs[spec.name]) for spec in specs], specs)
        # Another may stand at its place.
        given = samples.lengths[made.standing(0)]
        return samples.changed(self._run_alone, samples.lengths * steps // given, named)

    def _run_alone(self, sample: Sample) -> Sample:
        """Run on a sample whose random numbers may not depend on what was run before."""
        if self.draws:
            self.session = self._fresh_session()
        return self.run(sample)


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


def _operators(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names of operators, of those in subgraphs too."""
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _operators(graph.node)


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
