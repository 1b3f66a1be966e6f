"""What is wrong with a file is told; nothing hangs, crashes, or reads where it should not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from compressor.errors import TeacherError
from compressor.plugin_catalog import load_catalog
from compressor.teacher_loading import load_teacher

CONVERTERS = load_catalog().converters

WEIGHT = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)


def model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], name="first", pads=[1, 1]),
            helper.make_node("Relu", ["h"], ["y"], name="second"),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "time"])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def cycle(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].input[0] = "y"


def dangling(broken: onnx.ModelProto) -> None:
    broken.graph.node[1].input[0] = "nowhere"


def doubled(broken: onnx.ModelProto) -> None:
    broken.graph.node[1].output[0] = "h"


def absurd(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].dims[0] = 2**40


def negative(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].dims[0] = -4


def empty(broken: onnx.ModelProto) -> None:
    del broken.graph.node[:]


def mismatched(broken: onnx.ModelProto) -> None:
    broken.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def no_opset(broken: onnx.ModelProto) -> None:
    del broken.opset_import[:]


def from_the_future(broken: onnx.ModelProto) -> None:
    broken.opset_import[0].version = 9999


def no_type(broken: onnx.ModelProto) -> None:
    broken.graph.output[0].type.tensor_type.elem_type = 87


@pytest.mark.parametrize(
    "damage",
    [cycle, dangling, doubled, absurd, negative, empty, mismatched, no_opset, from_the_future, no_type],
    ids=lambda damage: damage.__name__,
)
def test_a_broken_graph_is_refused(damage: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    broken = model()
    damage(broken)
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken.SerializeToString())
    with pytest.raises(TeacherError, match=r"broken\.onnx"):
        load_teacher(path, CONVERTERS)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = model().SerializeToString()
    path = tmp_path / "cut.onnx"
    for size in range(0, len(content) - 1, 7):
        path.write_bytes(content[:size])
        with pytest.raises(TeacherError):
            load_teacher(path, CONVERTERS)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(model().SerializeToString().replace(b"second", b"sec\xff\xfed"))
    with pytest.raises(TeacherError, match="is no text"):
        load_teacher(path, CONVERTERS)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_file_of_which_bytes_were_changed_is_refused_or_loads(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(model().SerializeToString())
    for position, byte in changes:
        content[position % len(content)] = byte
    path = tmp_path / "fuzzed.onnx"
    path.write_bytes(content)
    # What loads computes what onnxruntime computes: loading compares them.
    with suppress(TeacherError):
        assert load_teacher(path, CONVERTERS).parity is not None


def test_a_model_of_five_thousand_nodes_loads(tmp_path: Path) -> None:
    names = [f"v{at}" for at in range(5001)]
    nodes = [helper.make_node("Relu" if at % 2 else "Neg", [names[at]], [names[at + 1]]) for at in range(5000)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, "time"]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "deep.onnx")
    teacher = load_teacher(tmp_path / "deep.onnx")
    assert sum(teacher.operators.values()) == 5000
    assert len({str(node.target) for node in teacher.graph.graph.nodes}) > 4000


def with_external_weight(location: str, path: Path) -> Path:
    made = model()
    external_data_helper.set_external_data(made.graph.initializer[0], location)
    made.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(made.SerializeToString())
    return path


def test_weights_in_a_file_beside_the_model_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    path = with_external_weight("weights.bin", tmp_path / "model.onnx")
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    teacher = load_teacher(path)
    np.testing.assert_array_equal(dict(teacher.graph.named_parameters())["first.weight"].detach().numpy(), WEIGHT)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("location", ["../secret.bin", "{absolute}", "inner/../../secret.bin"])
def test_weights_outside_the_models_folder_are_not_read(location: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    path = with_external_weight(location.format(absolute=secret), folder / "model.onnx")
    with pytest.raises(TeacherError, match="weights lie in files beside it"):
        load_teacher(path)


def test_a_link_out_of_the_models_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    path = with_external_weight("weights.bin", folder / "model.onnx")
    with pytest.raises(TeacherError, match="weights lie in files beside it"):
        load_teacher(path)


def test_missing_external_weights_are_told(tmp_path: Path) -> None:
    path = with_external_weight("weights.bin", tmp_path / "model.onnx")
    with pytest.raises(TeacherError, match="weights lie in files beside it"):
        load_teacher(path)
