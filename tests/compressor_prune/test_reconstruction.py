from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from compressor_prune.channel_importance import ChannelImportancePruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph
from compressor.strategy import StageOutcome
from compressor.testing.small_graphs import inputs_of, traced
from tests.compressor_prune.random_graphs import Beside, Gate, Residual, Snake, context_for, data_for, fill

Array = NDArray[np.float64]


def doubled(*layers: nn.Module, time: int | str = "time") -> GraphModule:
    """Return a model in which every hidden channel of the layers so marked exists twice, one half after the other."""
    model = nn.Sequential(*layers)
    fill(model, 4)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "twins", False):
                for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                    twin(value, module)
    return traced(model, (1, 3, time))


def twin(value: Tensor, module: nn.Module) -> None:
    """Make the second half of a layer's outputs, within each of its groups, what the first half is."""
    if not value.dim():
        return
    groups, axis = int(getattr(module, "groups", 1)), 0
    if getattr(module, "transposed", False) and value.dim() > 1:
        groups, axis = 1, 1
    if groups == value.shape[0]:
        groups = 1
    for block in value.chunk(groups) if axis == 0 else [value]:
        first, second = block.chunk(2, axis)
        second.copy_(first)


def twins(module: nn.Module) -> nn.Module:
    module.twins = True  # type: ignore[assignment]
    return module


def halved(graph: GraphModule, targets: tuple[str, ...] = ("*",), **changes: object) -> StageOutcome:
    strategy = ChannelImportancePruning(pruning_ratio=0.5, round_to=1, targets=targets)
    return strategy.apply(copy_graph(graph), context_for(data_for(graph, count=3, size=60), **changes))


def residual() -> Residual:
    made = Residual(8)
    twins(made.first), twins(made.second)
    return made


@pytest.mark.parametrize(
    "layers",
    [
        [twins(nn.Conv1d(3, 8, 3)), twins(nn.BatchNorm1d(8)), nn.ReLU(), nn.Conv1d(8, 2, 3)],
        [twins(nn.Conv1d(3, 8, 3)), twins(nn.PReLU(8)), nn.ConvTranspose1d(8, 2, 4, 2)],
        [twins(nn.Conv1d(3, 8, 3)), twins(nn.Conv1d(8, 8, 3, groups=8)), nn.Conv1d(8, 2, 1)],
        [twins(nn.Conv1d(3, 8, 3)), twins(nn.InstanceNorm1d(8, affine=True)), nn.Conv1d(8, 2, 1)],
        [twins(nn.Conv1d(3, 8, 3, groups=1)), residual(), nn.Conv1d(8, 2, 3)],
        [twins(nn.ConvTranspose1d(3, 8, 4, 2)), residual(), residual(), nn.Tanh(), nn.Conv1d(8, 2, 3)],
    ],
)
def test_what_exists_twice_goes_without_a_trace(layers: Sequence[nn.Module]) -> None:
    graph = doubled(*layers)
    assert_same_at_half(graph, halved(graph))


def assert_same_at_half(graph: GraphModule, outcome: StageOutcome) -> None:
    pruned = [each for each in outcome.findings if "width" in each.values]
    assert pruned
    for finding in pruned:
        assert finding.values["width"] == finding.values["width_before"] // 2
        assert finding.values["predicted_error"] == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        value = inputs_of(graph)
        torch.testing.assert_close(outcome.student(*value), graph(*value), atol=2e-4, rtol=1e-3)


def test_flattened_twins_go_without_a_trace() -> None:
    graph = doubled(twins(nn.Conv1d(3, 8, 3, padding=1)), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2), time=10)
    assert_same_at_half(graph, halved(graph))


@pytest.mark.parametrize("reader", [nn.Conv1d, nn.ConvTranspose1d])
def test_layers_in_groups_make_up_within_their_groups(reader: type[nn.Conv1d]) -> None:
    first = nn.Conv1d(3, 8, 3)
    graph = doubled(first, nn.Tanh(), reader(8, 4, 3, groups=2), nn.Conv1d(4, 2, 1))
    conv = graph.get_submodule("0")
    with torch.no_grad():
        # Channels 0 to 3 go to one group, which has copies, 4 to 7 to the other, which has them upside down.
        for start, sign in ((0, 1), (4, -1)):
            for value in (conv.weight, conv.bias):
                assert isinstance(value, Tensor)
                value[start + 2 : start + 4] = sign * value[start : start + 2]
    assert_same_at_half(graph, halved(graph, targets=("0",)))


def test_twins_beside_others_make_up_in_their_own_columns() -> None:
    branches = Beside(3, 8, both=True)
    twins(branches.one)
    graph = doubled(branches, nn.Conv1d(16, 2, 3))
    outcome = halved(graph, targets=("0.one",))
    assert_same_at_half(graph, outcome)
    before, after = (each.get_submodule("1").weight for each in (graph, outcome.student))
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert torch.equal(after[:, 4:], before[:, 8:])


def test_both_halves_of_a_gate_make_up_together() -> None:
    gate = Gate(3, 8, fixed=False)
    graph = doubled(gate, nn.Conv1d(8, 2, 3))
    conv = graph.get_submodule("0.conv")
    with torch.no_grad():
        for value in (conv.weight, conv.bias):
            assert isinstance(value, Tensor)
            for start in (0, 8):
                value[start + 4 : start + 8] = value[start : start + 4]
    assert_same_at_half(graph, halved(graph))


class TwoReaders(nn.Module):
    """One layer's channels, read through two functions."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Conv1d(3, 6, 1, bias=False)
        self.one = nn.Conv1d(6, 2, 1, bias=False)
        self.other = nn.Conv1d(6, 4, 1, bias=False)
        self.last = nn.Conv1d(4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maker(x)
        made: Tensor = self.one(torch.relu(x)) + self.last(torch.sin(self.other(torch.tanh(x))))
        return made


def unexplained(read: Array, kept: list[int]) -> Array:
    """Return the energy of each channel that numpy's least squares on the kept ones leave."""
    coefficients = np.linalg.lstsq(read[kept].T, read.T, rcond=None)[0]
    rest: Array = np.square(read.T - read[kept].T @ coefficients).sum(0)
    return rest


def test_each_reader_gets_the_combinations_that_are_best_for_it() -> None:
    model = TwoReaders()
    fill(model, 2)
    graph = traced(model, (1, 3, "time"))
    data = data_for(graph, count=3, size=60)
    context = context_for(data)
    strategy = ChannelImportancePruning(round_to=1)
    student = strategy.apply(copy_graph(graph), replace(context, choices={"maker": 4})).student

    def weight(of: GraphModule, layer: str) -> Array:
        value = of.get_submodule(layer).weight
        assert isinstance(value, Tensor)
        return value.detach().double().numpy()[..., 0]

    made = weight(graph, "maker") @ np.concatenate([each.inputs["x"][0] for each in data.train], 1)
    kept = [int(np.abs(weight(graph, "maker") - row).sum(1).argmin()) for row in weight(student, "maker")]
    dropped = sorted(set(range(6)) - set(kept))
    lost = []
    for layer, read in (("one", np.maximum(made, 0)), ("other", np.tanh(made))):
        before = weight(graph, layer)
        coefficients = np.linalg.lstsq(read[kept].T, read[dropped].T, rcond=None)[0]
        wanted = before[:, kept] + before[:, dropped] @ coefficients.T
        np.testing.assert_allclose(weight(student, layer), wanted, atol=1e-4)
        norms = np.square(before).sum(0)
        lost.append((unexplained(read, kept) @ norms) / (np.square(read).sum(1) @ norms))
    candidate = next(
        each for each in strategy.candidates(copy_graph(graph), context) if (each.layer, each.setting) == ("maker", 4)
    )
    assert candidate.error == pytest.approx(np.mean(lost), rel=1e-4)
    assert set(candidate.disturbs) == {"one", "other"}


def test_an_error_is_a_share_of_all_that_the_reader_reads() -> None:
    graph = doubled(Beside(3, 4, both=True), nn.Conv1d(8, 2, 1))
    data = data_for(graph, count=2, size=50)
    candidates = ChannelImportancePruning(round_to=1, importance="activation").candidates(graph, context_for(data))
    norms = graph.get_submodule("1").weight.detach().double().square().sum((0, 2)).numpy()  # type: ignore[operator]
    with torch.no_grad():
        read = [graph.get_submodule("0.other")(torch.from_numpy(each.inputs["input_1"])) for each in data.train]
        beside = [
            torch.relu(graph.get_submodule("0.one")(torch.from_numpy(each.inputs["input_1"]))) for each in data.train
        ]
    energies = torch.cat([torch.cat(beside, 2), torch.cat(read, 2)], 1)[0].double().square().sum(1).numpy() * norms
    for candidate in candidates:
        own = energies[:4] if candidate.layer == "0.one" else energies[4:]
        lost = np.sort(own)[: 4 - int(candidate.setting)].sum() / energies.sum()
        assert candidate.error == pytest.approx(lost, rel=1e-4)


def test_normalised_over_several_channels_nothing_is_made_up_for() -> None:
    graph = doubled(twins(nn.Conv1d(3, 8, 3)), twins(nn.GroupNorm(2, 8)), nn.ReLU(), nn.Conv1d(8, 2, 3))
    outcome = halved(graph)
    assert "normalised together" in outcome.findings[0].message
    before, after = (each.get_submodule("3").weight for each in (graph, outcome.student))
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert all(any(torch.equal(column, other) for other in before.unbind(1)) for column in after.unbind(1))


def test_channels_that_are_silent_for_all_readers_go_first() -> None:
    graph = doubled(nn.Conv1d(3, 8, 3), Snake(8), nn.ReLU(), nn.Conv1d(8, 2, 3))
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            graph.get_parameter(name)[1::2] = 0.0
    assert_same_at_half(graph, halved(graph))
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            graph.get_parameter(name).zero_()
    assert_same_at_half(graph, halved(graph))


def test_a_random_choice_is_worse() -> None:
    graph = doubled(twins(nn.Conv1d(3, 8, 3)), nn.ReLU(), nn.Conv1d(8, 2, 3))
    strategy = ChannelImportancePruning(pruning_ratio=0.5, round_to=1, importance="random")
    outcome = strategy.apply(copy_graph(graph), context_for(data_for(graph)))
    assert outcome.findings[0].values["predicted_error"] > 0.1
