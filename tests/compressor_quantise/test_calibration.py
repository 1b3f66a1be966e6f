"""How ranges are found: every method on samples of unequal length, and scales held against numpy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from compressor_quantise.int8 import Int8Quantisation
from compressor_quantise.quantising import quantisable
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from compressor.dataset import Dataset, Sample
from compressor.stored_model import onnx_session
from compressor.strategy import FileOutcome
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing import dataset, stage_context, tiny_teacher
from compressor.testing.small_graphs import chain
from compressor.testing.tiny_vocoder import as_onnx

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
DATA = dataset(tiny_teacher().content)


class Rows(nn.Module):
    """Rows (1, time, 8) through a MatMul, their mean through a Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.each = chain(nn.Linear(8, 16))
        self.together = chain(nn.Linear(16, 4), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.together(torch.relu(self.each(x)).mean(1))
        return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, Dataset]:
    """Return a model of a MatMul and a Gemm, and rows of unequal number for it."""
    path = tmp_path_factory.mktemp("rows") / "rows.onnx"
    path.write_bytes(as_onnx(Rows(), torch.zeros(1, 24, 8), ("x", {1: "time"}), ("y", {})))
    random = np.random.default_rng(0)
    drawn = (random.standard_normal((1, 20 + 5 * at, 8)).astype(np.float32) for at in range(5))
    samples = tuple(Sample(f"rows {at}", {"x": values}) for at, values in enumerate(drawn))
    return load_teacher(path), Dataset(samples[:4], samples[4:], "rows")


def rewritten(folder: Path, teacher: Teacher, data: Dataset, **options: Any) -> FileOutcome:
    context = stage_context(teacher, data, folder)
    strategy = Int8Quantisation.model_validate({"max_drift": 100.0, **options})
    return strategy.rewrite(teacher.content, teacher.graph, context)


def steps(content: bytes, tensor: str) -> list[NDArray[Any]]:
    """Return the scales at which a tensor, or a weight, is written in 8 bits."""
    graph = onnx.load_model_from_string(content).graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return [
        values[node.input[1]]
        for node in graph.node
        if (node.op_type == "QuantizeLinear" and node.input[0] == tensor)
        or (node.op_type == "DequantizeLinear" and node.input[0] == f"{tensor}_quantized")
    ]


def drift(teacher: Teacher, content: bytes, data: Dataset) -> float:
    before, after = onnx_session(teacher.content), onnx_session(content)
    pairs = [[session.run(None, sample.inputs)[0] for session in (before, after)] for sample in data.train]
    moved = sum(float(np.sum((b.astype(float) - a) ** 2)) for a, b in pairs)
    return float(np.sqrt(moved / sum(float(np.sum(a.astype(float) ** 2)) for a, _ in pairs)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_samples_of_unequal_length_and_prints_nothing(
    method: Method, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len({sample.inputs["mel"].shape for sample in DATA.train[:4]}) > 1
    outcome = rewritten(tmp_path, tiny_teacher(), DATA, calibration=method)
    assert capfd.readouterr().out == ""
    assert outcome.findings[0].values["layers"] == len(quantisable(tiny_teacher().content, ("Conv",)))
    assert drift(tiny_teacher(), outcome.content, DATA) < 0.5


@pytest.mark.parametrize("loud", [0, 1, 3])
def test_percentiles_are_of_all_samples_however_long(loud: int, tmp_path: Path) -> None:
    inputs = [sample.inputs["mel"] * (5.0 if at == loud else 1.0) for at, sample in enumerate(DATA.train[:4])]
    data = Dataset(tuple(Sample(str(at), {"mel": each}) for at, each in enumerate(inputs)), DATA.validation, "x")
    outcome = rewritten(tmp_path, tiny_teacher(), data, calibration="percentile")
    values = np.concatenate([each.ravel() for each in inputs])
    largest = np.percentile(np.abs(values), 99.999)
    # Counted in 2,048 bins.
    span = min(largest, values.max()) - max(-largest, values.min())
    assert steps(outcome.content, "mel")[0] == pytest.approx(span / 255, rel=0.005)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_samples_does_not_matter(method: Method, tmp_path: Path) -> None:
    """A soft sample that came first would have the others counted in thousands of bins, which takes hours."""
    pairs = zip(DATA.train[:4], (0.1, 1.0, 3.0, 2.0), strict=True)
    samples = [Sample(each.name, {"mel": each.inputs["mel"] * level}) for each, level in pairs]
    both = [Dataset(tuple(order), DATA.validation, "x") for order in (samples, samples[::-1])]
    contents = [rewritten(tmp_path, tiny_teacher(), data, calibration=method).content for data in both]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("method", METHODS)
def test_matrix_products_are_quantised_too(method: Method, rows: tuple[Teacher, Dataset], tmp_path: Path) -> None:
    teacher, data = rows
    operators = {node.op_type for node in onnx.load_model_from_string(teacher.content).graph.node}
    assert {"Gemm", "MatMul"} <= operators
    outcome = rewritten(tmp_path, teacher, data, calibration=method)
    assert outcome.findings[0].values["layers"] == 2
    assert drift(teacher, outcome.content, data) < 0.1
    only = rewritten(tmp_path, teacher, data, calibration=method, operators=["Gemm"])
    assert only.findings[0].values["layers"] == 1


def test_a_weight_has_one_scale_or_one_for_each_output_channel(tmp_path: Path) -> None:
    graph = onnx.load_model_from_string(tiny_teacher().content).graph
    name = next(node.input[1] for node in graph.node if node.op_type == "Conv")
    weight = next(numpy_helper.to_array(each) for each in graph.initializer if each.name == name)
    options = {"max_drift": 100.0, "operators": ["Conv"]}
    whole = rewritten(tmp_path, tiny_teacher(), DATA, **options, per_channel=False)
    each = rewritten(tmp_path, tiny_teacher(), DATA, **options, per_channel=True)
    (one,), (many,) = steps(whole.content, name), steps(each.content, name)
    assert one.size == 1
    assert float(one) == pytest.approx((max(weight.max(), 0) - min(weight.min(), 0)) / 255, rel=1e-5)
    # By channel onnxruntime keeps zero in the middle; releases differ in whether the span has 254 or 255 steps.
    assert many == pytest.approx(2 * np.abs(weight).max((1, 2)) / 255, rel=0.005)
