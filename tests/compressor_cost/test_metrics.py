from __future__ import annotations

import pytest
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_cost.metrics import FileBytes, Latency, Macs, Parameters, RealTimeFactor, Speedup

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel, measure
from compressor.plugin_catalog import load_catalog
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from tests.tiny_vocoder import tiny_vocoder


@pytest.fixture
def baseline(tiny_teacher: Teacher, tiny_dataset: Dataset) -> MeasuredModel:
    return MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)


def test_parameters_macs_and_bytes(baseline: MeasuredModel, tiny_teacher: Teacher) -> None:
    parameters, macs, size = measure(baseline, (Parameters(), Macs(), FileBytes()))
    assert parameters.value == sum(value.numel() for value in tiny_vocoder("1").parameters())
    # A second is 100 frames; each stage has 8 convolutions, 4 of 3 and 4 of 7 taps.
    pre, ups = 100 * 8 * 16 * 7, 100 * 16 * 12 * 8 + 400 * 12 * 8 * 4
    fusions = 400 * 12 * 12 * (4 * 3 + 4 * 7) + 800 * 8 * 8 * (4 * 3 + 4 * 7)
    assert macs.value == pre + ups + fusions + 800 * 8 * 7
    assert (macs.unit, size.unit) == ("MAC", "B")
    assert size.value == len(tiny_teacher.content)


def test_macs_without_a_rate_are_those_of_a_probe(tiny_teacher: Teacher) -> None:
    model = MeasuredModel(tiny_teacher.graph, tiny_teacher, None)
    assert Macs().measure(model) == model.macs


def test_time_is_measured_and_positive(baseline: MeasuredModel) -> None:
    latency, rtf = Latency(runs=2).measure(baseline), RealTimeFactor(runs=2).measure(baseline)
    # Milliseconds, and seconds for each second of audio.
    assert 0 < rtf < 1
    assert 0 < latency < 1000


def test_a_copy_is_about_as_fast(baseline: MeasuredModel, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    image = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    for graph in (copy_graph(tiny_teacher.graph), image):
        student = MeasuredModel(graph, tiny_teacher, baseline.data, baseline)
        assert 0.05 < Speedup(runs=3).measure(student) < 50


def test_the_real_time_factor_needs_a_signal(tiny_teacher: Teacher) -> None:
    assert measure(MeasuredModel(tiny_teacher.graph, tiny_teacher, None), (RealTimeFactor(),)) == ()


def test_the_plugin_offers_them() -> None:
    offered = load_catalog().metrics
    assert {"parameters", "macs", "bytes", "latency", "rtf", "speedup"} <= set(offered)
