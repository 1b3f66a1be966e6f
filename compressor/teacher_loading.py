"""From an ONNX file to a teacher: a torch graph that computes what onnxruntime computes, or a refusal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from compressor.errors import TeacherError
from compressor.graph_editing import placeholders, run_graph
from compressor.graph_normalising import normalise
from compressor.hookspecs import Converters
from compressor.onnx_conversion import convert_model, newest_opset
from compressor.recipe import RegionNames
from compressor.region import cut_out, resolve
from compressor.shared_draws import recorded_draws, taking_draws
from compressor.stored_model import StoredModel, onnx_session, parse_model, read_stored
from compressor.tensor_spec import TensorSpec
from compressor.whole_model import WholeModel, border_rates

if TYPE_CHECKING:
    from torch.fx import GraphModule

COMPARED_SIZES = (16, 33, 100)
"""Sizes of the dynamic axes at which torch is compared with onnxruntime."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the output's largest magnitude (or of one, if that is larger)."""


@dataclass(frozen=True)
class Parity:
    """How near torch comes to onnxruntime, over all compared sizes; both compute in float32."""

    sizes: tuple[int, ...]
    absolute: float
    """Largest difference of any output."""
    relative: float
    """The same as a share of the output's largest magnitude, or of one, if that is larger."""
    snr_db: float
    """Energy of the outputs over that of the difference, in decibels, of the size where it is least."""

    def __str__(self) -> str:
        return f"{self.absolute:.1e} apart at most, {self.relative:.1e} of the largest value, {self.snr_db:.0f} dB"


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher: its graph (in eval mode, never changed), its file, and what the file says of itself."""

    graph: GraphModule
    source: str
    """As the recipe or the user named it."""
    stored: StoredModel
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    metadata: Mapping[str, str]
    """The file's own metadata properties, such as a licence."""
    parity: Parity | None = None
    """How near the graph comes to the file in onnxruntime."""
    whole: WholeModel | None = None
    """The model around it, where the teacher is a region of one; `stored` is the region by itself then."""

    @property
    def content(self) -> bytes:
        """The ONNX file, with all its weights inside.

        Raises:
            TeacherError: there are too many of them.
        """
        return self.stored.content()

    @property
    def sha256(self) -> str:
        """Hash of the ONNX file; where the teacher is a region, of the region by itself."""
        return self.stored.sha256


def load_teacher(
    source: str | Path, converters: Converters = MappingProxyType({}), region: RegionNames | None = None
) -> Teacher:
    """Load an ONNX file, or `package://IMPORT_NAME/PATH`, and compare it with onnxruntime.

    `converters` are for operators that onnx2torch lacks; plugins offer them, see `Catalog.converters`. With a `region`
    the teacher is that part of the model alone.

    Raises:
        TeacherError: no such file, not an ONNX model, operators without a torch form, or other numbers than
            onnxruntime's.
    """
    stored = read_stored(source)
    model = parse_model(str(source), stored)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    whole = None
    if region is not None:
        complete = stored.complete()
        whole = _around(str(source), complete, stored.content(), region)
        model = cut_out(complete, whole.region, border_rates(complete, whole.region, whole.inputs))
        stored = StoredModel.of(model.SerializeToString())
        model = stored.model
    graph = convert_model(str(source), model, converters, stored.weights)
    inputs, outputs = model_specs(model.graph, initial=True), model_specs(model.graph, initial=False)
    attach_specs(graph, inputs, outputs)
    teacher = Teacher(
        graph=normalise(graph).eval(),
        source=str(source),
        stored=stored,
        opset=newest_opset(model),
        inputs=inputs,
        outputs=outputs,
        operators=Counter(node.op_type for node in model.graph.node),
        metadata=metadata,
        whole=whole,
    )
    return replace(teacher, parity=compare_with_onnxruntime(teacher))


def _around(source: str, model: onnx.ModelProto, content: bytes, names: RegionNames) -> WholeModel:
    return WholeModel(
        content=content,
        region=resolve(source, model, names.inputs, names.outputs),
        inputs=model_specs(model.graph, initial=True),
        outputs=model_specs(model.graph, initial=False),
    )


def read_model(source: str | Path) -> tuple[StoredModel, tuple[TensorSpec, ...]]:
    """Return an ONNX file and its inputs, without converting it.

    Raises:
        TeacherError: no such file, or not an ONNX model.
    """
    stored = read_stored(source)
    return stored, model_specs(parse_model(str(source), stored).graph, initial=True)


def random_inputs(inputs: tuple[TensorSpec, ...], size: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return standard-normal inputs (zeros and ones for integers) with `size` for every dynamic axis."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape = spec.sized(size)
        floating = spec.dtype.startswith("float")
        values = generator.standard_normal(shape) if floating else generator.integers(0, 2, shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def compare_with_onnxruntime(teacher: Teacher) -> Parity:
    """Compare torch with onnxruntime at three sizes of the dynamic axes.

    Raises:
        TeacherError: onnxruntime cannot run the file, or the numbers differ.
    """
    try:
        session = onnx_session(teacher.stored)
    except Exception as error:
        raise TeacherError(f"{teacher.source}: onnxruntime cannot load it: {error}") from error
    found_so_far: list[Parity] = []
    for size in COMPARED_SIZES:
        arrays = random_inputs(teacher.inputs, size)
        try:
            with torch.no_grad(), recorded_draws(teacher.graph) as draws:
                found = run_graph(teacher.graph, tuple(torch.from_numpy(array) for array in arrays.values()))
            taking, drawn = taking_draws(teacher.stored, draws, by_name=True)
            session = onnx_session(taking) if drawn else session
            expected = session.run(None, {**arrays, **drawn})
        except Exception as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise TeacherError(f"{teacher.source}: cannot be run on inputs of shape {shapes}: {error}") from error
        _refuse_difference(teacher.source, size, expected, found)
        found_so_far.append(_parity(size, expected, found))
    return Parity(
        sizes=COMPARED_SIZES,
        absolute=max(each.absolute for each in found_so_far),
        relative=max(each.relative for each in found_so_far),
        snr_db=min(each.snr_db for each in found_so_far),
    )


def _parity(size: int, expected: list[NDArray[Any]], found: tuple[torch.Tensor, ...]) -> Parity:
    absolute = relative = signal = noise = 0.0
    for wanted, value in zip(expected, found, strict=True):
        exact = wanted.astype(np.float64)
        off = np.abs(value.numpy().astype(np.float64) - exact)
        worst = float(off.max(initial=0.0))
        absolute = max(absolute, worst)
        relative = max(relative, worst / max(1.0, float(np.abs(exact).max(initial=0.0))))
        signal, noise = signal + float(np.square(exact).sum()), noise + float(np.square(off).sum())
    snr = 10 * math.log10(signal / noise) if signal and noise else math.inf
    return Parity((size,), absolute, relative, snr)


def _refuse_difference(source: str, size: int, expected: list[NDArray[Any]], found: tuple[torch.Tensor, ...]) -> None:
    for wanted, value in zip(expected, found, strict=True):
        allowed = RELATIVE_TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
        got = value.numpy()
        difference = float(np.abs(got - wanted).max(initial=0.0)) if got.shape == wanted.shape else float("inf")
        if not difference <= allowed:
            raise TeacherError(
                f"{source}: torch and onnxruntime disagree at size {size}: shapes {got.shape} and {wanted.shape}, "
                f"largest difference {difference:.3g}, allowed {allowed:.3g}. The model uses an operator that "
                "is converted wrongly."
            )


def model_specs(graph: onnx.GraphProto, *, initial: bool) -> tuple[TensorSpec, ...]:
    """Return the specs of a model's inputs (those that are no weights), or of its outputs."""
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in (graph.input if initial else graph.output) if value.name not in weights]
    return tuple(
        TensorSpec(
            name=value.name,
            shape=tuple(
                size.dim_value if size.HasField("dim_value") else (size.dim_param or f"{value.name}_axis_{axis}")
                for axis, size in enumerate(value.type.tensor_type.shape.dim)
            ),
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name,
        )
        for value in values
    )


def attach_specs(graph: GraphModule, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Note on a graph what its inputs and outputs are called and how large they are."""
    for node, spec in zip(placeholders(graph), inputs, strict=True):
        node.meta["tensor_spec"] = spec
    next(node for node in graph.graph.nodes if node.op == "output").meta["tensor_specs"] = outputs
