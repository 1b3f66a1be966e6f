from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.fx import symbolic_trace

from compressor.errors import ExportError
from compressor.graph_editing import copy_graph, parameter_count
from compressor.onnx_export import export_onnx
from compressor.onnx_names import rename_border
from compressor.stored_model import onnx_session
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, attach_specs, load_teacher
from compressor.tensor_spec import TensorSpec, random_inputs
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_vocoder import mel
from compressor.verification import check_export


def shapes(content: bytes) -> dict[str, list[int | str]]:
    graph = onnx.load_model_from_string(content).graph
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def test_names_and_axes_are_the_teacher_s(tiny_teacher: Teacher) -> None:
    content = export_onnx(tiny_teacher.graph)
    assert shapes(content) == {"mel": [1, 8, "frames"], "audio": [1, 1, "samples"]}
    assert shapes(content) == shapes(tiny_teacher.content)


@pytest.mark.parametrize("frames", [1, 5, 64])
def test_the_file_runs_at_any_length(frames: int, tiny_teacher: Teacher) -> None:
    value = mel(frames, 1)
    written = onnx_session(export_onnx(tiny_teacher.graph)).run(None, {"mel": value})[0]
    wanted = onnx_session(tiny_teacher.content).run(None, {"mel": value})[0]
    np.testing.assert_allclose(written, wanted, atol=1e-5)


def test_an_image_student_and_its_shapes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    for strategy in (TransposedToStandardConv(), Conv1dToConv2d(input_shape="image")):
        student = strategy.apply(student, tiny_context).student
    content = export_onnx(student)
    assert shapes(content) == {"mel": [1, 1, 8, "frames"], "audio": [1, 1, 1, "samples"]}
    assert onnx_session(content).run(None, {"mel": mel(9, 0)[:, None]})[0].shape == (1, 1, 1, 72)
    # Shape arithmetic that the tracer spells out is folded away, except for what depends on the length.
    kinds = {node.op_type for node in onnx.load_model_from_string(content).graph.node}
    assert "ConvTranspose" not in kinds
    assert not kinds & {"If", "Loop", "ConstantOfShape", "Range"}


@pytest.mark.parametrize("names", [("0", "12"), ("onnx::Conv_0", "/conv_pre/Conv_output_0")])
def test_inputs_and_outputs_keep_odd_names(names: tuple[str, str], tiny_teacher: Teacher, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_teacher.content)
    own = (tiny_teacher.inputs[0].name, tiny_teacher.outputs[0].name)
    rename_border(model.graph, dict(zip(own, names, strict=True)))
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    odd = load_teacher(path)
    content = export_onnx(odd.graph)
    check_export(content, odd.graph)
    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == list(names)


def test_metadata_and_producer(tiny_teacher: Teacher) -> None:
    model = onnx.load_model_from_string(export_onnx(tiny_teacher.graph, metadata={"teacher_licence": "CC0", "a": "b"}))
    assert {entry.key: entry.value for entry in model.metadata_props} == {"teacher_licence": "CC0", "a": "b"}
    assert model.producer_name == "onnx-student-compressor"


@pytest.mark.parametrize(
    ("asked", "written"), [(17, 17), (13, 13), (9, 13), (22, 22), (99, onnx.defs.onnx_opset_version())]
)
def test_the_opset_is_the_teacher_s_where_it_can_be(asked: int, written: int, tiny_teacher: Teacher) -> None:
    model = onnx.load_model_from_string(export_onnx(tiny_teacher.graph, asked))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [written]


def test_a_written_student_can_be_a_teacher(tiny_teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes(export_onnx(tiny_teacher.graph))
    again = load_teacher(path)
    assert (again.inputs, again.outputs) == (tiny_teacher.inputs, tiny_teacher.outputs)
    assert parameter_count(again.graph) == parameter_count(tiny_teacher.graph)


def test_exporting_changes_nothing(tiny_teacher: Teacher) -> None:
    student = copy_graph(tiny_teacher.graph).double().train()
    export_onnx(student)
    assert student.training
    assert {value.dtype for value in student.state_dict().values()} == {torch.float64}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = self.conv(x) + y
        return z, torch.tanh(z)


def test_several_inputs_and_outputs() -> None:
    content = export_onnx(traced(Two(), (1, 2, "time"), (1, 2, "time")))
    assert shapes(content) == {
        "x": [1, 2, "time"],
        "y": [1, 2, "time"],
        "y0": [1, 2, "out_time"],
        "y1": [1, 2, "out_time"],
    }
    values = {"x": np.ones((1, 2, 7), np.float32), "y": np.zeros((1, 2, 7), np.float32)}
    first, second = onnx_session(content).run(None, values)
    np.testing.assert_allclose(np.tanh(first), second, rtol=1e-5)


class Unwritable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.special.bessel_j0(x)
        return made


def test_what_cannot_be_written_is_an_error_of_its_own() -> None:
    with pytest.raises(ExportError, match=r"the student cannot be written as ONNX: .*bessel"):
        export_onnx(traced(chain(Unwritable()), (1, 2, "time")))


class Squeezed(nn.Module):
    """Takes away an axis whose size an exporter cannot see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.reshape(1, 4, -1, x.shape[2])
        return torch.relu(torch.squeeze(torch.squeeze(wide, 2), dim=(0,))[None])


def test_an_axis_is_taken_away_without_a_condition() -> None:
    spec = TensorSpec("x", (1, 4, "time"))
    graph = symbolic_trace(Squeezed())
    attach_specs(graph, (spec,), (TensorSpec("y", spec.shape),))
    content = export_onnx(graph)
    operators = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert "If" not in operators
    assert operators.count("Squeeze") == 2
    value = np.random.default_rng(0).standard_normal((1, 4, 9)).astype(np.float32)
    np.testing.assert_array_equal(onnx_session(content).run(None, {"x": value})[0], np.maximum(value, 0))


def test_a_file_that_is_not_slimmed_computes_the_same(tiny_teacher: Teacher) -> None:
    slim, plain = (export_onnx(tiny_teacher.graph, slim=slim) for slim in (True, False))
    inputs = random_inputs(tiny_teacher.inputs, 40)
    made = [onnx_session(content).run(None, inputs)[0] for content in (slim, plain)]
    np.testing.assert_array_equal(made[0], made[1])
    fewer, more = (len(onnx.load_model_from_string(content).graph.node) for content in (slim, plain))
    assert fewer < more


def test_onnx2torch_can_ask_for_the_operator_set_whoever_is_imported_first() -> None:
    code = (
        "import compressor.onnx_export; from onnx2torch.utils.common import get_onnx_version; print(get_onnx_version())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 0
