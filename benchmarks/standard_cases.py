"""The backend test cases that come with onnx: node cases and small models, with inputs and expected outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

from compressor.graph_editing import run_graph

APART = {
    "control flow": {"If", "Loop", "Scan", "SequenceMap"},
    "sequences": {
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
        "SplitToSequence", "ConcatFromSequence",
    },
    "optional values": {"Optional", "OptionalGetElement", "OptionalHasElement"},
    "text and files": {
        "StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder",
    },
}  # fmt: skip
SUB_BYTE = {"UINT4", "INT4", "UINT2", "INT2", "FLOAT4E2M1", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"}
NARROW_FLOATS: dict[str, tuple[torch.dtype, type[Any]]] = {
    "bfloat16": (torch.bfloat16, np.int16),
    "float8_e4m3fn": (torch.float8_e4m3fn, np.uint8),
    "float8_e5m2": (torch.float8_e5m2, np.uint8),
}
MODEL_KINDS = ("pytorch-operator", "pytorch-converted", "simple")


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs they must lead to."""

    name: str
    kind: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@cache
def _collected() -> list[Any]:
    # onnx counts a second collection as double; its cases overflow and divide by zero on purpose.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: list[Any] = collect_testcases(None)
    return found


def node_cases() -> Iterable[Case]:
    """Return the node cases of the installed onnx."""
    for case in _collected():
        if case.model is not None:
            yield Case(case.name, "node", case.model, case.data_sets or [], case.rtol, case.atol)


def model_cases() -> Iterable[Case]:
    """Return the models in the wheel."""
    for kind in MODEL_KINDS:
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir) if case.model_dir else None
            if folder is None:
                continue
            model = onnx.load(folder / "model.onnx")
            data = [_read_set(each) for each in sorted(folder.glob("test_data_set_*"))]
            yield Case(case.name, kind, model, data, case.rtol, max(case.atol, 1e-5))


def light_cases() -> Iterable[Case]:
    """Return well-known networks whose weights the files compute, with the inputs that the wheel's outputs are of."""
    for path in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx")):
        model = onnx.load(path)
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [_ramp(value) for value in model.graph.input if value.name not in weights]
        outputs = [_read(each) for each in sorted(path.parent.glob(f"{path.stem}_output_*.pb"))]
        yield Case(path.stem, "light", model, [(inputs, outputs)], 1e-3, 1e-5)


def _ramp(value: onnx.ValueInfoProto) -> Any:
    """Return what onnx's own runner gives these networks: numbers from 0 to 1 in order."""
    shape = [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)


def _read(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def _read_set(folder: Path) -> tuple[list[Any], list[Any]]:
    """Return inputs and outputs, which the files' names number."""
    files = {kind: list(folder.glob(f"{kind}_*.pb")) for kind in ("input", "output")}
    read = {kind: [_read(folder / f"{kind}_{at}.pb") for at in range(len(found))] for kind, found in files.items()}
    return read["input"], read["output"]


def set_apart(case: Case) -> str:
    """Return why a static graph of floats and integers cannot express a case, or nothing."""
    for node in case.model.graph.node:
        if node.domain.endswith("training"):
            return "training"
        if node.domain not in ("", "ai.onnx", "ai.onnx.preview"):
            return "machine-learning operators"
        for reason, kinds in APART.items():
            if node.op_type in kinds:
                return reason
    for value in (*case.model.graph.input, *case.model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            return "sequences"
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            return "text and files"
        if onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) in SUB_BYTE:
            return "types that torch lacks"
    return ""


def checked(case: Case, graph: torch.fx.GraphModule) -> str:
    """Return what is wrong with a graph's numbers, or nothing."""
    for inputs, expected in case.data:
        given = tuple(to_torch(value) for value in inputs if value is not None)
        with torch.no_grad():
            found = run_graph(graph, given)
        problem = differs(case, [to_numpy(value) for value in found], expected)
        if problem:
            return problem
    return ""


def as_array(value: Any) -> Any:
    """Return a case's value as an array; types that numpy lacks are given as they are stored."""
    return np.array(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def to_torch(value: Any) -> torch.Tensor:
    """Return an array as a tensor; numpy's own conversion knows no narrow floats."""
    array = as_array(value)
    if array.dtype.name in NARROW_FLOATS:
        dtype, bits = NARROW_FLOATS[array.dtype.name]
        return torch.from_numpy(array.view(bits)).view(dtype)
    return torch.from_numpy(array)


def to_numpy(value: torch.Tensor) -> Any:
    """Return a tensor as an array of the type that onnx has for it."""
    for name, (dtype, bits) in NARROW_FLOATS.items():
        if value.dtype is dtype:
            plain = torch.int16 if bits is np.int16 else torch.uint8
            return value.contiguous().view(plain).numpy().view(np.dtype(name))
    return value.numpy()


def differs(case: Case, found: Sequence[Any], expected: Sequence[Any]) -> str:
    """Return how outputs differ from the expected ones, or nothing."""
    if len(found) < len(expected):
        return f"wrong numbers: {len(found)} outputs in place of {len(expected)}"
    for made, wanted in zip(found, expected, strict=False):
        wanted_array = as_array(wanted)
        if made.shape != wanted_array.shape:
            return f"wrong numbers: shape {made.shape} in place of {wanted_array.shape}"
        if made.dtype != wanted_array.dtype:
            return f"wrong numbers: {made.dtype} in place of {wanted_array.dtype}"
        wide = np.float64 if wanted_array.dtype.kind in "fV" else wanted_array.dtype
        if not np.allclose(made.astype(wide), wanted_array.astype(wide), case.rtol, case.atol, equal_nan=True):
            return "wrong numbers"
    return ""


def all_cases() -> list[Case]:
    """Return all cases, by kind."""
    return [*node_cases(), *model_cases(), *light_cases()]
