"""Random numbers inside a graph: seeded, shared by torch and onnxruntime, and kept in what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import VerificationError
from compressor.graph_editing import copy_graph, feed
from compressor.onnx_export import export_onnx
from compressor.plugin_catalog import load_catalog
from compressor.randomness import draws, stream
from compressor.shared_draws import recorded_draws, taking_draws
from compressor.stored_model import StoredModel
from compressor.teacher_loading import Teacher, load_teacher
from compressor.verification import check_export


def source(path: Path) -> Path:
    """Write a vocoder's source: noise of the signal's length, and a phase drawn once, before a convolution."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], name="/source/noise", scale=0.5, dtype=1),
        helper.make_node("RandomUniform", [], ["phase"], name="/source/phase", shape=[1, 2, 1]),
        helper.make_node("Add", ["x", "noise"], ["noisy"], name="/source/Add"),
        helper.make_node("Mul", ["noisy", "phase"], ["excited"], name="/source/Mul"),
        helper.make_node("Conv", ["excited", "weight"], ["y"], name="/Conv", pads=[1, 1]),
    ]
    weight = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "source",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "time"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return load_teacher(source(tmp_path / "source.onnx"), load_catalog().converters)


def test_a_model_that_draws_loads_and_equals_onnxruntime_on_the_same_draws(teacher: Teacher) -> None:
    x = torch.ones(1, 2, 9)
    with recorded_draws(teacher.graph) as drawn:
        first = feed(teacher.graph, (x,))[0]
    assert {name: array.shape for name, array in drawn.items()} == {"noise": (1, 2, 9), "phase": (1, 2, 1)}
    assert abs(float(drawn["noise"].std()) - 0.5) < 0.2
    assert torch.equal(first, feed(teacher.graph, (x,))[0])


def test_another_seed_draws_otherwise_and_the_same_for_a_changed_student(teacher: Teacher) -> None:
    student = copy_graph(teacher.graph)
    with torch.no_grad():
        student.get_submodule("Conv").weight.mul_(2.0)  # type: ignore[operator]
    x = torch.ones(1, 2, 9)
    first = feed(teacher.graph, (x,))[0]
    with draws(1):
        other = feed(teacher.graph, (x,))[0]
        torch.testing.assert_close(feed(student, (x,))[0], 2 * other)
    assert not torch.allclose(first, other)
    assert torch.equal(feed(teacher.graph, (x,))[0], first)


def test_streams_of_other_names_are_independent() -> None:
    one, other = torch.randn(1000, generator=stream("one")), torch.randn(1000, generator=stream("other"))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.1
    assert torch.equal(one, torch.randn(1000, generator=stream("one")))


def test_what_is_written_keeps_the_teachers_own_random_operators(teacher: Teacher) -> None:
    content = export_onnx(teacher.graph, teacher.opset)
    kinds = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert {"RandomNormalLike", "RandomUniform"} <= set(kinds)
    assert len(check_export(content, teacher.graph)) == 5


def test_a_file_that_draws_at_other_places_is_told(teacher: Teacher) -> None:
    with pytest.raises(VerificationError, match="at 1 places, the file at 2"):
        taking_draws(teacher.stored, {"noise": np.zeros((1, 2, 3), np.float32)}, by_name=False)


def test_a_file_that_draws_nothing_stays_as_it_is() -> None:
    stored = StoredModel.of(b"any")
    assert taking_draws(stored, {}, by_name=True) == (stored, {})
