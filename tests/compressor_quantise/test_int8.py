"""8 bits, held against numpy and onnxruntime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from compressor_quantise.int8 import Int8Quantisation
from compressor_quantise.quantising import quantisable

from compressor.errors import CompressorError, RecipeError, SelectionError
from compressor.pipeline import run
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings
from compressor.stored_model import onnx_session
from compressor.strategy import FileOutcome
from compressor.testing import dataset, stage_context, tiny_teacher
from compressor.testing.tiny_runs import TinyPlugin

CONTENT = tiny_teacher().content
DATA = dataset(CONTENT)


def rewritten(tmp_path: Path, **options: Any) -> FileOutcome:
    context = stage_context(tiny_teacher(), DATA, tmp_path)
    return Int8Quantisation.model_validate(options).rewrite(CONTENT, tiny_teacher().graph, context)


def drift(content: bytes, samples: int = 4) -> float:
    """Return how far the output moves on the first training samples, by numpy."""
    before, after = onnx_session(CONTENT), onnx_session(content)
    pairs = [[session.run(None, sample.inputs)[0] for session in (before, after)] for sample in DATA.train[:samples]]
    moved = sum(float(np.sum((b.astype(float) - a) ** 2)) for a, b in pairs)
    return float(np.sqrt(moved / sum(float(np.sum(a.astype(float) ** 2)) for a, _ in pairs)))


def in_eight_bits(content: bytes) -> int:
    """Return how many convolutions read what was 8 bits."""
    graph = onnx.load_model_from_string(content).graph
    made = {node.output[0]: node.op_type for node in graph.node}
    return sum(node.op_type == "Conv" and made.get(node.input[1]) == "DequantizeLinear" for node in graph.node)


def test_where_all_is_allowed_every_layer_is_in_eight_bits(tmp_path: Path) -> None:
    outcome = rewritten(tmp_path, max_drift=100.0)
    convolutions = quantisable(CONTENT, ("Conv",))
    assert in_eight_bits(outcome.content) == len(convolutions) > 10
    assert len(outcome.findings) == 1
    assert outcome.findings[0].values["drift"] == pytest.approx(drift(outcome.content), rel=1e-6)


def test_where_nothing_is_allowed_the_file_stays(tmp_path: Path) -> None:
    outcome = rewritten(tmp_path, max_drift=1e-9)
    assert outcome.content == CONTENT
    assert {finding.layer for finding in outcome.findings[1:]} == set(quantisable(CONTENT, ("Conv",)))


def test_the_layers_that_alone_move_the_output_most_stay_in_float_and_no_more_than_have_to(tmp_path: Path) -> None:
    layers = quantisable(CONTENT, ("Conv",))
    allowed = drift(rewritten(tmp_path, max_drift=100.0).content) / 2
    outcome = rewritten(tmp_path, max_drift=allowed)
    assert drift(outcome.content) <= allowed
    left = {str(finding.layer): finding.values["drift"] for finding in outcome.findings[1:]}
    assert 0 < len(left) < len(layers)
    options = {"max_drift": 100.0}
    alone = {layer: drift(rewritten(tmp_path, **options, targets=[layer]).content, samples=1) for layer in layers}
    most = sorted(layers, key=lambda layer: -alone[layer])[: len(left)]
    assert list(left) == most
    assert left == {layer: pytest.approx(alone[layer], rel=1e-6) for layer in most}
    assert drift(rewritten(tmp_path, max_drift=100.0, ignore=most[:-1]).content) > allowed


def test_an_onnxruntime_that_keeps_no_ranges_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rewritten(tmp_path, max_drift=0.05, targets=["*resblocks.0*"])
    monkeypatch.setattr("compressor_quantise.quantising.KEEPS_RANGES", False)
    assert rewritten(tmp_path, max_drift=0.05, targets=["*resblocks.0*"]) == kept


def test_what_is_ignored_stays_in_float(tmp_path: Path) -> None:
    outcome = rewritten(tmp_path, max_drift=100.0, targets=["*resblocks*"], ignore=["*convs2*"])
    chosen = [name for name in quantisable(CONTENT, ("Conv",)) if "resblocks" in name and "convs2" not in name]
    assert in_eight_bits(outcome.content) == len(chosen)
    with pytest.raises(SelectionError):
        rewritten(tmp_path, targets=["nothing*"])


def recipe(tmp_path: Path, stages: list[Any], **changes: Any) -> Path:
    (tmp_path / "tiny.onnx").write_bytes(CONTENT)
    content = {
        "teacher": str(tmp_path / "tiny.onnx"),
        "data": {"tiny-mels": {"vocoder": str(tmp_path / "tiny.onnx")}},
        "stages": stages,
        "metrics": ["parameters", "bytes", "output-drift"],
        **changes,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_run_reports_the_file_beside_the_float_student(tmp_path: Path) -> None:
    catalog = load_catalog([TinyPlugin()])
    stages: list[Any] = ["transposed-to-standard-conv", {"int8-quantisation": {"max_drift": 100.0}}]
    path = recipe(tmp_path, stages, metrics=["parameters", "bytes", "latency", "speedup", "output-drift"])
    run(load_plan(path, catalog=catalog), RunSettings(tmp_path / "run"))
    stages = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["stages"]
    before, after = ({each["metric"]: each["value"] for each in stage["measurements"]} for stage in stages)
    student, plain = ((tmp_path / "run" / name).read_bytes() for name in ("student.onnx", "student_float.onnx"))
    assert after["bytes"] == len(student)
    # The finished file says where it comes from besides.
    assert before["bytes"] == pytest.approx(len(plain), rel=0.01)
    assert before["output-drift"] < 1e-6 < after["output-drift"]
    assert before["parameters"] == after["parameters"]
    assert in_eight_bits(student) > 10
    assert in_eight_bits(plain) == 0
    # Each file's own time, whatever it is: no figure of one stands for the other.
    for metric in ("latency", "speedup"):
        assert before[metric] > 0.0
        assert after[metric] > 0.0
        assert before[metric] != after[metric]
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    for stage in ("transposed-to-standard-conv", "int8-quantisation"):
        assert any(stage in row and "\N{MULTIPLICATION SIGN}" in row for row in rows)


def test_a_mistake_is_told_before_the_training_and_mending_it_loses_none(tmp_path: Path) -> None:
    catalog = load_catalog([TinyPlugin()])
    training = {"losses": ["l1"], "block_wise": {"steps": 0}, "end_to_end": {"steps": 2}, "segment": 12}
    stages = ["transposed-to-standard-conv", {"distillation": training}]
    wrong = recipe(tmp_path, [*stages, {"int8-quantisation": {"targets": ["no_such*"]}}])
    with pytest.raises(SelectionError, match="no_such"):
        run(load_plan(wrong, catalog=catalog), RunSettings(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for drift_allowed, resume in ((100.0, False), (50.0, True)):
        path = recipe(tmp_path, [*stages, {"int8-quantisation": {"max_drift": drift_allowed}}])
        result = run(load_plan(path, catalog=catalog), RunSettings(tmp_path / "run", resume=resume))
    assert [stage.stage for stage in result.report.stages if stage.restored] == ["distillation"]


def test_inputs_with_an_axis_more_are_fitted(tmp_path: Path) -> None:
    catalog = load_catalog([TinyPlugin()])
    image = {"conv1d-to-conv2d": {"input_shape": "image"}}
    path = recipe(tmp_path, ["transposed-to-standard-conv", image, {"int8-quantisation": {"max_drift": 100.0}}])
    result = run(load_plan(path, catalog=catalog), RunSettings(tmp_path / "run"))
    (spec,) = onnx_session((tmp_path / "run/student.onnx").read_bytes()).get_inputs()
    assert len(spec.shape) == 4
    assert result.report.stages[-1].measurements[-1].value is not None


def test_a_model_that_draws_random_numbers_is_refused() -> None:
    node = onnx.helper.make_node("RandomNormalLike", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "noise", values[:1], values[1:])
    with pytest.raises(CompressorError, match="RandomNormalLike"):
        Int8Quantisation().check(onnx.helper.make_model(graph).SerializeToString())


def test_where_it_cannot_stand_is_told_with_the_rest(tmp_path: Path) -> None:
    catalog = load_catalog([TinyPlugin()])
    region = {"onnx": "tiny.onnx", "region": {"inputs": ["a"], "outputs": ["b"]}}
    path = recipe(tmp_path, ["int8-quantisation", "fold"], teacher=region)
    with pytest.raises(RecipeError) as caught:
        load_plan(path, catalog=catalog)
    told = str(caught.value)
    assert "the teacher is a region of one" in told
    assert "'fold' works on the graph, of which 'int8-quantisation' before it makes a finished file" in told
