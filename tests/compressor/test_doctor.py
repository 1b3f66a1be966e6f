from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from compressor.cli import main
from compressor.doctor import examine
from compressor.errors import TeacherError
from compressor.plugin_catalog import load_catalog
from compressor.recipe_file import read_leniently


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A model with an operator that nobody knows."""
    shape: list[str | int | None] = [1, 2, "time"]
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Sealed", ["a"], ["y"], name="/lock/Sealed", domain="vendor"),
        ],
        "sealed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("vendor", 1)]
    path = tmp_path / "sealed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_a_vocoder_is_recognised_by_what_it_does_and_what_lies_beside_it(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    (tmp_path / "vocoder.yaml").write_text("sample_rate: 800\nhop_size: 8\n", encoding="utf-8")
    found = examine(str(path), load_catalog().converters)
    assert found.loads
    assert found.vocoder is not None
    assert (found.vocoder.kind, found.vocoder.hop_length, found.vocoder.sample_rate) == ("a mel vocoder", 8, 800)
    assert found.vocoder.described_by == "vocoder.yaml"
    assert {fact.support for fact in found.operators} == {"converted"}
    assert found.regions[0].parameters > 0


def test_the_first_recipe_is_one(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(examine(str(tiny_onnx), load_catalog().converters).recipe, encoding="utf-8")
    recipe = read_leniently(path, []).recipe
    assert recipe.teacher.onnx == str(tiny_onnx)
    assert recipe.data is not None
    assert recipe.data.name == "speech-folder"


def test_an_unknown_operator_is_told_with_its_place_and_a_remedy(sealed: Path) -> None:
    found = examine(str(sealed), load_catalog().converters)
    assert not found.loads
    first = found.operators[0]
    assert (first.operator, first.support, first.first) == ("vendor.Sealed", "missing", "/lock/Sealed")
    assert "export the model without it" in first.remedy
    assert "vendor.Sealed" in found.problem


def test_the_command_says_by_its_exit_code_whether_the_model_would_load(tiny_onnx: Path, sealed: Path) -> None:
    good, bad = doctor(str(tiny_onnx)), doctor(str(sealed))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "loads: yes, equal to onnxruntime" in good.stdout
    assert "a first recipe:" in good.stdout
    assert "loads: NO" in bad.stdout
    assert "vendor.Sealed" in bad.stdout


def test_json_holds_all_of_it(tiny_onnx: Path) -> None:
    found = json.loads(doctor(str(tiny_onnx), "--json").stdout)
    assert found["loads"] is True
    assert found["operators"][0].keys() == {"operator", "count", "first", "support", "remedy"}
    assert found["vocoder"]["hop_length"] == 8


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(TeacherError, match="not a whole ONNX model"):
        examine(str(path), {})
    assert doctor(str(path)).exit_code == 2
