"""Which of onnx's own backend test cases load, and compute what the case expects: bare onnx2torch beside ours.

    python -m benchmarks.onnx_coverage
    python -m benchmarks.onnx_coverage --only LSTM --failures

The node cases of the installed onnx, and the models that its wheel ships. Apart, for no static torch graph of floats
and integers expresses them: control flow, sequences, optional values, text, training, machine-learning operators, and
types of less than a byte. A case counts as passed when the numbers are the expected ones within the case's own
tolerance; then it is also written back by the exporter and run in onnxruntime.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from onnx2torch import convert

from compressor.console import print_table
from compressor.errors import CompressorError
from compressor.graph_editing import run_graph
from compressor.onnx_conversion import convert_model, newest_opset
from compressor.onnx_export import export_onnx
from compressor.plugin_catalog import load_catalog
from compressor.teacher_loading import attach_specs, model_specs

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
DIED = "the process died"
MODEL_KINDS = ("pytorch-operator", "pytorch-converted", "simple", "light")


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
            data = [_read_set(model, each) for each in sorted(folder.glob("test_data_set_*"))]
            yield Case(case.name, kind, model, data, case.rtol, max(case.atol, 1e-5))


def _read_set(model: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    def read(kind: str, count: int) -> list[Any]:
        made = []
        for at in range(count):
            tensor = onnx.TensorProto()
            tensor.ParseFromString((folder / f"{kind}_{at}.pb").read_bytes())
            made.append(numpy_helper.to_array(tensor))
        return made

    inputs = len(list(folder.glob("input_*.pb")))
    return read("input", inputs), read("output", len(model.graph.output))


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


def bare(model: onnx.ModelProto) -> torch.fx.GraphModule:
    """Convert as onnx2torch does by itself."""
    graph: torch.fx.GraphModule = convert(model)
    return graph.eval()


def ours(model: onnx.ModelProto) -> torch.fx.GraphModule:
    """Convert as a teacher is loaded."""
    graph = convert_model("the case", model, CONVERTERS).eval()
    attach_specs(graph, model_specs(model.graph, initial=True), model_specs(model.graph, initial=False))
    return graph


def checked(case: Case, graph: torch.fx.GraphModule) -> str:
    """Return what is wrong with a graph's numbers, or nothing."""
    for inputs, expected in case.data:
        given = tuple(to_torch(value) for value in inputs if value is not None)
        with torch.no_grad():
            found = run_graph(graph, given)
        problem = _differs(case, [to_numpy(value) for value in found], expected)
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


def _differs(case: Case, found: Sequence[Any], expected: Sequence[Any]) -> str:
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


def round_trip(case: Case, graph: torch.fx.GraphModule) -> str:
    """Return what is wrong with the exported file's numbers in onnxruntime, or nothing."""
    example = tuple(to_torch(value) for value in case.data[0][0] if value is not None)
    content = export_onnx(graph, newest_opset(case.model), example=example)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in model_specs(case.model.graph, initial=True)]
    for inputs, expected in case.data:
        given = {name: value for name, value in zip(names, inputs, strict=False) if name in taken}
        problem = _differs(case, session.run(None, given), expected)
        if problem:
            return problem
    return ""


def attempt(step: Any, *arguments: Any) -> tuple[Any, str]:
    """Return what a step makes and no reason, or nothing and the reason it fails for."""
    try:
        return step(*arguments), ""
    except Exception as error:
        text = str(error) if isinstance(error, CompressorError) else f"{type(error).__name__}: {error}"
        return None, " ".join(text.split())[:160]


def results(case: Case) -> dict[str, str]:
    """Return for each way what goes wrong with a case, nothing where it passes."""
    graph, reason = attempt(bare, case.model)
    found = {"bare": reason or "".join(each or "" for each in attempt(checked, case, graph))}
    graph, reason = attempt(ours, case.model)
    found["ours"] = reason or "".join(each or "" for each in attempt(checked, case, graph))
    if not found["ours"]:
        found["round trip"] = "".join(each or "" for each in attempt(round_trip, case, graph))
    return found


class Worker:
    """A process that tries cases one after the other; a case that kills it counts as failed."""

    def __init__(self) -> None:
        self.connection: Any = None

    def results(self, name: str) -> dict[str, str]:
        """Return what `results` returns for a case."""
        if self.connection is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs,), daemon=True).start()
            theirs.close()
        self.connection.send(name)
        try:
            found: dict[str, str] = self.connection.recv()
        except EOFError:
            self.connection = None
            return {"bare": DIED, "ours": DIED}
        return found


def _serve(connection: Any) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    cases = {case.name: case for case in all_cases()}
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(results(cases[name]))


def all_cases() -> list[Case]:
    """Return all cases, by kind."""
    return [*node_cases(), *model_cases()]


def main() -> None:
    """Print one line for each kind of case, then what is missing by reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--failures", action="store_true", help="print each case that fails, and why")
    options = parser.parse_args()
    worker = Worker()
    counts: dict[str, Counter[str]] = {}
    apart: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case in all_cases():
        if options.only and options.only.lower() not in case.name.lower():
            continue
        reason = set_apart(case)
        if reason:
            apart[reason] += 1
            continue
        count = counts.setdefault(case.kind, Counter())
        count["cases"] += 1
        found = worker.results(case.name)
        count.update(way for way, problem in found.items() if not problem)
        for way in ("ours", "round trip"):
            if found.get(way):
                operators = "+".join(sorted({node.op_type for node in case.model.graph.node})[:2])
                reasons[f"{way}: {operators}: {found[way][:60]}"] += 1
                if options.failures:
                    print(f"{case.name}: {way}: {found[way]}", flush=True)
    ways = ("bare", "ours", "round trip")
    rows = [
        [kind, str(count["cases"]), *(f"{count[way]} ({count[way] / count['cases']:.1%})" for way in ways)]
        for kind, count in counts.items()
    ]
    print_table(["cases", "number", "bare onnx2torch", "ours", "ours, written back"], rows)
    print_table(["apart", "cases"], [[reason, str(number)] for reason, number in apart.most_common()])
    print_table(["missing", "cases"], [[reason, str(number)] for reason, number in reasons.most_common(40)])


CONVERTERS = load_catalog().converters

if __name__ == "__main__":
    main()
