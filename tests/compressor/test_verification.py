from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compressor_conv.two_dimensional import Conv1dToConv2d
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.errors import VerificationError
from compressor.graph_editing import copy_graph, input_specs
from compressor.onnx_export import export_onnx
from compressor.parity import RELATIVE_TOLERANCE
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_vocoder import tiny_vocoder, vocoder_onnx
from compressor.verification import check_export, check_stage
from tests.rounding_model import rounding_model


def changed(graph: GraphModule, layer: str, factor: float) -> GraphModule:
    """Return a copy of a graph with one weight of one layer scaled."""
    other = copy_graph(graph)
    weight = other.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight[0, 0, 0] *= factor
    return other


def test_an_equal_graph_is_proven(tiny_teacher: Teacher) -> None:
    proof = check_stage("copy", tiny_teacher.graph, copy_graph(tiny_teacher.graph), tiny_teacher.inputs)
    assert proof == "equal at sizes 7, 16, 33: 0.0e+00 of the output's scale in float64"


@pytest.mark.parametrize("factor", [1 + 1e-5, 2.0, 0.0, float("nan"), float("inf")])
def test_a_changed_graph_is_refused(factor: float, tiny_teacher: Teacher) -> None:
    other = changed(tiny_teacher.graph, "ups/1/ConvTranspose", factor)
    with pytest.raises(VerificationError, match=r"stage 'fold' should keep the output and does not: at size 7 it mov"):
        check_stage("fold", tiny_teacher.graph, other, tiny_teacher.inputs)


@pytest.mark.parametrize("padding", [0, 2])
def test_an_output_of_another_length_is_refused(padding: int) -> None:
    before = traced(chain(nn.Conv1d(2, 2, 3, padding=1)), (1, 2, "time"))
    after = traced(chain(nn.Conv1d(2, 2, 3, padding=padding)), (1, 2, "time"))
    with pytest.raises(VerificationError, match="stage 'cut' should keep the output and does not"):
        check_stage("cut", before, after, input_specs(before))


def test_axes_of_size_one_do_not_matter(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    image = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    check_stage("image", tiny_teacher.graph, image, tiny_teacher.inputs)


def test_neither_graph_is_changed_by_the_proof(tiny_teacher: Teacher) -> None:
    check_stage("copy", tiny_teacher.graph, tiny_teacher.graph, tiny_teacher.inputs)
    assert {value.dtype for value in tiny_teacher.graph.state_dict().values()} == {torch.float32}


def test_a_written_student_is_checked_at_five_sizes(tiny_teacher: Teacher) -> None:
    checks = check_export(export_onnx(tiny_teacher.graph), tiny_teacher.graph)
    assert [check.size for check in checks] == [5, 16, 47, 100, 256]
    assert all(check.max_abs_difference <= check.allowed == 1e-4 for check in checks)


def test_another_model_s_file_is_refused(tiny_teacher: Teacher) -> None:
    content = export_onnx(changed(tiny_teacher.graph, "conv_post/Conv", 1.5))
    with pytest.raises(VerificationError, match=r"the written student differs .* at size 5, allowed 1.00e-04"):
        check_export(content, tiny_teacher.graph)


@pytest.mark.parametrize("upsampling", [((4, 8), (4, 8)), ((2, 4), (2, 4))])
def test_a_file_with_outputs_of_another_length_is_refused(
    upsampling: tuple[tuple[int, int], ...], tiny_teacher: Teacher
) -> None:
    with pytest.raises(VerificationError, match="the written student"):
        check_export(vocoder_onnx(tiny_vocoder("1", upsampling)), tiny_teacher.graph)


def test_what_rounding_makes_of_one_output_excuses_nothing_in_another(tmp_path: Path) -> None:
    contents = [rounding_model(np.array([last], np.float32)) for last in (1.0, 1.0005)]
    (tmp_path / "rounding.onnx").write_bytes(contents[0])
    graph = load_teacher(tmp_path / "rounding.onnx").graph
    checks = check_export(contents[0], graph)
    assert max(check.max_abs_difference for check in checks) > RELATIVE_TOLERANCE
    assert all(check.max_abs_difference <= check.allowed for check in checks)
    with pytest.raises(VerificationError, match="differs from the torch student"):
        check_export(contents[1], graph)
