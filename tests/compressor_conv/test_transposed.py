from __future__ import annotations

import pytest
import torch
from compressor_conv.transposed import TransposedToStandardConv, polyphase
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, input_specs, module_nodes, parameter_count
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, inputs_of, traced
from compressor.verification import check_stage

SMALL = st.integers(1, 3)


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Draw kernel, stride, padding, output padding, dilation and length of one axis that torch accepts."""
    kernel, stride, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(SMALL)
    padding, output_padding = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    length = draw(st.integers(1, 6))
    assume(output_padding < max(stride, dilation))
    assume((length - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1 > 0)
    return kernel, stride, padding, output_padding, dilation, length


def polyphase_difference(transposed: nn.ConvTranspose1d | nn.ConvTranspose2d, value: torch.Tensor) -> float:
    conv, interleave = polyphase(transposed)
    with torch.no_grad():
        wanted, found = transposed(value), interleave(conv.double()(value))
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def seeded(module: nn.ConvTranspose1d | nn.ConvTranspose2d, seed: int) -> torch.Generator:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            # Values that float32, in which the stage builds its weights, holds exactly.
            parameter.copy_(torch.randn(parameter.shape, generator=generator).float())
    return generator


@given(axes(), st.integers(1, 2), st.integers(1, 2), SMALL, st.booleans(), st.integers(0, 99))
def test_polyphase_equals_the_transposed_convolution_over_time(
    axis: tuple[int, ...], batch: int, groups: int, width: int, bias: bool, seed: int
) -> None:
    kernel, stride, padding, output_padding, dilation, length = axis
    transposed = nn.ConvTranspose1d(
        groups * width, groups * 2, kernel, stride, padding, output_padding, groups, bias, dilation, dtype=torch.float64
    )
    value = torch.randn(batch, groups * width, length, generator=seeded(transposed, seed), dtype=torch.float64)
    assert polyphase_difference(transposed, value) < 1e-12


@given(axes(), axes(), st.integers(1, 2), SMALL, st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_polyphase_equals_the_transposed_convolution_over_images(
    first: tuple[int, ...], second: tuple[int, ...], groups: int, width: int, bias: bool, seed: int
) -> None:
    kernel, stride, padding, output_padding, dilation, size = zip(first, second, strict=True)
    # torch compares an output padding with the larger of the stride and the dilation of every axis.
    transposed = nn.ConvTranspose2d(
        groups * width, groups * 2, kernel, stride, padding, output_padding, groups, bias, dilation, dtype=torch.float64
    )
    value = torch.randn(1, groups * width, *size, generator=seeded(transposed, seed), dtype=torch.float64)
    assert polyphase_difference(transposed, value) < 1e-12


@given(axes(), st.integers(1, 2), SMALL, st.integers(0, 99))
def test_phases_are_interleaved_along_time_in_images_of_height_one_too(
    axis: tuple[int, ...], groups: int, width: int, seed: int
) -> None:
    kernel, stride, padding, output_padding, dilation, length = axis
    transposed = nn.ConvTranspose1d(
        groups * width, groups * 2, kernel, stride, padding, output_padding, groups, dilation=dilation
    )
    value = torch.randn(1, groups * width, length, generator=seeded(transposed, seed))
    conv, interleave = polyphase(transposed)
    with torch.no_grad():
        phases = conv(value)
    torch.testing.assert_close(interleave(phases.unsqueeze(2)).squeeze(2), interleave(phases), atol=0, rtol=0)


@given(st.integers(1, 5), st.integers(1, 4))
def test_no_weight_is_added_where_the_stride_divides_the_kernel(stride: int, taps: int) -> None:
    transposed = nn.ConvTranspose1d(3, 2, stride * taps, stride)
    assert polyphase(transposed)[0].weight.numel() == transposed.weight.numel()


def test_a_graph_keeps_its_output(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = TransposedToStandardConv().apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert not list(module_nodes(outcome.student, nn.ConvTranspose1d))
    proof = check_stage("polyphase", tiny_teacher.graph, outcome.student, tiny_teacher.inputs)
    assert proof.startswith("equal at sizes 7, 16, 33")
    assert [finding.layer for finding in outcome.findings] == ["ups/0/ConvTranspose", "ups/1/ConvTranspose"]
    assert outcome.findings[0].message == "48 phase channels, 0 weights added"
    # The bias is held once for each phase.
    added = parameter_count(outcome.student) - parameter_count(tiny_teacher.graph)
    assert added == (4 - 1) * 12 + (2 - 1) * 8


def test_polyphase_is_what_the_core_proves_and_up_sampling_is_not() -> None:
    assert TransposedToStandardConv().preserves_output
    assert not TransposedToStandardConv(mode="upsample").preserves_output


def test_only_what_is_chosen_is_rewritten(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = TransposedToStandardConv(ignore=("ups/1/*",)).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [str(node.target) for node, _ in module_nodes(outcome.student, nn.ConvTranspose1d)] == [
        "ups/1/ConvTranspose"
    ]


def test_a_pattern_that_matches_nothing_is_refused(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    with pytest.raises(SelectionError, match=r"'up/1/ConvTranspose' matches no layer.*did you mean 'ups/1/Conv"):
        TransposedToStandardConv(targets=("up/1/ConvTranspose",)).apply(copy_graph(tiny_teacher.graph), tiny_context)


def test_a_model_without_transposed_convolutions_is_left_and_told_so(tiny_context: StageContext) -> None:
    outcome = TransposedToStandardConv().apply(traced(chain(nn.Conv1d(2, 2, 3)), (1, 2, "time")), tiny_context)
    assert outcome.findings[0].message == "the model has no transposed convolutions"


def test_images_in_a_graph(tiny_context: StageContext) -> None:
    model = chain(nn.ConvTranspose2d(2, 3, (3, 5), (2, 3), (1, 2), (1, 0), bias=False), nn.ReLU(), nn.Conv2d(3, 1, 3))
    before = traced(model, (1, 2, 4, "time"))
    after = TransposedToStandardConv().apply(copy_graph(before), tiny_context).student
    assert after(*inputs_of(before)).shape == before(*inputs_of(before)).shape
    check_stage("polyphase", before, after, input_specs(before))
