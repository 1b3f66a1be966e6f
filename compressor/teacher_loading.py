"""From an ONNX file to a teacher: a torch graph that computes what onnxruntime computes, or a refusal."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx2torch import convert
from onnx2torch.node_converters.registry import get_converter

from compressor.errors import TeacherError
from compressor.graph_editing import placeholders, run_graph
from compressor.graph_normalising import normalise
from compressor.hookspecs import Converters
from compressor.onnx_converters import additional_converters
from compressor.package_files import resolve_package_path
from compressor.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from torch.fx import GraphModule

COMPARED_SIZES = (16, 33, 100)
"""Sizes of the dynamic axes at which torch is compared with onnxruntime."""

RELATIVE_TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the output's largest magnitude (or of one, if that is larger)."""


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher: its graph (in eval mode, never changed), its file, and what the file says of itself."""

    graph: GraphModule
    source: str
    """As the recipe or the user named it."""
    content: bytes
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    metadata: Mapping[str, str]
    """The file's own metadata properties, such as a licence."""

    @property
    def sha256(self) -> str:
        """Hash of the ONNX file."""
        return hashlib.sha256(self.content).hexdigest()


def load_teacher(source: str | Path, converters: Converters = MappingProxyType({})) -> Teacher:
    """Load an ONNX file, or `package://IMPORT_NAME/PATH`, and compare it with onnxruntime.

    `converters` are for operators that onnx2torch lacks; plugins offer them, see `Catalog.converters`.

    Raises:
        TeacherError: no such file, not an ONNX model, operators without a torch form, or other numbers than
            onnxruntime's.
    """
    content = _read(source)
    model = _parse(str(source), content)
    with additional_converters(converters):
        converted, graph = _converted(str(source), model)
    inputs, outputs = _specs(model.graph, initial=True), _specs(model.graph, initial=False)
    _attach_specs(graph, inputs, outputs)
    _tie_shared_weights(graph, converted)
    teacher = Teacher(
        graph=normalise(graph).eval(),
        source=str(source),
        content=content,
        opset=_opset(model),
        inputs=inputs,
        outputs=outputs,
        operators=Counter(node.op_type for node in model.graph.node),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )
    compare_with_onnxruntime(teacher)
    return teacher


def read_model(source: str | Path) -> tuple[bytes, tuple[TensorSpec, ...]]:
    """Return an ONNX file's content and inputs, without converting it.

    Raises:
        TeacherError: no such file, or not an ONNX model.
    """
    content = _read(source)
    return content, _specs(_parse(str(source), content).graph, initial=True)


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


def onnx_session(content: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime on the CPU; `threads` 0 takes every core."""
    return onnxruntime.InferenceSession(content, session_options(threads), providers=["CPUExecutionProvider"])


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Return how models are run in onnxruntime; `threads` 0 takes every core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def compare_with_onnxruntime(teacher: Teacher) -> None:
    """Compare torch with onnxruntime at three sizes of the dynamic axes.

    Raises:
        TeacherError: onnxruntime cannot run the file, or the numbers differ.
    """
    try:
        session = onnx_session(teacher.content)
    except Exception as error:
        raise TeacherError(f"{teacher.source}: onnxruntime cannot load it: {error}") from error
    for size in COMPARED_SIZES:
        arrays = random_inputs(teacher.inputs, size)
        try:
            expected = session.run(None, arrays)
            with torch.no_grad():
                found = run_graph(teacher.graph, tuple(torch.from_numpy(array) for array in arrays.values()))
        except Exception as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise TeacherError(f"{teacher.source}: cannot be run on inputs of shape {shapes}: {error}") from error
        _refuse_difference(teacher.source, size, expected, found)


def _refuse_difference(source: str, size: int, expected: list[NDArray[Any]], found: tuple[torch.Tensor, ...]) -> None:
    for wanted, value in zip(expected, found, strict=True):
        allowed = RELATIVE_TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
        got = value.numpy()
        difference = float(np.abs(got - wanted).max(initial=0.0)) if got.shape == wanted.shape else float("inf")
        if not difference <= allowed:
            raise TeacherError(
                f"{source}: torch and onnxruntime disagree at size {size}: shapes {got.shape} and {wanted.shape}, "
                f"largest difference {difference:.3g}, allowed {allowed:.3g}. The model uses an operator that "
                "onnx2torch converts wrongly, or random numbers."
            )


def _read(source: str | Path) -> bytes:
    path = resolve_package_path(str(source)) if str(source).startswith("package://") else Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TeacherError(f"{source} {what}; expected an ONNX file, such as my_vocoder.onnx")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TeacherError(f"{source}: cannot be read: {error.strerror}") from error


def _parse(source: str, content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TeacherError(
            f"{source} ({len(content):,} bytes) is not a whole ONNX model: {first_line}. "
            "A truncated download looks like this: fetch the file again, or export it again."
        ) from error
    return model


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _converted(source: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, GraphModule]:
    """Convert a model as it is or, where onnx2torch cannot, with its constants folded: weights may be computed ones.

    Returns the model that was converted, too.
    """
    try:
        return model, _convert(source, model)
    except TeacherError as reason:
        folded = _folded(model)
        try:
            return folded, _convert(source, folded)
        except TeacherError:
            # What is wrong is told in terms of the user's file.
            raise reason from None


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        folded: onnx.ModelProto = onnxslim.slim(copy)
    except Exception:  # What is odd about the model is better told by the one that converts it.
        return model
    return folded


def _refuse_unsupported(source: str, model: onnx.ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    missing: dict[str, str] = {}
    for node in model.graph.node:
        try:
            get_converter(node.op_type, versions.get(node.domain, 1), node.domain)
        except NotImplementedError:
            missing.setdefault(f"{node.domain or 'ai.onnx'}.{node.op_type}", node.name or node.output[0])
    if missing:
        listed = "\n  ".join(f"{operator} (first at '{place}')" for operator, place in sorted(missing.items()))
        raise TeacherError(
            f"{source}: onnx2torch has no converter at opset {_opset(model)} for:\n  {listed}\n"
            "Export the model with opset 17 or lower and without these operators, or install a plugin that "
            "offers converters (hook compressor_onnx_converters)."
        )


def _convert(source: str, model: onnx.ModelProto) -> GraphModule:
    # onnx2torch warns through the root logger about what it then does right.
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    _refuse_unsupported(source, model)
    try:
        graph: GraphModule = convert(model, attach_onnx_mapping=False)
    except Exception as error:
        raise TeacherError(
            f"{source}: onnx2torch cannot convert it, nor with its constants folded: {type(error).__name__}: {error}"
        ) from error
    return graph


def _specs(graph: onnx.GraphProto, *, initial: bool) -> tuple[TensorSpec, ...]:
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


def _attach_specs(graph: GraphModule, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    for node, spec in zip(placeholders(graph), inputs, strict=True):
        node.meta["tensor_spec"] = spec
    next(node for node in graph.graph.nodes if node.op == "output").meta["tensor_specs"] = outputs


def _tie_shared_weights(graph: GraphModule, model: onnx.ModelProto) -> None:
    """Make an initializer that several nodes use one parameter again: onnx2torch copies it for each."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    shared = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if uses[tensor.name] > 1]
    for array in shared:
        owners = [
            (module, name)
            for module in graph.modules()
            for name, weight in module.named_parameters(recurse=False)
            if weight.shape == array.shape and np.array_equal(weight.detach().numpy(), array)
        ]
        for module, name in owners[1:]:
            setattr(module, name, getattr(*owners[0]))
