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
from collections.abc import Iterator
from typing import Any

import onnx
import onnxruntime
import torch
from onnx2torch import convert

from benchmarks.standard_cases import Case, all_cases, as_array, checked, differs, set_apart, to_torch
from compressor.console import print_table
from compressor.errors import CompressorError
from compressor.onnx_conversion import convert_model, newest_opset
from compressor.onnx_export import export_onnx
from compressor.plugin_catalog import load_catalog
from compressor.teacher_loading import attach_specs, model_specs

CONVERTERS = load_catalog().converters
WAYS = ("bare", "ours", "onnxruntime", "written back")
"""What is tried: the two converters, the file in the engine that a student is for, and ours as a file there."""
PATIENCE = 120.0
"""Seconds that a case may take, the start of its process included."""


def bare(model: onnx.ModelProto) -> torch.fx.GraphModule:
    """Convert as onnx2torch does by itself."""
    graph: torch.fx.GraphModule = convert(model)
    return graph.eval()


def ours(model: onnx.ModelProto) -> torch.fx.GraphModule:
    """Convert as a teacher is loaded."""
    graph = convert_model("the case", model, CONVERTERS).eval()
    attach_specs(graph, model_specs(model.graph, initial=True), model_specs(model.graph, initial=False))
    return graph


def in_engine(case: Case, content: bytes) -> str:
    """Return what is wrong with a file's numbers in onnxruntime, or nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in model_specs(case.model.graph, initial=True)]
    for inputs, expected in case.data:
        present = [as_array(value) for value in inputs if value is not None]
        given = {name: value for name, value in zip(names, present, strict=False) if name in taken}
        problem = differs(case, session.run(None, given), expected)
        if problem:
            return problem
    return ""


def written_back(case: Case, graph: torch.fx.GraphModule) -> str:
    """Return what is wrong with the exported file's numbers in onnxruntime, or nothing."""
    example = tuple(to_torch(value) for value in case.data[0][0] if value is not None)
    return in_engine(case, export_onnx(graph, newest_opset(case.model), example=example))


def attempt(step: Any, *arguments: Any) -> tuple[Any, str]:
    """Return what a step makes and no reason, or nothing and the reason it fails for."""
    try:
        return step(*arguments), ""
    except Exception as error:
        text = str(error) if isinstance(error, CompressorError) else f"{type(error).__name__}: {error}"
        return None, " ".join(text.split())[:160]


def results(case: Case) -> Iterator[str]:
    """Yield for each way what goes wrong with a case, nothing where it passes; the last where it can be tried."""

    def said(step: Any, *arguments: Any) -> str:
        return "".join(each or "" for each in attempt(step, *arguments))

    graph, reason = attempt(bare, case.model)
    yield reason or said(checked, case, graph)
    graph, reason = attempt(ours, case.model)
    reason = reason or said(checked, case, graph)
    yield reason
    lacking = said(in_engine, case, case.model.SerializeToString())
    yield lacking
    if not reason and not lacking:
        yield said(written_back, case, graph)


class Worker:
    """A process that tries cases one after the other; a way that kills it, or hangs, has failed."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.process: Any = None

    def results(self, name: str) -> dict[str, str]:
        """Return for each way that came to be tried what goes wrong with a case, nothing where it passes."""
        if self.connection is None:
            self._start()
        self.connection.send(name)
        found: dict[str, str] = {}
        for way in WAYS:
            problem = self._next()
            if problem is None:
                return found
            found[way] = problem
            if self.connection is None:
                return found
        self._next()
        return found

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def _next(self) -> str | None:
        """Return what the next way says, None after the last one."""
        try:
            if self.connection.poll(PATIENCE):
                said: str | None = self.connection.recv()
                return said
            problem = f"not done after {PATIENCE:.0f} s"
        except EOFError:
            problem = "the process died"
        self.process.kill()
        self.connection = None
        return problem


def _serve(connection: Any) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    cases = {case.name: case for case in all_cases()}
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        for problem in results(cases[name]):
            connection.send(problem)
        connection.send(None)


def _shares(count: Counter[str]) -> list[str]:
    """Return how many cases pass, of all and, where a file has to run, of those that onnxruntime runs and we load."""
    plain = [f"{count[way]} ({count[way] / count['cases']:.1%})" for way in ("bare", "ours")]
    return [
        *plain,
        f"{count['written back']} of {count['tried']} ({count['written back'] / max(1, count['tried']):.1%})",
    ]


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
        count["tried"] += "written back" in found
        count.update(way for way, problem in found.items() if not problem)
        for way in ("ours", "written back"):
            if found.get(way):
                operators = "+".join(sorted({node.op_type for node in case.model.graph.node})[:2])
                reasons[f"{way}: {operators}: {found[way][:60]}"] += 1
                if options.failures:
                    print(f"{case.name}: {way}: {found[way]}", flush=True)
    rows = [[kind, str(count["cases"]), *_shares(count)] for kind, count in counts.items()]
    print_table(["cases", "number", "bare onnx2torch", "ours", "ours, written back, of what onnxruntime runs"], rows)
    print_table(["apart", "cases"], [[reason, str(number)] for reason, number in apart.most_common()])
    print_table(["missing", "cases"], [[reason, str(number)] for reason, number in reasons.most_common(40)])


if __name__ == "__main__":
    main()
