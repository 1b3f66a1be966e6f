from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor.errors import TeacherError
from compressor.graph_editing import copy_graph, input_specs, output_specs, parameter_count
from compressor.measuring import MeasuredModel
from compressor.parity import RELATIVE_TOLERANCE, compare_with_onnxruntime
from compressor.stored_model import onnx_session
from compressor.teacher_loading import Teacher, load_teacher, read_model
from compressor.tensor_spec import TensorSpec, random_inputs
from compressor.testing.tiny_vocoder import as_onnx, tiny_vocoder, vocoder_onnx
from tests.rounding_model import rounding_model

Save = Callable[[bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: bytes) -> Path:
        path = tmp_path / "teacher.onnx"
        path.write_bytes(content)
        return path

    return write


def built(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    shape: list[int | str] | None = None,
    domains: dict[str, int] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """Return a model from `x` to `y`, both of `shape`."""
    form = shape or [1, 2, "time"]
    values = [helper.make_tensor_value_info(name, dtype, form) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "built", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 17, **(domains or {})}.items()]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return bytes(model.SerializeToString())


def test_what_a_file_says_of_itself(tiny_teacher: Teacher, tiny_onnx: Path) -> None:
    content = tiny_onnx.read_bytes()
    assert tiny_teacher.source == str(tiny_onnx)
    assert tiny_teacher.content == content
    assert tiny_teacher.sha256 == hashlib.sha256(content).hexdigest()
    assert tiny_teacher.opset == 17
    assert tiny_teacher.inputs == (TensorSpec("mel", (1, 8, "frames")),)
    assert tiny_teacher.outputs == (TensorSpec("audio", (1, 1, "samples")),)
    assert tiny_teacher.operators["ConvTranspose"] == 2
    assert tiny_teacher.operators["Conv"] == 18
    assert not tiny_teacher.graph.training
    assert (input_specs(tiny_teacher.graph), output_specs(tiny_teacher.graph)) == (
        tiny_teacher.inputs,
        tiny_teacher.outputs,
    )


def test_weights_may_be_computed_ones(save: Save) -> None:
    """The models of the onnx package hold no weights: a `ConstantOfShape` makes each."""
    fill = numpy_helper.from_array(np.array([0.25], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["weight"], value=fill),
        helper.make_node("Conv", ["x", "weight"], ["y"], name="conv", kernel_shape=[1]),
    ]
    teacher = load_teacher(save(built(nodes, {"size": np.array([2, 2, 1])})))
    assert parameter_count(teacher.graph) == 4
    assert teacher.operators == {"ConstantOfShape": 1, "Conv": 1}


def test_the_graph_computes_what_the_exported_module_did(tiny_teacher: Teacher) -> None:
    value = torch.randn(1, 8, 21)
    with torch.no_grad():
        torch.testing.assert_close(tiny_teacher.graph(value), tiny_vocoder("1")(value), atol=1e-5, rtol=1e-4)


def test_every_weight_is_counted(tiny_teacher: Teacher) -> None:
    assert parameter_count(tiny_teacher.graph) == sum(value.numel() for value in tiny_vocoder("1").parameters())


@pytest.mark.parametrize("opset", [11, 13, 16])
def test_other_opsets(opset: int, save: Save) -> None:
    assert load_teacher(save(vocoder_onnx(tiny_vocoder("2"), opset))).opset == opset


def test_metadata_is_kept(save: Save, tiny_onnx: Path) -> None:
    model = onnx.load(tiny_onnx)
    helper.set_model_props(model, {"license": "CC0", "voice": "joe"})
    assert load_teacher(save(model.SerializeToString())).metadata == {"license": "CC0", "voice": "joe"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"none\.onnx does not exist; expected an ONNX file"):
        load_teacher(tmp_path / "none.onnx")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="is a folder; expected an ONNX file"):
        load_teacher(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(save: Save) -> None:
    path = save(b"secret")
    path.chmod(0)
    with pytest.raises(TeacherError, match="cannot be read"):
        load_teacher(path)


@given(content=st.binary(max_size=400))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_no_model(content: bytes, save: Save) -> None:
    with pytest.raises(TeacherError, match=r"is not a whole ONNX model|cannot|disagree"):
        load_teacher(save(content))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_told_so(share: float, tiny_onnx: Path, save: Save) -> None:
    content = tiny_onnx.read_bytes()
    path = save(content[: int(len(content) * share)])
    with pytest.raises(TeacherError, match=r"bytes\) is not a whole ONNX model.*truncated"):
        load_teacher(path)
    with pytest.raises(TeacherError, match="is not a whole ONNX model"):
        read_model(path)


def test_all_operators_without_a_torch_form_are_named(save: Save) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="/first/Det"),
        helper.make_node("Hardmax", ["x"], ["b"]),
        helper.make_node("Magic", ["x"], ["c"], domain="my.own"),
        helper.make_node("Magic", ["c"], ["y"], domain="my.own", name="/second"),
    ]
    with pytest.raises(TeacherError) as caught:
        load_teacher(save(built(nodes, domains={"my.own": 1})))
    message = str(caught.value)
    assert "onnx2torch has no converter at opset 17 for:" in message
    assert "ai.onnx.Det (first at '/first/Det')" in message
    assert "ai.onnx.Hardmax (first at 'b')" in message
    assert message.count("my.own.Magic (first at 'c')") == 1
    assert "hook compressor_onnx_converters" in message


def test_a_model_that_torch_computes_otherwise_is_refused(tiny_teacher: Teacher) -> None:
    other = copy_graph(tiny_teacher.graph)
    bias = other.get_submodule("conv_post/Conv").bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias += 0.01
    with pytest.raises(TeacherError, match=r"torch and onnxruntime disagree at size 16: .*, allowed 0.0001"):
        compare_with_onnxruntime("teacher", tiny_teacher.stored, other, tiny_teacher.inputs)


def test_what_rounding_alone_makes_of_a_model_is_no_difference(save: Save) -> None:
    teacher = load_teacher(save(rounding_model(np.array([1.0], np.float32))))
    assert teacher.parity is not None
    assert teacher.parity.absolute > RELATIVE_TOLERANCE
    # What rounding makes of one output excuses nothing in another.
    other = load_teacher(save(rounding_model(np.array([1.0005], np.float32))))
    with pytest.raises(TeacherError, match="disagree"):
        compare_with_onnxruntime("teacher", teacher.stored, other.graph, teacher.inputs)


def test_random_numbers_are_refused(save: Save) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    with pytest.raises(TeacherError, match=r"RandomNormalLike|random numbers"):
        load_teacher(save(built(nodes)))


def test_a_model_that_needs_longer_inputs_is_told_the_shape(save: Save) -> None:
    content = as_onnx(nn.Conv1d(2, 2, 60), torch.zeros(1, 2, 80))
    with pytest.raises(TeacherError, match=r"cannot be run on inputs of shape \{'x': \(1, 2, 16\)\}"):
        load_teacher(save(content))


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.other = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(torch.relu(self.conv(x))))  # type: ignore[no-any-return]


def test_shared_initializers_are_one_weight(save: Save) -> None:
    model = Shared()
    teacher = load_teacher(save(as_onnx(model, torch.zeros(1, 3, 20))))
    wanted = sum(value.numel() for value in model.parameters())
    assert parameter_count(teacher.graph) == wanted
    assert MeasuredModel(copy_graph(teacher.graph), teacher, None).parameters == wanted


def test_constants_have_the_names_of_the_file(save: Save) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "projection.weight"], ["once"]),
            helper.make_node("MatMul", ["once", "projection.weight"], ["twice"]),
            helper.make_node("Add", ["twice", "training"], ["y"]),
        ],
        "names",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, "projection.weight"), numpy_helper.from_array(weight[0], "training")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    teacher = load_teacher(save(model.SerializeToString()))
    names = [name for name, _ in teacher.graph.named_parameters()]
    # The second has the name of something that every torch module has.
    assert names == ["initializers.projection/weight", "initializers.training_"]


def test_a_model_of_fixed_size_and_integers(save: Save) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 3])],
        [numpy_helper.from_array(weight, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    teacher = load_teacher(save(model.SerializeToString()))
    assert teacher.inputs == (TensorSpec("ids", (1, 4), "int64"),)
    assert teacher.inputs[0].dynamic_axes == {}
    assert parameter_count(teacher.graph) == 15


def test_nameless_dynamic_axes_get_a_name(save: Save) -> None:
    content = as_onnx(nn.Conv1d(2, 2, 1), torch.zeros(1, 2, 8), ("x", {0: "batch", 2: "time"}), ("y", {2: "time"}))
    model = onnx.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param")
    teacher = load_teacher(save(model.SerializeToString()))
    assert teacher.inputs[0].shape == ("batch", 2, "x_axis_2")


def test_a_model_whose_weights_lie_beside_it_is_the_same_model(tmp_path: Path, tiny_onnx: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(tiny_onnx), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    found, wanted = load_teacher(path), load_teacher(tiny_onnx)
    for one, other in zip(found.graph.parameters(), wanted.graph.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_file_can_be_read_without_converting_it(tiny_onnx: Path) -> None:
    stored, inputs = read_model(tiny_onnx)
    assert stored.content() == tiny_onnx.read_bytes()
    assert inputs == (TensorSpec("mel", (1, 8, "frames")),)


def test_random_inputs_fit_the_specs() -> None:
    specs = (TensorSpec("x", ("n", 3, "t")), TensorSpec("ids", (1, "t"), "int64"), TensorSpec("m", (2,), "bool"))
    arrays = random_inputs(specs, 7, seed=1)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "x": ((1, 3, 7), "float32"),
        "ids": ((1, 7), "int64"),
        "m": ((2,), "bool"),
    }
    assert set(np.unique(arrays["ids"])) <= {0, 1}
    np.testing.assert_array_equal(arrays["x"], random_inputs(specs, 7, seed=1)["x"])


def test_a_session_runs_on_the_threads_asked_for(tiny_onnx: Path) -> None:
    session = onnx_session(tiny_onnx.read_bytes(), threads=1)
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_providers() == ["CPUExecutionProvider"]
