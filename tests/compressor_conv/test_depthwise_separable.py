from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv, separable
from compressor_prune.channel_importance import ChannelImportancePruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, module_nodes, parameter_count
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from tests.small_graphs import chain, inputs_of, traced

Conv = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    """Draw a dense convolution of any kind with random weights."""
    kind = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d]))
    axes = 2 if kind in (nn.Conv2d, nn.ConvTranspose2d) else 1
    kernel = tuple(draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes)))
    before, after, stride, dilation = (draw(st.integers(low, 3)) for low in (1, 1, 1, 1))
    padding = tuple(min(2, dilation * (size - 1)) for size in kernel)
    options = {"stride": stride, "dilation": dilation, "padding": padding, "bias": draw(st.booleans())}
    model: Conv = kind(before, after, kernel, **options)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def approximation(conv: Conv, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return what a convolution and its factors of `rank` make of one input, in float64, and the energy kept."""
    axes = conv.weight.dim() - 2
    value = torch.randn(2, conv.in_channels, *(7,) * axes, generator=torch.Generator().manual_seed(1)).double()
    terms, kept = separable(conv, rank)
    with torch.no_grad():
        wanted = conv.double()(value)
        found = sum(pointwise.double()(depthwise.double()(value)) for depthwise, pointwise in terms)
    conv.float()
    assert isinstance(found, torch.Tensor)
    assert found.shape == wanted.shape
    return wanted, found, kept


def numpy_energy(conv: Conv, rank: int) -> float:
    """Return the share of squared singular values that the first `rank` of each input channel's filters hold."""
    weight = conv.weight.detach().double().numpy()
    by_input = weight if conv.transposed else weight.swapaxes(0, 1)
    values = [np.linalg.svd(filters.reshape(len(filters), -1), compute_uv=False) for filters in by_input]
    return float(sum((each[:rank] ** 2).sum() for each in values) / sum((each**2).sum() for each in values))


@given(convolutions())
@settings(deadline=None)
def test_as_many_terms_as_taps_are_exact(conv: Conv) -> None:
    wanted, found, kept = approximation(conv, conv.weight[0, 0].numel())
    # The factors are held in float32.
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)
    assert kept == pytest.approx(1.0)


@given(convolutions(), st.integers(1, 4))
@settings(deadline=None)
def test_the_energy_kept_is_the_one_of_the_singular_values(conv: Conv, rank: int) -> None:
    assert separable(conv, rank)[1] == pytest.approx(numpy_energy(conv, rank), abs=1e-9)


@given(convolutions())
@settings(deadline=None)
def test_more_terms_are_nearer_to_the_weights(conv: Conv) -> None:
    def error(rank: int) -> float:
        terms, _ = separable(conv, rank)
        flat = [
            torch.einsum("io,it->iot", pointwise.weight.flatten(1).T, depthwise.weight.flatten(1))
            for depthwise, pointwise in terms
        ]
        weight = conv.weight if conv.transposed else conv.weight.transpose(0, 1)
        return float((sum(flat) - weight.flatten(2)).norm().detach())

    errors = [error(rank) for rank in range(1, conv.weight[0, 0].numel() + 1)]
    assert all(later <= earlier + 1e-5 for earlier, later in pairwise(errors))
    # Eckart and Young: nothing of that rank is nearer.
    lost = 1 - numpy_energy(conv, 1)
    assert errors[0] ** 2 == pytest.approx(lost * float(conv.weight.detach().square().sum()), rel=1e-3, abs=1e-6)


def body(teacher: Teacher) -> list[str]:
    return [str(node.target) for node, _ in module_nodes(teacher.graph, nn.Conv1d)][1:-1]


def test_it_saves_the_parameters_it_says(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(rank=1).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [finding.layer for finding in outcome.findings] == body(tiny_teacher)
    saved = sum(finding.values["weights_before"] - finding.values["weights_after"] for finding in outcome.findings)
    assert saved == parameter_count(tiny_teacher.graph) - parameter_count(outcome.student) > 0
    # 12 channels, 7 taps: 12 * 12 * 7 weights become 12 * 7 + 12 * 12.
    wide = next(finding for finding in outcome.findings if finding.layer == "resblocks/1/convs1/0/Conv")
    assert (wide.values["weights_before"], wide.values["weights_after"]) == (1008, 228)
    conv = tiny_teacher.graph.get_submodule(wide.layer)
    assert isinstance(conv, nn.Conv1d)
    assert wide.values["energy_kept"] == pytest.approx(numpy_energy(conv, 1))


def test_more_rank_keeps_more_of_the_output(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    (value,) = inputs_of(tiny_teacher.graph)

    def error(rank: int) -> float:
        student = DepthwiseSeparableConv(rank=rank).apply(copy_graph(tiny_teacher.graph), tiny_context).student
        with torch.no_grad():
            return float((student(value) - tiny_teacher.graph(value)).abs().mean())

    assert error(1) > error(2) > 0


def test_layers_where_it_would_save_nothing_stay_dense(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(rank=3).apply(copy_graph(tiny_teacher.graph), tiny_context)
    dense = [finding for finding in outcome.findings if finding.message.startswith("left dense")]
    # Three terms of three taps hold all there is.
    assert {finding.layer.split("/")[1] for finding in dense} == {"0", "2"}
    assert dense[0].message == "left dense: 3 taps would cost 540 weights (now 432)"


def test_grouped_and_short_layers_stay_as_they_are(tiny_context: StageContext) -> None:
    dense = nn.Conv1d(8, 8, 5, padding="same")
    model = chain(nn.Conv1d(8, 8, 5, groups=2), nn.Conv1d(8, 8, 2), dense)
    outcome = DepthwiseSeparableConv(keep_ends=False).apply(traced(model, (1, 8, "time")), tiny_context)
    assert [finding.message.split(" (")[0] for finding in outcome.findings] == [
        "left dense: it is grouped already",
        "left dense: 2 taps would cost 80 weights",
        f"rank 1 keeps {numpy_energy(dense, 1):.0%} of the filters' energy, 320 to 104 weights",
    ]


def test_narrow_layers_can_be_left(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(min_channels=12).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert {finding.layer.split("/")[1] for finding in outcome.findings} == {"0", "1"}


@pytest.mark.parametrize(("keep_ends", "ends"), [(True, 0), (False, 2)])
def test_the_ends_are_left_unless_asked_for(
    keep_ends: bool, ends: int, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    strategy = DepthwiseSeparableConv(keep_ends=keep_ends)
    outcome = strategy.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert len(outcome.findings) == len(body(tiny_teacher)) + ends


def test_transposed_convolutions_when_asked_for(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(transposed=True).apply(copy_graph(tiny_teacher.graph), tiny_context)
    transposed = [module for _, module in module_nodes(outcome.student, nn.ConvTranspose1d)]
    assert [module.groups for module in transposed] == [16, 12]
    assert outcome.student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)


def test_targets_and_their_mistakes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    chosen = DepthwiseSeparableConv(targets=("resblocks/1/*",), ignore=("*convs2*",))
    outcome = chosen.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [finding.layer for finding in outcome.findings] == [
        "resblocks/1/convs1/0/Conv",
        "resblocks/1/convs1/1/Conv",
    ]
    with pytest.raises(SelectionError, match=r"the pattern 'convs_1\*' matches no layer"):
        DepthwiseSeparableConv(targets=("convs_1*",)).apply(copy_graph(tiny_teacher.graph), tiny_context)


def test_a_second_pass_leaves_what_the_first_made(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    first = DepthwiseSeparableConv(rank=2, min_channels=12).apply(copy_graph(tiny_teacher.graph), tiny_context).student
    second = DepthwiseSeparableConv(rank=1).apply(copy_graph(first), tiny_context)
    factorised = {finding.layer for finding in second.findings if finding.message.startswith("rank 1")}
    assert factorised == {layer for layer in body(tiny_teacher) if layer.split("/")[1] in ("2", "3")}


def test_after_pruning_and_before(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    prune = ChannelImportancePruning(pruning_ratio=0.5, round_to=2)
    pruned = prune.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    after = DepthwiseSeparableConv().apply(copy_graph(pruned), tiny_context).student
    factorised = DepthwiseSeparableConv().apply(copy_graph(tiny_teacher.graph), tiny_context).student
    before = prune.apply(copy_graph(factorised), tiny_context).student
    for student in (after, before):
        assert student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)
        assert parameter_count(student) < parameter_count(factorised)
        for _, conv in module_nodes(student, nn.Conv1d):
            assert isinstance(conv, nn.Conv1d)
            assert conv.groups in (1, conv.in_channels)
            assert conv.in_channels % 2 == 0
