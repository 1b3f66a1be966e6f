from __future__ import annotations

import operator
from functools import reduce
from pathlib import Path
from typing import cast

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_hifigan.fusion import Fusion, find_fusions
from compressor_hifigan.mrf_simplification import MrfSimplification
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from compressor.graph_editing import copy_graph
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, load_teacher
from compressor.tensor_spec import Dimension
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import as_onnx


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


class Unit(nn.Module):
    """A residual unit: convolutions of one or more terms, what they add before or after what they read."""

    def __init__(self, convs: int, terms: int, kernel: int, *, source_first: bool) -> None:
        super().__init__()
        self.count, self.terms, self.source_first = convs, terms, source_first
        self.convs = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(4, 4, kernel, padding=kernel // 2) for _ in range(terms)) for _ in range(convs)
        )
        self.activation = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        added = x
        for terms in self.convs:
            read = self.activation(added)
            added = reduce(operator.add, [term(read) for term in cast(nn.ModuleList, terms)])
        return x + added if self.source_first else added + x


SHAPES: tuple[tuple[Dimension, ...], ...] = ((1, 4, 20), (1, 1, 40))

Tree = int | tuple["Tree", "Tree"]
"""Numbers of branches and how they are summed: `((0, 1), 2)`."""


def leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else [leaf for part in tree for leaf in leaves(part)]


class Fused(nn.Module):
    """One stage of a vocoder; the input of its branches is the up-sampled one, which may have more added to it."""

    def __init__(self, branches: list[list[Unit]], tree: Tree, scale: str, before: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 4, 4, 2, 1)
        self.noise_conv = nn.Conv1d(1, 4, 3, padding=1)
        self.unit_before = Unit(1, 1, 3, source_first=False)
        self.units = branches
        self.branches = nn.ModuleList(nn.Sequential(*units) for units in branches)
        self.tree, self.scale, self.before, self.divisor = tree, scale, before, len(branches)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        x = self.up(functional.leaky_relu(x))
        if self.before == "noise":
            x = x + self.noise_conv(noise)
        elif self.before == "unit":
            x = self.unit_before(x)
        total = self.fused(x, self.tree)
        if self.scale == "div":
            return total / self.divisor
        return total * (1 / self.divisor) if self.scale == "mul" else (1 / self.divisor) * total

    def fused(self, x: Tensor, tree: Tree) -> Tensor:
        if isinstance(tree, int):
            return self.branches[tree](x)  # type: ignore[no-any-return]
        first, second = tree
        return self.fused(x, first) + self.fused(x, second)


@st.composite
def trees(draw: st.DrawFn, numbers: list[int]) -> Tree:
    if len(numbers) == 1:
        return numbers[0]
    cut = draw(st.integers(1, len(numbers) - 1))
    return draw(trees(numbers[:cut])), draw(trees(numbers[cut:]))


@st.composite
def fused_stages(draw: st.DrawFn) -> Fused:
    convs, kernels = draw(st.integers(1, 2)), (3, 5, 7, 11)

    def unit(kernel: int) -> Unit:
        return Unit(convs, draw(st.integers(1, 3)), kernel, source_first=draw(st.booleans()))

    count = draw(st.integers(2, 4))
    branches = [[unit(kernel) for _ in range(draw(st.integers(0, 3)))] for kernel in kernels[:count]]
    tree = draw(trees(draw(st.permutations(range(count)))))
    scale = draw(st.sampled_from(["div", "mul", "number first"]))
    return Fused(branches, tree, scale, before=draw(st.sampled_from(["", "noise", "unit"])))


def names(model: Fused) -> list[list[list[str]]]:
    """Return the convolutions of each branch's units, by the branch's place in the sum."""
    return [
        [
            [
                f"branches.{number}.{place}.convs.{conv}.{term}"
                for conv in range(unit.count)
                for term in range(unit.terms)
            ]
            for place, unit in enumerate(model.units[number])
        ]
        for number in leaves(model.tree)
    ]


@given(fused_stages())
def test_branches_are_found_however_they_are_summed_and_scaled(model: Fused) -> None:
    (fusion,) = find_fusions(traced(model, *SHAPES))
    assert fusion.divisor == pytest.approx(len(model.units))
    assert fusion.source.target is operator.add if model.before else fusion.source.target == "up"
    assert convs(fusion) == names(model)


@given(fused_stages(), st.data())
@settings(max_examples=50)
def test_dropped_units_leave_a_fusion_of_the_others(tiny_teacher: Teacher, model: Fused, data: st.DataObject) -> None:
    graph = traced(model, *SHAPES)
    units = [unit[-1] for branch in names(model) for unit in branch]
    dropped = data.draw(st.sets(st.sampled_from(units)) if units else st.just(set()))
    context = stage_context(tiny_teacher, None, Path("unused"), choices=dict.fromkeys(dropped, "dropped"))
    (fusion,) = find_fusions(MrfSimplification().apply(graph, context).student)
    assert convs(fusion) == [[unit for unit in branch if unit[-1] not in dropped] for branch in names(model)]


def test_noise_added_before_a_fusion_is_no_branch() -> None:
    """The form of NSF-HiFiGAN, of which two branches have lost their units."""
    model = Fused([[], [Unit(2, 1, 7, source_first=False)], []], (0, (1, 2)), "div", "noise")
    (fusion,) = find_fusions(traced(model, *SHAPES))
    assert [str(node.target) for node in fusion.source.all_input_nodes] == ["up", "noise_conv"]
    assert list(map(len, fusion.branches)) == [0, 1, 0]


@pytest.mark.parametrize("count", [2, 4])
def test_a_sum_of_another_number_than_the_scale_says_is_no_fusion(count: int) -> None:
    model = Fused([[Unit(1, 1, 3, source_first=False)] for _ in range(3)], ((0, 1), 2), "div", "")
    model.divisor = count
    assert find_fusions(traced(model, *SHAPES)) == []


class Inverse(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        return 2 / (self.first(x) + x + x)  # type: ignore[no-any-return]


def test_a_number_divided_by_a_sum_is_no_fusion() -> None:
    assert find_fusions(traced(Inverse(1.0), (1, 4, "time"))) == []


class Piper(nn.Module):
    """The end of a Piper voice: units of one convolution, kernels of 3, 5 and 7."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(6, 4, 8, 4, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(4, 4, kernel, padding=step * (kernel // 2), dilation=step) for step in steps)
            for kernel, steps in ((3, (1, 2)), (5, (2, 6)), (7, (3, 12)))
        )
        self.post = nn.Conv1d(4, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(functional.leaky_relu(x, 0.1))
        ends = []
        for block in self.blocks:
            end = x
            for conv in cast(nn.ModuleList, block):
                end = conv(functional.leaky_relu(end, 0.1)) + end
            ends.append(end)
        return torch.tanh(self.post(functional.leaky_relu((ends[0] + ends[1] + ends[2]) / 3)))


@pytest.mark.parametrize("opset", [13, 17])
def test_an_exported_voice_of_one_convolution_a_unit(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "voice.onnx"
    path.write_bytes(as_onnx(Piper(), torch.zeros(1, 6, 12), opset=opset))
    (fusion,) = find_fusions(load_teacher(path).graph)
    assert fusion.divisor == 3.0
    assert convs(fusion) == [[[f"blocks/{block}/{unit}/Conv"] for unit in (0, 1)] for block in (0, 1, 2)]
