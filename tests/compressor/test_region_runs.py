"""Whole runs on a part of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import compressor
from compressor.errors import RunFolderError, TeacherError
from compressor.stored_model import onnx_session
from compressor.teacher_loading import load_teacher
from compressor.tensor_spec import random_inputs
from tests.compressor.tiny_runs import TRAINING, Runs


def region_of(path: Path) -> dict[str, Any]:
    """Return everything behind the first convolution of a vocoder, up to its last activation."""
    nodes = onnx.load(path).graph.node
    return {"inputs": [nodes[0].output[0]], "outputs": [nodes[-1].input[0]]}


def run_on_region(runs: Runs, out: Path, stages: list[Any]) -> Path:
    part = {"onnx": str(runs.teacher), "region": region_of(runs.teacher)}
    runs.run(out, teacher=part, stages=stages, metrics=["parameters"], budget={})
    return out


def test_the_written_file_is_the_whole_model_with_the_student_inside(
    runs: Runs, tiny_onnx: Path, tmp_path: Path
) -> None:
    out = run_on_region(runs, tmp_path / "run", ["transposed-to-standard-conv", "conv1d-to-conv2d", TRAINING])
    before, after = onnx.load(tiny_onnx), onnx.load(out / "student.onnx")
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert any(node.name.startswith("student/") for node in after.graph.node)
    teacher = load_teacher(tiny_onnx)
    arrays = random_inputs(teacher.inputs, 20)
    wanted = onnx_session(teacher.content).run(None, arrays)[0]
    found = onnx_session((out / "student.onnx").read_bytes()).run(None, arrays)[0]
    assert found.shape == wanted.shape
    assert "in its place in the whole model the student equals itself" in (out / "run.log").read_text()


def test_an_exact_rewrite_of_a_region_changes_no_output(runs: Runs, tiny_onnx: Path, tmp_path: Path) -> None:
    out = run_on_region(runs, tmp_path / "run", ["transposed-to-standard-conv", "conv1d-to-conv2d"])
    arrays = random_inputs(load_teacher(tiny_onnx).inputs, 20)
    wanted = onnx_session(tiny_onnx.read_bytes()).run(None, arrays)[0]
    found = onnx_session((out / "student.onnx").read_bytes()).run(None, arrays)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert {value.name for value in onnx.load(out / "student_region.onnx").graph.input} == set(
        region_of(tiny_onnx)["inputs"]
    )


@pytest.mark.parametrize("part", ["before", "behind"])
def test_what_was_trained_on_another_part_before_the_region_is_not_taken_up(
    part: str, runs: Runs, tmp_path: Path
) -> None:
    """As where an acoustic model is trained further, and the vocoder behind it stays the same."""
    path = tmp_path / "model.onnx"
    path.write_bytes(runs.teacher.read_bytes())
    teacher = {"onnx": str(path), "region": region_of(path)}
    facts: dict[str, Any] = {
        "teacher": teacher, "stages": ["transposed-to-standard-conv", TRAINING], "metrics": ["parameters"],
        "budget": {},
    }  # fmt: skip
    runs.run(tmp_path / "run", **facts)
    first = [record.fingerprint for record in runs.records]
    model = onnx.load(path)
    if part == "before":
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[0].input[1])
        weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    else:
        model.graph.node[-1].op_type = "Softsign"
    onnx.save(model, path)
    if part == "before":
        with pytest.raises(RunFolderError, match="a run of another recipe, teacher or seed"):
            runs.run(tmp_path / "run", resume=True, **facts)
        runs.run(tmp_path / "other", **facts)
        assert not {record.fingerprint for record in runs.records} & set(first)
    else:
        # Nothing of what was trained is lost.
        runs.run(tmp_path / "run", resume=True, **facts)
        assert [record.fingerprint for record in runs.records] == first


def test_another_teacher_keeps_the_recipes_region(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.yaml"
    path.write_text(
        "teacher: {onnx: some.onnx, region: {inputs: [a], outputs: [b]}}\nstages: [conv1d-to-conv2d]\n", "utf-8"
    )
    source = compressor.load_plan(path, teacher=tiny_onnx).recipe.teacher
    assert source.onnx == str(tiny_onnx)
    assert source.region is not None
    with pytest.raises(TeacherError, match="input 'a' is no tensor of the model"):
        load_teacher(source.onnx, region=source.region)
