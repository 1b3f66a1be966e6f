from __future__ import annotations

from dataclasses import replace

import numpy as np
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.dataset import Dataset
from compressor.errors import MetricUnavailable
from compressor.graph_editing import copy_graph
from compressor.layer_costs import layer_costs
from compressor.measuring import MeasuredModel, applies, measure, measure_finished
from compressor.metric import Metric, Subject
from compressor.report import Measurement
from compressor.signal_metric import Signal, SignalMetric
from compressor.stored_model import onnx_session
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced


class Sum(Metric):
    """Adds up what the model puts out."""

    name = "sum"
    unit = "V"
    needs_data = True

    def measure(self, subject: Subject) -> float:
        return float(sum(np.abs(output).sum() for output in subject.outputs))


class Loudness(Metric):
    """Needs a signal."""

    name = "loudness"
    needs_signal = True
    better = "higher"

    def measure(self, subject: Subject) -> float:
        raise MetricUnavailable("loudness needs pyloudnorm: pip install pyloudnorm")


class Distance(SignalMetric):
    """Largest difference."""

    name = "distance"
    unit = "V"

    def score(self, output: Signal, wanted: Signal) -> float:
        return float(np.abs(output.samples - wanted.samples).max())


def subject(graph_of: Teacher, data: Dataset | None) -> MeasuredModel:
    return MeasuredModel(graph_of.graph, graph_of, data)


@given(
    groups=st.integers(1, 3), before=st.integers(1, 3), after=st.integers(1, 3), kernel=st.integers(1, 5),
    stride=st.integers(1, 3), transposed=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_macs_of_a_convolution_are_those_of_the_formula(
    groups: int, before: int, after: int, kernel: int, stride: int, transposed: bool, tiny_teacher: Teacher
) -> None:
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    graph = traced(
        chain(kind(groups * before, groups * after, kernel, stride, groups=groups)), (1, groups * before, "t")
    )
    positions = 32 if transposed else (32 - kernel) // stride + 1
    wanted = positions * groups * before * after * kernel
    assert MeasuredModel(graph, tiny_teacher, None).macs == wanted
    (layer,) = layer_costs(graph)
    assert (layer.layer, layer.macs) == ("0", wanted)
    assert layer.parameters == groups * before * after * kernel + groups * after


def test_macs_of_a_linear_layer(tiny_teacher: Teacher) -> None:
    assert MeasuredModel(traced(chain(nn.Linear(5, 7)), (1, "t", 5)), tiny_teacher, None).macs == 32 * 35


def test_layers_add_up_to_the_model(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = DepthwiseSeparableConv(rank=2).apply(copy_graph(tiny_teacher.graph), tiny_context).student
    whole = MeasuredModel(student, tiny_teacher, None)
    layers = layer_costs(student)
    assert sum(layer.parameters for layer in layers) == whole.parameters
    assert sum(layer.macs for layer in layers) == whole.macs
    assert {layer.kind for layer in layers} == {"Conv1d", "ConvTranspose1d"}


def test_a_probe_makes_about_a_second(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    model = subject(tiny_teacher, tiny_dataset)
    assert model.probe["mel"].shape == (1, 8, 100)
    assert model.probe_seconds == 1.0
    assert model.sample_rate == 800


def test_without_a_rate_a_probe_has_its_own_size(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    for data in (None, replace(tiny_dataset, sample_rate=None)):
        model = subject(tiny_teacher, data)
        assert model.probe["mel"].shape == (1, 8, 32)
        assert model.probe_seconds is None


def test_outputs_are_onnxruntime_s(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    model = subject(tiny_teacher, tiny_dataset)
    session = onnx_session(tiny_teacher.content)
    assert len(model.outputs) == 2
    for output, sample in zip(model.outputs, tiny_dataset.validation, strict=True):
        assert output.shape == (8 * sample.inputs["mel"].shape[-1],)
        np.testing.assert_allclose(output, session.run(None, dict(sample.inputs))[0].reshape(-1), atol=1e-5)


def test_the_teacher_is_measured_as_its_own_file(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    baseline = subject(tiny_teacher, tiny_dataset)
    assert baseline.onnx_bytes is tiny_teacher.content
    student = MeasuredModel(copy_graph(tiny_teacher.graph), tiny_teacher, tiny_dataset, baseline)
    assert student.onnx_bytes != tiny_teacher.content
    assert student.teacher_outputs is baseline.outputs
    assert baseline.teacher_outputs is baseline.outputs


def test_measurements_and_what_is_missing(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    found = measure(subject(tiny_teacher, tiny_dataset), (Sum(), Loudness()))
    assert [entry.metric for entry in found] == ["sum", "loudness"]
    assert found[0].value is not None
    assert found[0].unit == "V"
    assert found[1] == Measurement(
        metric="loudness", value=None, better="higher", note="loudness needs pyloudnorm: pip install pyloudnorm"
    )


def test_metrics_that_do_not_apply_are_left_out(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    assert not applies(Sum(), None)
    assert applies(Sum(), replace(tiny_dataset, sample_rate=None))
    assert not applies(Loudness(), replace(tiny_dataset, sample_rate=None))
    assert applies(Loudness(), tiny_dataset)
    assert measure(subject(tiny_teacher, None), (Sum(), Loudness())) == ()


def test_what_depends_on_a_proven_output_is_not_measured_again(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    known = (Measurement(metric="sum", value=-1.0),)
    assert measure(subject(tiny_teacher, tiny_dataset), (Sum(),), known) == known


def test_recordings_are_compared_with_where_there_are_any(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    first, second = tiny_dataset.validation
    data = replace(tiny_dataset, validation=(replace(first, reference=None), second))
    baseline = subject(tiny_teacher, data)
    student = MeasuredModel(copy_graph(tiny_teacher.graph), tiny_teacher, data, baseline)
    assert [signal.rate for signal in student.signals] == [800, 800]
    assert student.wanted("teacher") is baseline.signals
    nothing, recording = student.wanted("recording")
    assert nothing is None
    assert recording is not None
    assert recording.samples is second.reference
    assert student.wanted("recording") is baseline.wanted("recording")
    (found,) = measure_finished(student, (Sum(), Loudness(), Distance()))
    assert (found.metric, found.unit, found.low, found.scores[0]) == ("distance/recording", "V", None, None)
    assert found.value == found.scores[1] == float(np.abs(student.outputs[1] - recording.samples).max())
    (against_teacher,) = measure(student, (Distance(),))
    assert (against_teacher.metric, against_teacher.value) == ("distance", 0.0)
    assert (against_teacher.low, against_teacher.high, against_teacher.scores) == (0.0, 0.0, (0.0, 0.0))


def test_without_recordings_or_a_rate_nothing_is_compared(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    unrecorded = tuple(replace(sample, reference=None) for sample in tiny_dataset.validation)
    assert measure_finished(subject(tiny_teacher, replace(tiny_dataset, validation=unrecorded)), (Distance(),)) == ()
    assert measure_finished(subject(tiny_teacher, replace(tiny_dataset, sample_rate=None)), (Distance(),)) == ()
    assert measure_finished(subject(tiny_teacher, None), (Distance(),)) == ()
