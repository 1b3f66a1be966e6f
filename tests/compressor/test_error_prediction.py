from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from compressor.calibration import calibration_inputs
from compressor.dataset import Dataset
from compressor.error_prediction import LENGTH, SAMPLES, at_the_output
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel
from compressor.output_trials import output_errors
from compressor.progress import SilentReporter
from compressor.sensitivity import sensitivities
from compressor.stage_running import Workbench
from compressor.strategy import Candidate
from compressor.teacher_loading import Teacher

LAYER, OTHER = "resblocks/0/convs1/0/Conv", "resblocks/1/convs2/1/Conv"


@pytest.fixture
def bench(tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> Workbench:
    return Workbench(
        teacher=tiny_teacher,
        data=tiny_dataset,
        baseline=MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset),
        metrics=(),
        limits={},
        rates={},
        workdir=tmp_path,
        device="cpu",
        seed=3,
        reporter=SilentReporter(),
    )


def halved(teacher: Teacher, layer: str, error: float) -> Candidate:
    """Return a candidate that halves what a layer puts out."""

    def half(read: Tensor) -> Tensor:
        result: Tensor = 0.5 * teacher.graph.get_submodule(layer)(read)
        return result

    return Candidate(layer, "half", {"parameters": 1.0}, error, (layer,), half)


def test_what_can_be_tried_is_and_the_rest_is_scaled(
    bench: Workbench, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    tried = halved(tiny_teacher, LAYER, 0.25)
    milder = replace(tried, setting="mild", error=0.05)
    estimated = Candidate(OTHER, 1, {"parameters": 1.0}, 0.1, (LAYER, OTHER))
    known = Candidate(OTHER, 2, {"parameters": 1.0}, 0.7)
    found = at_the_output(bench, copy_graph(tiny_teacher.graph), {"a": [milder, tried], "b": [estimated, known]})
    inputs = list(calibration_inputs(tiny_teacher.inputs, tiny_dataset.train[:SAMPLES], LENGTH))
    assert tried.replacement is not None
    measured = output_errors(tiny_teacher.graph, {LAYER: tried.replacement}, inputs)[LAYER]
    reach = sensitivities(copy_graph(tiny_teacher.graph), inputs, seed=3)
    worth = measured / (0.25 * reach[LAYER])
    assert [each.error for each in found["a"]] == pytest.approx([measured / 5, measured])
    assert [each.error for each in found["b"]] == pytest.approx([worth * 0.1 * (reach[LAYER] + reach[OTHER]), 0.7])
    assert [each.setting for each in found["a"]] == ["mild", "half"]
