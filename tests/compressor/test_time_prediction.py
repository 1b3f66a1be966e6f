"""Time that follows the number of weights: what candidates save of it is then known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_cost.metrics import Latency, Parameters
from compressor_hifigan.mrf_simplification import MrfSimplification
from onnx import numpy_helper

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel
from compressor.planning import PlannedStage
from compressor.progress import SilentReporter
from compressor.rehearsal import Rehearsal
from compressor.stage_running import Workbench
from compressor.strategy import BudgetedStrategy, Candidate
from compressor.teacher_loading import Teacher
from compressor.time_prediction import TimePrediction

TOTAL_MS = 50.0

Added = Callable[[BudgetedStrategy], list[Candidate]]


def weights_by_layer(model: MeasuredModel, *_: int) -> dict[str, float]:
    """Stand for the profile: a microsecond for each weight of a convolution."""
    found: dict[str, float] = {}
    for tensor in onnx.load_model_from_string(model.onnx_bytes).graph.initializer:
        layer, _, kind = tensor.name.rpartition(".")
        if kind == "weight":
            found[layer] = 1e-6 * numpy_helper.to_array(tensor).size
    return found


@pytest.fixture
def added(tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Added:
    monkeypatch.setattr(MeasuredModel, "time_by_layer", weights_by_layer)
    monkeypatch.setattr(Latency, "measure", lambda *_: TOTAL_MS)
    bench = Workbench(
        teacher=tiny_teacher,
        data=tiny_dataset,
        baseline=MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset),
        metrics=(Parameters(), Latency()),
        limits={"parameters": 1e9, "latency": 10.0},
        rates={},
        workdir=tmp_path,
        device="cpu",
        seed=0,
        reporter=SilentReporter(),
    )

    def timed(strategy: BudgetedStrategy) -> list[Candidate]:
        stage = PlannedStage("stage", strategy, "test")
        student = copy_graph(tiny_teacher.graph)
        candidates = strategy.candidates(copy_graph(student), bench.context(stage, {}))
        untimed = TimePrediction(replace(bench, limits={"parameters": 1.0})).added(
            candidates, "stage", Rehearsal(bench, [stage], student)
        )
        assert untimed is candidates
        return list(TimePrediction(bench).added(candidates, "stage", Rehearsal(bench, [stage], student)))

    return timed


def whole(teacher: Teacher) -> float:
    return sum(parameter.numel() for name, parameter in teacher.graph.named_parameters() if name.endswith("weight"))


def test_a_change_of_one_layer_saves_what_the_rehearsed_layer_takes_less(added: Added, tiny_teacher: Teacher) -> None:
    candidates = added(DepthwiseSeparableConv())
    assert {candidate.setting for candidate in candidates} == {1, 2, 3}
    for candidate in candidates:
        expected = TOTAL_MS * candidate.saving["parameters"] / whole(tiny_teacher)
        assert candidate.saving["latency"] == pytest.approx(expected)


def test_a_change_of_several_layers_saves_their_share(added: Added, tiny_teacher: Teacher) -> None:
    candidates = added(MrfSimplification())
    assert candidates
    for candidate in candidates:
        weights = sum(tiny_teacher.graph.get_submodule(layer).weight.numel() for layer in candidate.touches)  # type: ignore[operator, misc]
        assert candidate.saving["latency"] == pytest.approx(TOTAL_MS * weights / whole(tiny_teacher))
