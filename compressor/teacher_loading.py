"""From an ONNX file to a teacher: a torch graph that computes what onnxruntime computes, or a refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compressor.graph_editing import placeholders
from compressor.graph_normalising import normalise
from compressor.hookspecs import Converters
from compressor.onnx_conversion import convert_model, newest_opset
from compressor.parity import Parity, compare_with_onnxruntime
from compressor.recipe import RegionNames
from compressor.region import cut_out, resolve
from compressor.stored_model import StoredModel, parse_model, read_stored
from compressor.tensor_spec import TensorSpec
from compressor.whole_model import WholeModel, border_rates

if TYPE_CHECKING:
    from torch.fx import GraphModule


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
    return replace(teacher, parity=compare_with_onnxruntime(str(source), stored, teacher.graph, inputs))


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
