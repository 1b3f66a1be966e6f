from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_cost.drift import OutputDrift
from compressor_cost.metrics import FileBytes, Latency, Macs, Parameters, RealTimeFactor, Speedup

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel, measure
from compressor.metric import Subject
from compressor.plugin_catalog import load_catalog
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_vocoder import tiny_vocoder
from compressor.timing import Timings


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


def timed(asked: list[tuple[int, int]], probe_seconds: float | None) -> Subject:
    """Stand for a model whose runs take 20, 30 and 90 ms where the teacher's take 60, 60 and 360."""

    def answer(threads: int, runs: int) -> Timings:
        asked.append((threads, runs))
        return Timings((0.02, 0.03, 0.09), (0.06, 0.06, 0.36))

    return cast(Subject, SimpleNamespace(timed=answer, probe_seconds=probe_seconds))


def test_times_are_those_of_the_median_run() -> None:
    asked: list[tuple[int, int]] = []
    subject = timed(asked, probe_seconds=1.5)
    assert Latency(threads=2, runs=3).measure(subject) == pytest.approx(30.0)
    assert RealTimeFactor(threads=2, runs=3).measure(subject) == pytest.approx(0.02)
    assert Speedup(threads=2, runs=3).measure(subject) == pytest.approx(3.0)
    assert asked == [(2, 3)] * 3
    assert Latency().measure(timed([], None)) == pytest.approx(30.0)


def test_models_really_run(baseline: MeasuredModel, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    image = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    for graph in (copy_graph(tiny_teacher.graph), image):
        student = MeasuredModel(graph, tiny_teacher, baseline.data, baseline)
        measured = measure(student, (Latency(runs=2), RealTimeFactor(runs=2), Speedup(runs=2)))
        assert all(entry.value is not None and entry.value > 0 for entry in measured)
        assert len(student.timed(1, 2).model) == len(student.timed(1, 2).teacher) == 2


def test_what_predicts_a_cost_that_no_stage_knows() -> None:
    metrics = (Parameters(), Macs(), FileBytes(), Latency(), RealTimeFactor(), Speedup())
    assert [metric.follows for metric in metrics] == ["", "", "parameters", "macs", "macs", "macs"]


def test_the_real_time_factor_needs_a_signal(tiny_teacher: Teacher) -> None:
    assert measure(MeasuredModel(tiny_teacher.graph, tiny_teacher, None), (RealTimeFactor(),)) == ()


def test_the_drift_is_a_share_of_the_teacher_s_output() -> None:
    teacher = [np.array([3.0, 0.0], np.float32), np.array([4.0], np.float32)]
    student = [np.array([3.0, 1.0], np.float32), np.array([2.0], np.float32)]
    subject = cast(Subject, SimpleNamespace(outputs=student, teacher_outputs=teacher))
    assert OutputDrift().measure(subject) == pytest.approx(np.sqrt(5) / 5)
    assert OutputDrift().measure(cast(Subject, SimpleNamespace(outputs=teacher, teacher_outputs=teacher))) == 0.0


def test_the_plugin_offers_them() -> None:
    offered = load_catalog().metrics
    assert {"parameters", "macs", "bytes", "latency", "rtf", "speedup", "output-drift"} <= set(offered)
