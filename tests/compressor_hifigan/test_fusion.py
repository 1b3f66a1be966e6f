from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_hifigan.fusion import Fusion, find_fusions
from torch import Tensor, nn

from compressor.graph_editing import copy_graph
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, load_teacher
from tests.small_graphs import chain, traced


def convs(fusion: Fusion) -> list[list[list[str]]]:
    return [[[str(node.target) for node in unit.convs] for unit in branch] for branch in fusion.branches]


def resblock(number: int) -> list[list[str]]:
    return [[f"resblocks/{number}/convs{conv}/{unit}/Conv" for conv in (1, 2)] for unit in (0, 1)]


def test_the_fusions_of_a_vocoder(tiny_teacher: Teacher) -> None:
    first, second = find_fusions(tiny_teacher.graph)
    assert (first.divisor, second.divisor) == (2.0, 2.0)
    assert [str(fusion.source.target) for fusion in (first, second)] == ["ups/0/ConvTranspose", "ups/1/ConvTranspose"]
    assert [fusion.output.name for fusion in (first, second)] == ["div", "div_1"]
    assert convs(first) == [resblock(0), resblock(1)]
    assert convs(second) == [resblock(2), resblock(3)]


def test_what_a_unit_adds_is_its_last_convolution(tiny_teacher: Teacher) -> None:
    fusion = find_fusions(tiny_teacher.graph)[0]
    for branch in fusion.branches:
        assert branch[0].source is fusion.source
        assert branch[1].source is branch[0].output
        assert [unit.added for unit in branch] == [unit.convs[-1] for unit in branch]


def test_one_convolution_a_unit(tiny_teacher_2: Teacher) -> None:
    first, second = find_fusions(tiny_teacher_2.graph)
    assert convs(first) == [[[f"resblocks/{branch}/convs/{unit}/Conv"] for unit in (0, 1)] for branch in (0, 1)]
    assert convs(second) == [[[f"resblocks/{branch}/convs/{unit}/Conv"] for unit in (0, 1)] for branch in (2, 3)]


def test_fusions_are_found_after_other_stages(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    for strategy in (DepthwiseSeparableConv(rank=2), TransposedToStandardConv(), Conv1dToConv2d()):
        student = strategy.apply(student, tiny_context).student
    first, second = find_fusions(student)
    assert [[len(unit.convs) for unit in branch] for branch in second.branches] == [[8, 8], [8, 8]]
    assert str(first.source.target) == "ups/0/ConvTranspose_interleave"


def test_a_simplified_file_has_the_same_fusions(tiny_teacher: Teacher, tmp_path: Path) -> None:
    # Writing simplifies: constants become initializers.
    path = tmp_path / "simplified.onnx"
    path.write_bytes(export_onnx(tiny_teacher.graph))
    first, second = find_fusions(load_teacher(path).graph)
    assert [[len(branch) for branch in fusion.branches] for fusion in (first, second)] == [[2, 2], [2, 2]]


class Scaled(nn.Module):
    """Three branches that are multiplied instead of divided, of which one is the input itself."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 4, 3, padding=1)
        self.second = nn.Conv1d(4, 4, 5, padding=2)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        total: Tensor = (x + self.first(x)) + x + (self.second(x) + x)
        return total * self.factor


def test_a_branch_may_be_its_input_and_the_scale_a_factor() -> None:
    (fusion,) = find_fusions(traced(Scaled(1 / 3), (1, 4, "time")))
    assert fusion.divisor == pytest.approx(3.0)
    assert fusion.source.target is torch.tanh
    assert convs(fusion) == [[["first"]], [], [["second"]]]


@pytest.mark.parametrize("factor", [0.4, 1.0, 0.0, 2.0])
def test_other_scales_are_no_fusion(factor: float) -> None:
    assert find_fusions(traced(Scaled(factor), (1, 4, "time"))) == []


def test_a_plain_chain_has_none() -> None:
    assert find_fusions(traced(chain(nn.Conv1d(4, 4, 3), nn.Tanh()), (1, 4, "time"))) == []
