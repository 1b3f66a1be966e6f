"""Measure a model with every metric of the plan; a model's file and outputs are made once, when first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.calibration import PROBE_SIZE
from compressor.dataset import Dataset, FloatArray, Sample
from compressor.errors import MetricUnavailable
from compressor.graph_editing import feed, input_specs, parameter_count
from compressor.layer_timing import by_layer, nodes_in_turn
from compressor.metric import Metric
from compressor.onnx_export import export_onnx
from compressor.report import Measurement
from compressor.signal_metric import Against, Signal, SignalMetric, measured_name
from compressor.stored_model import StoredModel, onnx_session
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import TensorSpec, random_inputs
from compressor.timing import Timings, time_in_turn

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A graph under measurement; implements `compressor.metric.Subject`."""

    graph: GraphModule
    teacher: Teacher
    data: Dataset | None
    baseline: MeasuredModel | None = None
    """The teacher, measured; None when this is the teacher itself."""
    by_nodes: bool = False
    """Timed by the sum of its nodes' fastest runs: a clock that repeats itself, for choosing. Else by whole runs."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self.graph)

    @property
    def sample_rate(self) -> int | None:
        return self.data.sample_rate if self.data else None

    @cached_property
    def parameters(self) -> int:
        return parameter_count(self.graph)

    @cached_property
    def onnx_bytes(self) -> bytes:
        return self.teacher.content if self.baseline is None else export_onnx(self.graph, self.teacher.opset)

    @property
    def _timed_bytes(self) -> bytes:
        """The model as it is timed: its file where that was asked for, else the file before slimming.

        Slimming takes longer than exporting and timing, and onnxruntime does the same when it opens a file.
        """
        file: bytes | None = vars(self).get("onnx_bytes")
        return file or self._draft

    @cached_property
    def _draft(self) -> bytes:
        return export_onnx(self.graph, self.teacher.opset, slim=False)

    @property
    def file_size(self) -> int:
        return self.teacher.stored.size if self.baseline is None else len(self.onnx_bytes)

    @cached_property
    def probe_size(self) -> int:
        """Size of the dynamic axes that gives about a second of output."""
        if self.sample_rate is None:
            return PROBE_SIZE
        return max(1, round(self.sample_rate / _output_length(self.graph, PROBE_SIZE) * PROBE_SIZE))

    @property
    def probe_seconds(self) -> float | None:
        if self.sample_rate is None:
            return None
        return _output_length(self.graph, self.probe_size) / self.sample_rate

    @cached_property
    def probe(self) -> dict[str, FloatArray]:
        return random_inputs(self.inputs, self.probe_size)

    @cached_property
    def _timings(self) -> dict[tuple[int, int], Timings]:
        return {}

    def timed(self, threads: int, runs: int) -> Timings:
        if (threads, runs) not in self._timings:
            self._timings[threads, runs] = self._time(threads, runs)
        return self._timings[threads, runs]

    def _time(self, threads: int, runs: int) -> Timings:
        if self.baseline is None:
            (own,) = time_in_turn([(self.teacher.stored, self.probe)], threads, runs)
            return Timings(own, own)
        if self.by_nodes:
            layers, teacher = self._profile(threads, runs)
            found = Timings((sum(layers.values()),), (teacher,))
        else:
            found = Timings(*time_in_turn(self._beside_the_teacher(), threads, runs))
        return found.as_if_teacher_took(self.baseline.timed(threads, runs).seconds)

    def time_by_layer(self, threads: int, runs: int) -> dict[str, float]:
        """Return seconds by layer, on a machine on which the teacher always takes the same time."""
        layers, teacher = self._profile(threads, runs)
        pace = (self.baseline or self).timed(threads, runs).seconds / teacher
        return {layer: pace * seconds for layer, seconds in layers.items()}

    @cached_property
    def _profiles(self) -> dict[tuple[int, int], tuple[dict[str, float], float]]:
        return {}

    def _profile(self, threads: int, runs: int) -> tuple[dict[str, float], float]:
        """Return the seconds of this model's layers, and of the teacher beside it, by nodes; measured once."""
        if (threads, runs) not in self._profiles:
            own, teacher = nodes_in_turn(self._beside_the_teacher(), threads, runs)
            self._profiles[threads, runs] = by_layer(self._timed_bytes, own), sum(teacher.values())
        return self._profiles[threads, runs]

    def _beside_the_teacher(self) -> list[tuple[bytes | StoredModel, Mapping[str, Any]]]:
        # An input may have got an axis of size one after the batch axis: the values are the teacher's all the same.
        probe = {
            spec.name: array.reshape(spec.sized(self.probe_size))
            for spec, array in zip(self.teacher.inputs, self.probe.values(), strict=True)
        }
        return [(self._timed_bytes, self.probe), (self.teacher.stored, probe)]

    @cached_property
    def macs(self) -> int:
        values = tuple(torch.from_numpy(array) for array in self.probe.values())
        with FlopCounterMode(display=False) as counter:
            feed(self.graph, values)
        return int(counter.get_total_flops()) // 2

    @cached_property
    def outputs(self) -> Sequence[FloatArray]:
        samples = self.data.validation if self.data else ()
        return tuple(
            feed(self.graph, tuple(torch.from_numpy(sample.inputs[spec.name]) for spec in self.teacher.inputs))[0]
            .numpy()
            .astype(np.float32)
            .reshape(-1)
            for sample in samples
        )

    @property
    def teacher_outputs(self) -> Sequence[FloatArray]:
        return (self.baseline or self).outputs

    @cached_property
    def signals(self) -> Sequence[Signal]:
        return tuple(Signal(output, self._rate) for output in self.outputs)

    def wanted(self, against: Against) -> Sequence[Signal | None]:
        # The teacher's own: what is analysed of it and of the recordings serves every student.
        teacher = self.baseline or self
        return teacher.signals if against == "teacher" else teacher._recordings

    @cached_property
    def _recordings(self) -> Sequence[Signal | None]:
        references = [sample.reference for sample in self.data.validation] if self.data else []
        return tuple(None if reference is None else Signal(reference, self._rate) for reference in references)

    @property
    def _rate(self) -> int:
        if self.sample_rate is None:
            raise MetricUnavailable("needs an output of known sample rate")
        return self.sample_rate


def file_inputs(specs: Sequence[TensorSpec], sample: Sample) -> dict[str, FloatArray]:
    """Return a sample as a student's file takes it, whose inputs may have got axes of size one after the batch axis."""
    fitted = {}
    for spec in specs:
        array = sample.inputs[spec.name]
        extra = (1,) * (len(spec.shape) - array.ndim)
        fitted[spec.name] = array.reshape(array.shape[0], *extra, *array.shape[1:]) if extra else array
    return fitted


@dataclass(frozen=True, eq=False)
class MeasuredFile(MeasuredModel):
    """A file under measurement that is no longer what its graph would be written as, such as one in 8 bits."""

    file: bytes = b""

    @property
    def onnx_bytes(self) -> bytes:
        return self.file

    @property
    def _timed_bytes(self) -> bytes:
        return self.file

    @cached_property
    def outputs(self) -> Sequence[FloatArray]:
        session = onnx_session(self.file)
        samples = self.data.validation if self.data else ()
        return tuple(
            session.run(None, file_inputs(self.inputs, sample))[0].astype(np.float32).reshape(-1) for sample in samples
        )


def _output_length(graph: GraphModule, size: int) -> int:
    arrays = random_inputs(input_specs(graph), size)
    return int(feed(graph, tuple(torch.from_numpy(array) for array in arrays.values()))[0].numel())


def applies(metric: Metric, data: Dataset | None) -> bool:
    """Say whether a metric can be measured with this data."""
    if metric.needs_data and data is None:
        return False
    return not (metric.needs_signal and (data is None or data.sample_rate is None))


def measure(
    subject: MeasuredModel, metrics: Sequence[Metric], same_output: Sequence[Measurement] = ()
) -> tuple[Measurement, ...]:
    """Measure a model; a metric that lacks something notes what to install instead of a number.

    Metrics for finished students only are left out, see `measure_finished`. `same_output` holds the measurements of a
    model that was proven to put out the same: what depends on the output alone is taken from there.
    """
    known = {entry.metric: entry for entry in same_output}
    return tuple(
        known[metric.name] if metric.needs_data and metric.name in known else _measure(subject, metric)
        for metric in metrics
        if applies(metric, subject.data) and not metric.finished_only
    )


def measure_finished(subject: MeasuredModel, metrics: Sequence[Metric]) -> tuple[Measurement, ...]:
    """Measure what `measure` leaves out: slow metrics, and how signals compare with recordings, where there are any."""
    applying = [metric for metric in metrics if applies(metric, subject.data)]
    slow = [_measure(subject, metric) for metric in applying if metric.finished_only]
    compared = [metric for metric in applying if isinstance(metric, SignalMetric)]
    recorded = any(sample.reference is not None for sample in subject.data.validation) if subject.data else False
    return (*slow, *(_compare(subject, metric, "recording") for metric in compared if recorded))


def _measure(subject: MeasuredModel, metric: Metric) -> Measurement:
    if isinstance(metric, SignalMetric):
        return _compare(subject, metric, "teacher")
    try:
        value, note = metric.measure(subject), ""
    except MetricUnavailable as reason:
        value, note = None, str(reason)
    return Measurement(metric=metric.name, value=value, unit=metric.unit, better=metric.better, note=note)


def _compare(subject: MeasuredModel, metric: SignalMetric, against: Against) -> Measurement:
    name = measured_name(metric.name, against)
    try:
        found = metric.compare(subject, against)
    except MetricUnavailable as reason:
        return Measurement(metric=name, value=None, unit=metric.unit, better=metric.better, note=str(reason))
    low, high = found.interval or (None, None)
    return Measurement(
        metric=name,
        value=found.value,
        unit=metric.unit,
        better=metric.better,
        low=low,
        high=high,
        scores=found.scores,
        parts=dict(found.parts),
    )
