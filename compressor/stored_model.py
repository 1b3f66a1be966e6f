"""An ONNX file in memory: a graph that is small enough to be copied at every step, and its large weights, held once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import external_data_helper

from compressor.errors import TeacherError
from compressor.package_files import resolve_package_path
from compressor.weights_apart import Weights, completed, refer, stands_apart, weights_apart

LIMIT = 2**31 - 1
"""Bytes that a protocol buffer can have."""


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model whose large weights stand beside its graph."""

    outline: bytes
    """The model; of its large weights only the names, types and shapes."""
    weights: Weights
    """The large weights by name."""
    sha256: str
    """Of the file, and of the files beside it that it refers to."""
    size: int
    """Bytes of all of them."""

    @classmethod
    def of(cls, content: bytes, beside: Weights | None = None) -> StoredModel:
        """Return a file's content; `beside` are weights that it keeps elsewhere."""
        outline, views = weights_apart(content)
        # Copied, as views would hold the whole file, and at addresses that kernels may refuse.
        weights = {name: view.copy() for name, view in views.items()}
        digest = hashlib.sha256(content)
        size = len(content)
        if beside:
            outline = _with(outline, beside)
            weights |= {name: array for name, array in beside.items() if stands_apart(array)}
            for array in beside.values():
                digest.update(array.tobytes())
                size += array.nbytes
        return cls(outline, weights, digest.hexdigest(), size)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The outline, parsed; not to be changed."""
        return onnx.load_model_from_string(self.outline)

    def complete(self) -> onnx.ModelProto:
        """Return the model with all its weights inside."""
        return completed(self.model, self.weights)

    def content(self) -> bytes:
        """Return the whole model as one file.

        Raises:
            TeacherError: it is too large for one.
        """
        if not self.weights:
            return self.outline
        if self.size > LIMIT:
            raise TeacherError(
                f"a model of {self.size / 2**30:.1f} GB does not fit into one ONNX file (2 GB), which this needs: "
                "regions and the student's place in a whole model can only be had of smaller models"
            )
        return bytes(self.complete().SerializeToString())


def read_stored(source: str | Path) -> StoredModel:
    """Return a file, with the weights that it keeps in files beside it.

    Raises:
        TeacherError: no such file, it cannot be read, or its weights lie elsewhere.
    """
    path = resolve_package_path(str(source))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TeacherError(f"{source} {what}; expected an ONNX file, such as my_vocoder.onnx")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TeacherError(f"{source}: cannot be read: {error.strerror}") from error
    content = _with_inner_data(source, path.parent, content)
    return StoredModel.of(content, _all_beside(source, path.parent, content))


def _all_beside(source: str | Path, folder: Path, content: bytes) -> dict[str, NDArray[Any]]:
    outline, inside = weights_apart(content)
    try:
        model = onnx.load_model_from_string(outline)
    except Exception:  # What is wrong is told by the one who needs the model.
        return {}
    # Those that are apart look as if they lay outside.
    outside = [tensor for tensor in model.graph.initializer if tensor.name not in inside]
    return {
        tensor.name: _beside(source, folder, tensor)
        for tensor in outside
        if external_data_helper.uses_external_data(tensor)
    }


def _with_inner_data(source: str | Path, folder: Path, content: bytes) -> bytes:
    """Return a file with the values inside that branches, loops and attributes keep in files beside it."""
    outline, inside = weights_apart(content)
    try:
        model = onnx.load_model_from_string(outline)
    except Exception:  # What is wrong is told by the one who needs the model.
        return content
    found = [tensor for tensor in _inner_tensors(model.graph) if external_data_helper.uses_external_data(tensor)]
    for tensor in found:
        _load(source, folder, tensor)
    return bytes(completed(model, inside).SerializeToString()) if found else content


def _inner_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors that nodes have as attributes, and those of graphs inside."""
    for node in graph.node:
        for attribute in node.attribute:
            yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from inner.initializer
                yield from _inner_tensors(inner)


def _beside(source: str | Path, folder: Path, tensor: onnx.TensorProto) -> NDArray[Any]:
    """Return a weight that lies in another file; onnx refuses those of other folders, and links to them."""
    _load(source, folder, tensor)
    array: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    return array


def _load(source: str | Path, folder: Path, tensor: onnx.TensorProto) -> None:
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise TeacherError(
            f"{source}: its weights lie in files beside it, which cannot be used: {' '.join(str(error).split())}. They "
            "belong into the model's own folder, under the names that it has for them."
        ) from error


def _with(outline: bytes, beside: Weights) -> bytes:
    """Return an outline that has small weights inside and refers to large ones by their names."""
    model = onnx.load_model_from_string(outline)
    for tensor in model.graph.initializer:
        array = beside.get(tensor.name)
        if array is not None and stands_apart(array):
            refer(tensor, array.nbytes)
        elif array is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return bytes(model.SerializeToString())


def parse_model(source: str, stored: StoredModel) -> onnx.ModelProto:
    """Return a file's outline, checked.

    Raises:
        TeacherError: it is no ONNX model, or not a whole one.
    """
    try:
        model = onnx.load_model_from_string(stored.outline)
        _refuse_nonsense(model)
        onnx.checker.check_model(_checkable(model, stored.weights))
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TeacherError(
            f"{source} ({stored.size:,} bytes) is not a whole ONNX model: {first_line}. "
            "A truncated download looks like this: fetch the file again, or export it again."
        ) from error
    return model


def _refuse_nonsense(model: onnx.ModelProto) -> None:
    """Refuse what onnx's checker lets through.

    Raises:
        ValueError: a name is no text, or an input or output is no tensor of a known type.
    """
    for text in _texts(model):
        if not isinstance(text, str):  # What is no UTF-8 stays bytes.
            raise ValueError(f"the name {text!r} is no text")
    graph = model.graph
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            continue  # What takes or makes sequences is told by its operators.
        if kind == onnx.TensorProto.UNDEFINED or kind not in onnx.helper.get_all_tensor_dtypes():
            raise ValueError(f"'{value.name}' is no tensor of a type that onnx {onnx.__version__} knows")


def _texts(message: Any) -> Iterator[Any]:
    """Yield all that should be text in a protocol buffer."""
    for field, value in message.ListFields():
        several = value if field.is_repeated else [value]
        if field.type == field.TYPE_STRING:
            yield from several
        elif field.type == field.TYPE_MESSAGE:
            for each in several:
                yield from _texts(each)


def _checkable(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """Return a model that takes its large weights as inputs: onnx's checker looks for files where they are not."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    given = {value.name for value in made.graph.input}
    apart = [tensor for tensor in made.graph.initializer if tensor.name in weights]
    for tensor in apart:
        if tensor.name not in given:
            made.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        made.graph.initializer.remove(tensor)
    return made


def onnx_session(
    model: bytes | StoredModel, threads: int = 0, profile_prefix: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime on the CPU; `threads` 0 takes every core.

    With `profile_prefix`, how the name of a file starts, onnxruntime notes every node's time there; the session's
    `end_profiling` returns the whole name.
    """
    stored = model if isinstance(model, StoredModel) else StoredModel.of(model)
    options = session_options(threads)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    # onnxruntime drops weights that nothing reads before it looks for their values.
    read = _read(stored.model.graph)
    weights = {name: array for name, array in stored.weights.items() if name in read}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if values:
        options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(stored.outline, options, providers=["CPUExecutionProvider"])
    # The session may read them where they are.
    session.held = values
    return session


def _read(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph reads or puts out, in its branches too."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                names |= _read(inner)
    return names


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Return how models are run in onnxruntime; `threads` 0 takes every core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
