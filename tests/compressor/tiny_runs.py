"""Whole runs on the tiny vocoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.fx import GraphModule

import compressor
from compressor.errors import SelectionError
from compressor.pipeline import RunResult
from compressor.plugin_catalog import Catalog
from compressor.preparing import RunSettings
from compressor.progress import SilentReporter
from compressor.recipe import Recipe
from compressor.report import StageRecord
from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

METRICS = ["parameters", "macs", "bytes", "latency"]
QUICK: dict[str, Any] = {"metrics": ["parameters"]}
"""Measures no file after each stage; what is made stays the same."""
STRUCTURAL: list[Any] = [
    {"mrf-simplification": {"drop_units": 2}},
    "depthwise-separable-conv",
    {"channel-importance-pruning": {"round_to": 2}},
    "transposed-to-standard-conv",
    "conv1d-to-conv2d",
]
TRAINING: dict[str, Any] = {
    "distillation": {
        "losses": ["output-l1"],
        "block_wise": {"steps": 4},
        "end_to_end": {"steps": 4},
        "batch_size": 2,
        "segment": 12,
        "validate_every": 2,
        "checkpoint_seconds": 0,
        "precision": "fp32",
    }
}
FILES = {
    "environment.json", "recipe.yaml", "report.html", "report.json", "run.json", "run.log",
    "student.onnx", "student_model.pt",
}  # fmt: skip


class Faulty(Strategy):
    """Fails in the ways that strategies of others do."""

    name = "faulty"
    kind: str

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        if self.kind == "bug":
            raise ZeroDivisionError("division by zero")
        raise SelectionError("the pattern 'x' matches no layer")


class NotExact(Strategy):
    """Says that it keeps the output, and does not."""

    name = "not-exact"
    preserves_output = True

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        with torch.no_grad():
            next(student.parameters()).mul_(1.001)
        return StageOutcome(student, (Finding("nothing to see here"),))


class Runs:
    """Runs recipes on the tiny vocoder."""

    def __init__(self, teacher: Path, catalog: Catalog) -> None:
        self.teacher = teacher
        self.catalog = catalog

    def plan(self, **changes: object) -> compressor.Plan:
        recipe = {
            "teacher": str(self.teacher),
            "licence": "CC0",
            "budget": {"parameters": "30%"},
            "data": {"tiny-mels": {"vocoder": str(self.teacher)}},
            "stages": [*STRUCTURAL, TRAINING, "readable-hifigan"],
            "metrics": METRICS,
            **changes,
        }
        return compressor.plan(Recipe.model_validate(recipe), self.catalog)

    def run(
        self, out: Path, *, resume: bool = False, reporter: SilentReporter | None = None, **changes: object
    ) -> RunResult:
        settings = RunSettings(out=out, name="tiny", resume=resume, cache_dir=out.parent / "cache")
        self.records: list[StageRecord] = []
        return compressor.run(self.plan(**changes), settings, reporter, self.records.append)


def initializers(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
