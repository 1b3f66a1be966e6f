from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv, separable
from compressor_prune.channel_importance import ChannelImportancePruning
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from compressor.calibration import observe, readings
from compressor.dataset import Dataset
from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, module_nodes, parameter_count
from compressor.measuring import MeasuredModel
from compressor.strategy import Candidate, StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, inputs_of, samples_of, traced

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
def test_as_many_terms_as_taps_are_exact(conv: Conv) -> None:
    wanted, found, kept = approximation(conv, conv.weight[0, 0].numel())
    # The factors are held in float32.
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)
    assert kept == pytest.approx(1.0)


@given(convolutions(), st.integers(1, 4))
def test_the_energy_kept_is_the_one_of_the_singular_values(conv: Conv, rank: int) -> None:
    assert separable(conv, rank)[1] == pytest.approx(numpy_energy(conv, rank), abs=1e-9)


@given(convolutions())
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
    strategy = DepthwiseSeparableConv(rank=1, calibration_samples=0)
    outcome = strategy.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [finding.layer for finding in outcome.findings] == body(tiny_teacher)
    saved = sum(finding.values["weights_before"] - finding.values["weights_after"] for finding in outcome.findings)
    assert saved == parameter_count(tiny_teacher.graph) - parameter_count(outcome.student) > 0
    # 12 channels, 7 taps: 12 * 12 * 7 weights become 12 * 7 + 12 * 12.
    wide = next(finding for finding in outcome.findings if finding.layer == "resblocks/1/convs1/0/Conv")
    assert (wide.values["weights_before"], wide.values["weights_after"]) == (1008, 228)
    conv = tiny_teacher.graph.get_submodule(wide.layer)
    assert isinstance(conv, nn.Conv1d)
    assert wide.values["energy_kept"] == pytest.approx(numpy_energy(conv, 1))
    assert wide.values["error"] == pytest.approx(1 - numpy_energy(conv, 1))


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
    strategy = DepthwiseSeparableConv(rank=1, keep_ends=False, calibration_samples=0)
    outcome = strategy.apply(traced(model, (1, 8, "time")), tiny_context)
    assert [finding.message.split(" (")[0] for finding in outcome.findings] == [
        "left dense: it is grouped already",
        "left dense: 2 taps would cost 80 weights",
        f"rank 1 keeps {numpy_energy(dense, 1):.1%} of the filters' energy, 320 to 104 weights",
    ]


def test_narrow_layers_can_be_left(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(rank=1, min_channels=12).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert {finding.layer.split("/")[1] for finding in outcome.findings} == {"0", "1"}


@pytest.mark.parametrize(("keep_ends", "ends"), [(True, 0), (False, 2)])
def test_the_ends_are_left_unless_asked_for(
    keep_ends: bool, ends: int, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    strategy = DepthwiseSeparableConv(rank=1, keep_ends=keep_ends)
    outcome = strategy.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert len(outcome.findings) == len(body(tiny_teacher)) + ends


def test_transposed_convolutions_when_asked_for(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = DepthwiseSeparableConv(rank=1, transposed=True).apply(copy_graph(tiny_teacher.graph), tiny_context)
    transposed = [module for _, module in module_nodes(outcome.student, nn.ConvTranspose1d)]
    assert [module.groups for module in transposed] == [16, 12]
    assert outcome.student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)


def test_targets_and_their_mistakes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    chosen = DepthwiseSeparableConv(rank=1, targets=("resblocks/1/*",), ignore=("*convs2*",))
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


@st.composite
def readable_convolutions(draw: st.DrawFn) -> tuple[Conv, NDArray[np.float32]]:
    """Draw a convolution over time of several taps, and what it reads: related channels, with means of their own."""
    kind = draw(st.sampled_from([nn.Conv1d, nn.ConvTranspose1d]))
    width, taps = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    options = {"stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2)), "padding": 1}
    conv: Conv = kind(width, draw(st.integers(2, 5)), taps, bias=draw(st.booleans()), **options)
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.from_numpy(random.standard_normal(parameter.shape)))
    walks = random.standard_normal((width, width)) @ random.standard_normal((width, 40)).cumsum(1) / 3
    return conv, (walks + random.standard_normal((width, 1)))[None].astype(np.float32)


@given(readable_convolutions(), st.integers(1, 3), st.integers(1, 3))
def test_fitted_factors_keep_of_the_output_what_they_say(
    readable: tuple[Conv, NDArray[np.float32]], rank: int, rounds: int
) -> None:
    conv, array = readable
    student = traced(nn.Sequential(conv), (1, conv.in_channels, "time"))
    reading = readings(student, ["0"], samples_of(student, array))["0"]
    value = torch.from_numpy(array)

    def lost(terms: list[tuple[Any, Any]]) -> float:
        """Return the error's energy as a share of the output's: of what varies, where a bias can keep the mean."""
        with torch.no_grad():
            wanted = conv(value)[0].double().numpy()
            error = wanted - sum(pointwise(depthwise(value)) for depthwise, pointwise in terms)[0].double().numpy()
        if conv.bias is None:
            return float(np.square(error).sum() / np.square(wanted).sum())
        assert np.abs(error.mean(1)).max() < 1e-4 * max(1.0, np.abs(wanted).max())
        return float(np.square(error).sum() / max(1e-12, wanted.var(1).sum() * wanted.shape[1]))

    terms, kept = separable(conv, rank, reading, rounds)
    found = lost(terms)
    assert 1 - kept == pytest.approx(found, rel=1e-2, abs=1e-5)
    assert 1 - kept >= 1 - separable(conv, rank, reading, rounds + 1)[1] - 1e-9
    if conv.bias is None:
        assert found <= lost(separable(conv, rank)[0]) + 1e-5
    if rank >= min(conv.weight[0, 0].numel(), conv.out_channels):
        assert found < 1e-5


def only(candidates: Sequence[Candidate], layer: str, rank: int) -> Candidate:
    (found,) = (each for each in candidates if (each.layer, each.setting) == (layer, rank))
    return found


def test_candidates_are_all_ranks_worth_having(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    found = DepthwiseSeparableConv(max_rank=4).candidates(copy_graph(tiny_teacher.graph), tiny_context)
    ranks = {layer: [each.setting for each in found if each.layer == layer] for layer in body(tiny_teacher)}
    # Three taps: two terms at most cost less, in the wider fusion; seven taps: four, and three where it is narrow.
    for layer, offered in ranks.items():
        conv = tiny_teacher.graph.get_submodule(layer)
        assert isinstance(conv, nn.Conv1d)
        taps = conv.kernel_size[0]
        assert offered == [
            rank for rank in (1, 2, 3, 4) if rank * (taps + conv.out_channels) < taps * conv.out_channels
        ]
        for rank in (int(rank) for rank in offered):
            candidate = only(found, layer, rank)
            assert candidate.disturbs == (layer,)
            saved = conv.in_channels * (taps * conv.out_channels - rank * (taps + conv.out_channels))
            assert candidate.saving["parameters"] == saved
    assert {each.layer for each in found} == set(body(tiny_teacher))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("layer", ["resblocks/1/convs1/0/Conv", "ups/1/ConvTranspose"])
def test_a_candidate_says_what_it_saves_and_spoils(
    layer: str, rank: int, tiny_teacher: Teacher, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    strategy = DepthwiseSeparableConv(targets=(layer,), transposed=True, rounds=1)
    teacher = copy_graph(tiny_teacher.graph)
    candidate = only(strategy.candidates(copy_graph(teacher), tiny_context), layer, rank)
    chosen = replace(tiny_context, choices={layer: rank})
    student = strategy.apply(copy_graph(teacher), chosen).student
    before, after = (MeasuredModel(graph, tiny_teacher, tiny_dataset) for graph in (teacher, student))
    assert candidate.saving["parameters"] == before.parameters - after.parameters
    assert candidate.saving["macs"] == before.macs - after.macs
    wanted, made = outputs(teacher, layer, tiny_dataset), outputs(student, f"{layer}_pointwise", tiny_dataset)
    if rank > 1:
        made += outputs(student, f"{layer}_pointwise_1", tiny_dataset)
    lost = np.square(wanted - made).sum() / np.square(wanted).sum()
    assert candidate.error == pytest.approx(lost, rel=1e-3)


def outputs(graph: GraphModule, layer: str, data: Dataset) -> NDArray[np.float64]:
    """Return what a layer puts out for the samples that a stage calibrates on, (channels, positions)."""
    seen: list[NDArray[np.float64]] = []
    inputs = [(torch.from_numpy(sample.inputs["mel"]),) for sample in data.train[:4]]
    observe(graph, {layer: lambda _, __, output: seen.append(output[0].double().numpy())}, inputs)
    return np.concatenate(seen, axis=1)


def test_the_budget_decides_layer_by_layer(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    one, two = body(tiny_teacher)[4:6]
    chosen = replace(tiny_context, choices={one: 1, two: 2})
    outcome = DepthwiseSeparableConv().apply(copy_graph(tiny_teacher.graph), chosen)
    told = {finding.layer: finding for finding in outcome.findings}
    assert (told[one].values["rank"], told[two].values["rank"]) == (1, 2)
    assert "of the output's energy" in told[one].message
    left = [finding.message for layer, finding in told.items() if layer not in (one, two)]
    assert set(left) == {"left dense: the budget is met at less loss elsewhere"}
    saved = sum(told[layer].values["weights_before"] - told[layer].values["weights_after"] for layer in (one, two))
    assert saved == parameter_count(tiny_teacher.graph) - parameter_count(outcome.student)


def test_calibrating_keeps_more_of_the_output(
    tiny_teacher: Teacher, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    def error(samples: int) -> float:
        strategy = DepthwiseSeparableConv(rank=1, calibration_samples=samples)
        student = strategy.apply(copy_graph(tiny_teacher.graph), tiny_context).student
        made = MeasuredModel(student, tiny_teacher, tiny_dataset).outputs
        wanted = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset).outputs
        return float(sum(np.square(one - other).sum() for one, other in zip(made, wanted, strict=True)))

    assert error(4) < 0.7 * error(0)


def test_without_data_it_says_so_and_keeps_the_filters(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    blind = replace(tiny_context, data=None)
    *_, first = DepthwiseSeparableConv(rank=1).apply(copy_graph(tiny_teacher.graph), blind).findings[:1]
    assert first.message == "no data to calibrate on: filters are decomposed without regard to what they read"
    silent = DepthwiseSeparableConv(rank=1, calibration_samples=0).apply(copy_graph(tiny_teacher.graph), blind)
    assert all("of the filters' energy" in finding.message for finding in silent.findings)


def test_after_pruning_and_before(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    prune = ChannelImportancePruning(pruning_ratio=0.5, round_to=2)
    pruned = prune.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    after = DepthwiseSeparableConv(rank=1).apply(copy_graph(pruned), tiny_context).student
    factorised = DepthwiseSeparableConv(rank=1).apply(copy_graph(tiny_teacher.graph), tiny_context).student
    before = prune.apply(copy_graph(factorised), tiny_context).student
    for student in (after, before):
        assert student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)
        assert parameter_count(student) < parameter_count(factorised)
        for _, conv in module_nodes(student, nn.Conv1d):
            assert isinstance(conv, nn.Conv1d)
            assert conv.groups in (1, conv.in_channels)
            assert conv.in_channels % 2 == 0
