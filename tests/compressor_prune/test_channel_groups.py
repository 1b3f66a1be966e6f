from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch_pruning
from compressor_conv.transposed import TransposedToStandardConv
from compressor_prune.channel_groups import ChannelGroup, find_groups
from compressor_prune.channel_importance import ChannelImportancePruning
from compressor_prune.channel_proof import prove
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph, parameter_count
from compressor.testing.small_graphs import inputs_of, traced
from tests.compressor_prune.random_graphs import (
    Beside,
    Cropped,
    Gate,
    MeanScaled,
    Residual,
    Snake,
    context_for,
    data_for,
    fill,
)


def graph_of(*layers: nn.Module, time: int | str = "time", channels: int = 3) -> GraphModule:
    model = nn.Sequential(*layers)
    fill(model, 1)
    return traced(model, (1, channels, time))


def groups_of(graph: GraphModule) -> tuple[dict[str, ChannelGroup], dict[str, str]]:
    found, left = find_groups(graph)
    sound, unsound = prove(graph, found)
    return {group.layer: group for group in sound}, {each.layer: each.reason for each in (*left, *unsound)}


def positions(group: ChannelGroup, place: str) -> list[list[int]]:
    return next(each.positions.tolist() for each in group.places if each.name == place)


def singles(count: int, start: int = 0) -> list[list[int]]:
    return [[start + channel] for channel in range(count)]


@pytest.mark.parametrize(
    "between",
    [
        [nn.BatchNorm1d(8), nn.ReLU()],
        [nn.PReLU(8)],
        [nn.PReLU()],
        [nn.InstanceNorm1d(8, affine=True)],
        [nn.Conv1d(8, 8, 3, groups=8)],
        [Snake(8)],
        [Snake(8, trained=True)],
        [Cropped(), nn.Tanh()],
    ],
)
def test_what_lies_between_two_layers_goes_along(between: Sequence[nn.Module]) -> None:
    graph = graph_of(nn.Conv1d(3, 8, 3), *between, nn.Conv1d(8, 2, 3))
    groups, left = groups_of(graph)
    last = str(len(between) + 1)
    assert list(groups) == ["0"]
    assert groups["0"].makers == {"0"}
    assert groups["0"].readers == {last}
    assert groups["0"].width == 8
    assert positions(groups["0"], last) == singles(8)
    assert left == {last: "its channels are the model's output"}


def test_concatenated_branches_are_groups_of_their_own() -> None:
    groups, _ = groups_of(graph_of(Beside(3, 4, both=True), nn.Conv1d(8, 6, 3), nn.Conv1d(6, 2, 1)))
    assert positions(groups["0.one"], "1") == singles(4)
    assert positions(groups["0.other"], "1") == singles(4, start=4)
    assert groups["1"].readers == {"2"}


def test_flattened_channels_are_several_columns() -> None:
    graph = graph_of(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2), time=5)
    groups, _ = groups_of(graph)
    assert positions(groups["0"], "3") == [[5 * channel + time for time in range(5)] for channel in range(4)]


@pytest.mark.parametrize(("reader", "made"), [(nn.Conv1d, 6), (nn.ConvTranspose1d, 6), (nn.Conv1d, 2)])
def test_channels_of_a_grouped_layer_go_with_their_like_in_each_group(reader: type[nn.Conv1d], made: int) -> None:
    grouped = reader(8, made, 3, groups=2)
    groups, _ = groups_of(graph_of(nn.Conv1d(3, 8, 3), nn.ReLU(), grouped, nn.Conv1d(made, 2, 1)))
    assert positions(groups["0"], "0") == positions(groups["0"], "2") == [[at, at + 4] for at in range(4)]
    assert groups["0"].step(8) == 8
    assert groups["0"].step(3) == 6
    if made == 6:
        assert positions(groups["2"], "3") == [[at, at + 3] for at in range(3)]


@pytest.mark.parametrize("affine", [True, False])
def test_layer_normalisation_between_linear_layers_goes_along(affine: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8, elementwise_affine=affine), nn.Tanh(), nn.Linear(8, 2))
    graph = traced(model, (1, "time", 3))
    context = context_for(data_for(graph))
    strategy = ChannelImportancePruning(round_to=4)
    (candidate,) = strategy.candidates(copy_graph(graph), context)
    chosen = replace(context, choices={candidate.layer: candidate.setting})
    student = strategy.apply(copy_graph(graph), chosen).student
    assert parameter_count(graph) - parameter_count(student) == candidate.saving["parameters"]
    assert candidate.saving["parameters"] == 4 * (3 + 1 + 2) + (8 if affine else 0)
    assert student(*inputs_of(graph)).shape == graph(*inputs_of(graph)).shape


def test_group_normalisation_keeps_its_groups_equally_wide() -> None:
    groups, _ = groups_of(graph_of(nn.Conv1d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv1d(8, 2, 1)))
    assert positions(groups["0"], "1") == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_both_halves_of_a_gate_lose_the_same() -> None:
    groups, _ = groups_of(graph_of(Gate(3, 4, fixed=False), nn.Conv1d(4, 2, 1)))
    assert positions(groups["0.conv"], "0.conv") == [[at, at + 4] for at in range(4)]
    assert positions(groups["0.conv"], "1") == singles(4)


def test_a_residual_stream_is_one_group_with_all_its_readers() -> None:
    groups, _ = groups_of(graph_of(nn.Conv1d(3, 8, 3), Residual(8), nn.Conv1d(8, 2, 1)))
    assert groups["0"].makers == {"0", "1.first", "1.second"}
    assert groups["0"].readers == {"1.first", "1.second", "2"}


@pytest.mark.parametrize(
    ("layers", "layer", "reason"),
    [
        ([nn.Conv1d(3, 8, 3), MeanScaled(), nn.Conv1d(8, 2, 3)], "0", "removing channels changes what 2 reads"),
        ([Gate(3, 4, fixed=True), nn.Conv1d(4, 2, 1)], "0.conv", "the model does not run without some of its channels"),
        ([nn.Conv1d(3, 1, 3), nn.Conv1d(1, 2, 3)], "0", "all its 1 channels only go together"),
        ([nn.Conv1d(3, 4, 3), nn.Conv1d(4, 8, 3, groups=4), nn.Conv1d(8, 2, 1)], "0", "all its 4 channels only go"),
        ([nn.Conv1d(3, 3, 3, groups=3), nn.Conv1d(3, 2, 1)], "0", "it filters the model's input channel by channel"),
        ([Beside(3, 5, both=False), nn.GroupNorm(2, 8), nn.Conv1d(8, 2, 1)], "0.one", "1 works in groups, and reads"),
    ],
)
def test_why_a_layer_is_left_alone(layers: Sequence[nn.Module], layer: str, reason: str) -> None:
    graph = graph_of(*layers)
    groups, left = groups_of(graph)
    assert layer not in groups
    assert left[layer].startswith(reason)
    outcome = ChannelImportancePruning(pruning_ratio=0.5, round_to=1).apply(graph, context_for(None))
    assert any(each.layer == layer and reason in each.message for each in outcome.findings)


class MixedBranches(nn.Module):
    """Two branches side by side, of which one cannot do without any of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 4, 1)
        self.mixed = MeanScaled()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.mixed(self.other(x))], 1)


def test_what_is_read_beside_something_unsound_is_still_pruned() -> None:
    groups, left = groups_of(graph_of(MixedBranches(), nn.Conv1d(8, 6, 1), nn.Conv1d(6, 2, 1)))
    assert set(groups) == {"0.one", "1"}
    assert set(left) == {"0.other", "2"}


def test_where_the_model_fails_all_else_is_still_pruned() -> None:
    layers = [nn.Conv1d(3, 8, 3), Gate(8, 4, fixed=True), nn.Conv1d(4, 8, 3), Snake(8), nn.Conv1d(8, 6, 1), nn.PReLU(6)]
    groups, left = groups_of(graph_of(*layers, nn.Conv1d(6, 2, 1)))
    assert set(groups) == {"0", "2", "4"}
    assert set(left) == {"1.conv", "6"}


def test_layers_used_twice_are_left_alone() -> None:
    shared = nn.Conv1d(8, 8, 1)
    groups, left = groups_of(graph_of(nn.Conv1d(3, 8, 3), shared, nn.ReLU(), shared, nn.Conv1d(8, 2, 1)))
    assert not groups
    assert left["0"] == "the weights of 1 are used more than once"


def test_tied_weights_are_left_alone() -> None:
    graph = graph_of(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 2, 1))
    graph.get_submodule("2").weight = graph.get_submodule("1").weight
    assert set(groups_of(graph)[1]) == {"0", "1", "2", "3"}


def test_a_layer_without_influence_on_the_output_is_left_alone() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.last = nn.Conv1d(3, 8, 1), nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.last(self.one(x) + self.other(x).detach())
            return made

    groups, left = groups_of(traced(Detached(), (1, 3, "time")))
    assert "does not reach it" in left["other"]
    assert "the model does not run without" in left["one"]
    assert not groups


def test_a_model_that_cannot_be_traced_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("no idea\nat all")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fail)
    groups, left = groups_of(graph_of(nn.Conv1d(3, 4, 3), Snake(4), nn.Conv1d(4, 2, 1)))
    assert not groups
    assert left == dict.fromkeys(("0", "2"), "Torch-Pruning cannot trace the model (no idea)")


def test_around_a_polyphase_layer_all_else_is_pruned() -> None:
    graph = graph_of(
        nn.Conv1d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose1d(8, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 2, 3, padding=1),
    )
    polyphase = TransposedToStandardConv().apply(graph, context_for(None)).student
    outcome = ChannelImportancePruning(pruning_ratio=0.5, round_to=2).apply(
        copy_graph(polyphase), context_for(data_for(polyphase))
    )
    kept = {each.layer: each.message for each in outcome.findings if each.message.startswith("left alone")}
    assert set(kept) == {"2_phases", "6"}
    assert outcome.student.get_submodule("0").out_channels == outcome.student.get_submodule("4").out_channels == 4
    for size in (20, 33):
        assert outcome.student(*inputs_of(polyphase, size)).shape == polyphase(*inputs_of(polyphase, size)).shape


def test_constants_are_constants_again_after_tracing() -> None:
    graph = graph_of(nn.Conv1d(3, 8, 3), Snake(8), nn.Conv1d(8, 2, 3))
    before = dict(graph.named_buffers())
    find_groups(graph)
    assert [name for name, _ in graph.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(torch.equal(value, before[name]) for name, value in graph.named_buffers())
    assert "1.slopes" in graph.state_dict()


def test_a_model_that_fails_says_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    groups_of(graph_of(Gate(3, 4, fixed=True), nn.Conv1d(4, 2, 1)))
    assert capfd.readouterr() == ("", "")
