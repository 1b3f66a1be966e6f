from __future__ import annotations

import pytest
import torch
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.errors import StageError
from compressor.graph_editing import copy_graph, input_specs, module_nodes, output_specs, parameter_count
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, inputs_of, traced
from compressor.verification import check_stage

ONE_DIMENSIONAL = (nn.Conv1d, nn.ConvTranspose1d)


class Reshaping(nn.Module):
    """Things that a four-dimensional tensor cannot be carried through."""

    shift: Tensor
    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 6, 3, padding=1)
        self.second = nn.Conv1d(6, 4, 1)
        self.third = nn.Conv1d(4, 4, 5, padding=4, dilation=2)
        self.register_buffer("shift", torch.linspace(-1, 1, 4)[:, None])
        self.register_buffer("gain", torch.linspace(1, 2, 20))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        y = torch.tanh(y) + self.shift
        y = y.transpose(1, 2).reshape(y.shape[0], -1, 4).transpose(1, 2)
        made: Tensor = self.third(y * self.gain.mean())
        return made + x


class Branches(nn.Module):
    """Sums of wide tensors, of a wide one and the input, and of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 3, 3, padding=1, groups=3)
        self.second = nn.ConvTranspose1d(3, 3, 4, 2, 1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        summed = (self.activation(y) + y) / 2.0 - condition
        return self.second(summed), summed * x


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    """Draw convolutions of one and the other kind with activations between them, that keep some length."""
    layers: list[nn.Module] = []
    width = 4
    for _ in range(draw(st.integers(1, 4))):
        groups, bias, kernel = draw(st.sampled_from([1, 2])), draw(st.booleans()), draw(st.integers(1, 3))
        after = draw(st.sampled_from([2, 4, 6]))
        dilation = draw(st.integers(1, 2))
        if draw(st.booleans()):
            padding = draw(st.integers(dilation * (kernel - 1) // 2, 3))
            stride = draw(st.sampled_from([1, 1, 2])) if len(layers) < 2 else 1
            layers.append(nn.Conv1d(width, after, kernel, stride, padding, dilation, groups, bias))
        else:
            stride = draw(st.integers(1, 3))
            more = draw(st.integers(0, max(stride, dilation) - 1))
            layers.append(nn.ConvTranspose1d(width, after, kernel, stride, 0, more, groups, bias, dilation))
        layers += draw(st.sampled_from([[], [nn.LeakyReLU(0.1)], [nn.Tanh()], [nn.Softplus()], [nn.Flatten(2)]]))
        width = after
    return chain(*layers)


@pytest.mark.parametrize("input_shape", ["teacher", "image"])
@given(model=chains())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_chains_keep_their_output(input_shape: str, model: nn.Sequential, tiny_context: StageContext) -> None:
    before = traced(model, (1, 4, "time"))
    after = Conv1dToConv2d.model_validate({"input_shape": input_shape}).apply(copy_graph(before), tiny_context).student
    assert not list(module_nodes(after, *ONE_DIMENSIONAL))
    check_stage("wide", before, after, input_specs(before))
    assert parameter_count(after) == parameter_count(before)


@pytest.mark.parametrize("input_shape", ["teacher", "image"])
def test_what_cannot_be_carried_goes_back_to_three_dimensions(input_shape: str, tiny_context: StageContext) -> None:
    before = traced(Reshaping(), (1, 4, "time"))
    after = Conv1dToConv2d.model_validate({"input_shape": input_shape}).apply(copy_graph(before), tiny_context).student
    assert len(list(module_nodes(after, nn.Conv2d))) == 3
    check_stage("wide", before, after, input_specs(before))


@pytest.mark.parametrize("input_shape", ["teacher", "image"])
def test_several_inputs_and_outputs(input_shape: str, tiny_context: StageContext) -> None:
    before = traced(Branches(), (1, 3, "time"), (1, 3, "time"))
    outcome = Conv1dToConv2d.model_validate({"input_shape": input_shape}).apply(copy_graph(before), tiny_context)
    assert outcome.findings[0].message == "2 convolutions are two-dimensional now"
    check_stage("wide", before, outcome.student, input_specs(before))
    assert len(output_specs(outcome.student)) == 2


def test_the_teacher_s_shapes_are_kept(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    after = Conv1dToConv2d().apply(copy_graph(tiny_teacher.graph), tiny_context).student
    assert input_specs(after) == tiny_teacher.inputs
    assert output_specs(after) == tiny_teacher.outputs
    assert after(torch.zeros(1, 8, 10)).shape == (1, 1, 80)


def test_images_go_in_and_come_out(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    after = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    assert input_specs(after)[0].shape == (1, 1, 8, "frames")
    assert output_specs(after)[0].shape == (1, 1, 1, "samples")
    (value,) = inputs_of(tiny_teacher.graph, 12)
    with torch.no_grad():
        wanted, found = tiny_teacher.graph(value), after(value.unsqueeze(1))
    assert found.shape == (1, 1, 1, 96)
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-5, rtol=1e-4)


def test_between_convolutions_of_a_vocoder_nothing_is_reshaped(
    tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    polyphase = TransposedToStandardConv().apply(copy_graph(tiny_teacher.graph), tiny_context).student
    after = Conv1dToConv2d().apply(polyphase, tiny_context).student
    reshaping = [node for node in after.graph.nodes if node.target in (torch.squeeze, torch.unsqueeze)]
    assert [node.target for node in reshaping] == [torch.unsqueeze, torch.squeeze]
    check_stage("both", tiny_teacher.graph, after, tiny_teacher.inputs)


def test_a_model_without_convolutions_is_left_and_told_so(tiny_context: StageContext) -> None:
    outcome = Conv1dToConv2d().apply(traced(chain(nn.Tanh()), (1, 2, "time")), tiny_context)
    assert outcome.findings[0].message == "the model has no one-dimensional convolutions"


def test_padding_in_words_is_refused(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(2, 2, 3, padding="same")), (1, 2, "time"))
    with pytest.raises((ValueError, StageError), match="padding 'same' has no two-dimensional form"):
        Conv1dToConv2d().apply(graph, tiny_context)
