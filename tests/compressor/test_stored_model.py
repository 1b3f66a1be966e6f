"""Large weights stand beside the graph, and everything else is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor import stored_model
from compressor.errors import TeacherError
from compressor.graph_editing import run_graph
from compressor.plugin_catalog import load_catalog
from compressor.stored_model import StoredModel, onnx_session, read_stored
from compressor.teacher_loading import load_teacher
from compressor.weights_apart import LEAST_BYTES, weights_apart

KINDS = [np.float32, np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_]


def model(arrays: list[NDArray[Any]]) -> onnx.ModelProto:
    """Return a model that puts out its input and holds arrays."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], name="same")],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, f"weight {number}") for number, array in enumerate(arrays)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, {"licence": "CC0"})
    return made


@st.composite
def arrays(draw: st.DrawFn) -> list[NDArray[Any]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=5))
    return [
        (generator.standard_normal(shape) * 50).astype(draw(st.sampled_from(KINDS)))
        if shape
        else np.asarray(1.5, np.float32)
        for shape in shapes
    ]


@given(arrays(), st.integers(1, 200))
def test_nothing_is_lost(values: list[NDArray[Any]], least: int) -> None:
    content = model(values).SerializeToString()
    outline, weights = weights_apart(content, least)
    assert set(weights) == {f"weight {at}" for at, array in enumerate(values) if array.nbytes >= least}
    for name, array in weights.items():
        wanted = values[int(name.split()[1])]
        np.testing.assert_array_equal(array, wanted)
        assert array.dtype == wanted.dtype
    completed = StoredModel(outline, weights, "", len(content)).complete()
    assert completed.SerializeToString(deterministic=True) == onnx.load_model_from_string(content).SerializeToString(
        deterministic=True
    )


@given(st.data())
def test_damaged_files_never_crash_the_walk(data: st.DataObject) -> None:
    content = bytearray(model([np.arange(20, dtype=np.float32), np.ones((3, 4), np.int64)]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    outline, weights = weights_apart(cut, 1)
    assert weights or outline == cut


def test_a_session_computes_the_same(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)
    assert weight.nbytes >= LEAST_BYTES
    made = model([weight])
    made.graph.node[0].CopyFrom(helper.make_node("MatMul", ["x", "weight 0"], ["y"], name="product"))
    for value, size in ((made.graph.input[0], 128), (made.graph.output[0], 256)):
        value.type.tensor_type.shape.dim[0].dim_value = size
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    stored = read_stored(path)
    assert len(stored.outline) < 1000
    assert list(stored.weights) == ["weight 0"]
    x = np.random.default_rng(1).standard_normal(128).astype(np.float32)
    for session in (onnx_session(stored), onnx_session(path.read_bytes())):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight, rtol=1e-4, atol=1e-4)
    teacher = load_teacher(path)
    np.testing.assert_array_equal(next(teacher.graph.parameters()).detach().numpy(), weight)
    assert onnx.load_model_from_string(teacher.content) == made


def test_the_hash_is_that_of_the_file_and_of_what_it_refers_to(tmp_path: Path) -> None:
    hashes = []
    for number in range(2):
        made = model([np.full((200, 200), number, np.float32)])
        path = tmp_path / f"{number}.onnx"
        onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        found = read_stored(path)
        np.testing.assert_array_equal(found.weights["weight 0"], np.full((200, 200), number))
        assert found.size == path.stat().st_size + 160_000
        hashes.append(found.sha256)
        (tmp_path / "weights.bin").unlink()
    assert hashes[0] != hashes[1]


def test_what_does_not_fit_into_a_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredModel.of(model([np.zeros((200, 200), np.float32)]).SerializeToString())
    monkeypatch.setattr(stored_model, "LIMIT", 1000)
    with pytest.raises(TeacherError, match="does not fit into one ONNX file"):
        stored.content()


def square(seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32)


def loaded_output(path: Path) -> NDArray[Any]:
    """Return what a file's torch graph makes of ones; loading has compared it with onnxruntime."""
    teacher = load_teacher(path, load_catalog().converters)
    (found,) = run_graph(teacher.graph, (torch.ones(1, 256),))
    return found.detach().numpy()


def product(weights: dict[str, NDArray[Any]], read: str = "w") -> onnx.ModelProto:
    """Return a model that multiplies with one of its weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", read], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_large_weight_that_nothing_reads_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(product({"w": square(0), "unread": square(1)}), path)
    np.testing.assert_allclose(loaded_output(path), square(0).sum(0)[None], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, ml_dtypes.int4])
def test_types_that_numpy_stores_otherwise_are_kept_inside(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    made = product({"stored": np.round(square() * 2).astype(kind)})
    cast = helper.make_node("Cast", ["stored"], ["w"], to=TensorProto.FLOAT, name="cast")
    nodes = [cast, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.save(made, path, save_as_external_data=True, size_threshold=0, location="w.bin")
    stored = read_stored(path)
    assert not stored.weights
    held = numpy_helper.to_array(onnx.load_model_from_string(stored.content()).graph.initializer[0])
    np.testing.assert_array_equal(held.astype(np.float32), np.round(square() * 2).astype(kind).astype(np.float32))


def test_weights_of_branches_may_lie_beside_the_file(tmp_path: Path) -> None:
    made = product({"w": square()})
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "v"], ["r"])],
        "branch",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(square(2), "v")],
    )
    choice = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    del made.graph.node[:]
    made.graph.node.append(choice)
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "c"))
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, size_threshold=1024, location="w.bin")
    np.testing.assert_allclose(loaded_output(path), square(2).sum(0)[None], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["lambda", "in", "None", 'a"b', "a\nb", "a\\", "a\\b", "forward", "a.b"])
def test_names_are_never_code(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    made = product({name: square()}, read=name)
    made.graph.node[0].name = name
    onnx.save(made, path)
    np.testing.assert_allclose(loaded_output(path), square().sum(0)[None], rtol=1e-3, atol=1e-3)


def test_a_name_that_would_run_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = 'w", print("run")) #'
    made = product({name: square()}, read=name)
    made.graph.node[0].name = name
    onnx.save(made, tmp_path / "model.onnx")
    loaded_output(tmp_path / "model.onnx")
    assert "run" not in capsys.readouterr().out


def test_a_tensor_that_cannot_be_parsed_is_left_for_the_checker(tmp_path: Path) -> None:
    content = product({"w": square()}).SerializeToString()
    broken = content.replace(b"\x08\x80\x02\x08\x80\x02\x10\x01", b"\x0a\x01\xff\x08\x80\x02\x10\x01", 1)
    assert broken != content
    path = tmp_path / "model.onnx"
    path.write_bytes(broken)
    with pytest.raises(TeacherError, match="is not a whole ONNX model"):
        load_teacher(path)


def test_a_model_that_puts_out_a_sequence_is_refused_by_its_operator(tmp_path: Path) -> None:
    made = product({"w": square()})
    made.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["list"], name="listing"))
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None))
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(TeacherError, match="SequenceConstruct"):
        load_teacher(tmp_path / "model.onnx")
