from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_pruning
from compressor_prune import importance
from compressor_prune.calibration import read_on, views, weight_effects
from compressor_prune.channel_groups import ChannelGroup, find_groups
from compressor_prune.channel_importance import ChannelImportancePruning
from compressor_prune.channel_removal import remove
from compressor_prune.ranking import Ranking
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from compressor.dataset import Sample
from compressor.graph_editing import copy_graph
from compressor.testing.small_graphs import inputs_of, samples_of, traced
from tests.compressor_prune.random_graphs import Beside, context_for, data_for, fill

Array = NDArray[np.float64]


def graph_of(*layers: nn.Module, time: int | str = "time", seed: int = 3) -> GraphModule:
    model = nn.Sequential(*layers)
    fill(model, seed)
    return traced(model, (1, 3, time))


def group_of(graph: GraphModule, layer: str) -> ChannelGroup:
    return next(group for group in find_groups(graph)[0] if group.layer == layer)


def weight(graph: GraphModule, layer: str) -> Array:
    value = graph.get_submodule(layer).weight
    assert isinstance(value, torch.Tensor)
    return value.detach().double().numpy()


def pointwise(hidden: int = 6) -> GraphModule:
    """Return a model that numpy can run: every layer looks at one position."""
    return graph_of(nn.Conv1d(3, hidden, 1, bias=False), nn.Tanh(), nn.Conv1d(hidden, 2, 1, bias=False))


def rows(samples: Sequence[Sample]) -> list[Array]:
    return [sample.inputs["input_1"][0].astype(float) for sample in samples]


def test_magnitude_is_the_group_s_l2_norm() -> None:
    graph = graph_of(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.PReLU(4), nn.Conv1d(4, 2, 5))
    wanted = np.square(weight(graph, "0")).sum((1, 2)) + np.square(weight(graph, "1"))
    wanted += np.square(weight(graph, "3")).sum((0, 2))
    np.testing.assert_allclose(importance.magnitude(graph, group_of(graph, "0")), wanted, rtol=1e-6)


def test_magnitude_and_lamp_are_torch_pruning_s_where_that_knows_the_layers() -> None:
    graph = graph_of(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, 2), nn.Conv1d(6, 2, 5)
    )
    with torch.enable_grad():
        dependencies = torch_pruning.DependencyGraph().build_dependency(
            graph.requires_grad_(True), inputs_of(graph), ignored_params=[], verbose=False
        )
    theirs = {dependencies._module2name[each[0].dep.target.module]: each for each in dependencies.get_all_groups()}
    for layer, places in (("0", 3), ("3", 2)):
        magnitudes = importance.magnitude(graph, group_of(graph, layer))
        scorer = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
        np.testing.assert_allclose(magnitudes / places, scorer(theirs[layer]).detach(), rtol=1e-5)
        lamp = torch_pruning.importance.LAMPImportance()(theirs[layer]).detach()
        np.testing.assert_allclose(importance.lamp(magnitudes), lamp, rtol=1e-4)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv1d(3, 8, 3), nn.Conv1d(8, 6, 3, groups=2), nn.Conv1d(6, 2, 1)],
        [nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 12, 4, 2, groups=4), nn.Conv1d(12, 2, 1)],
        [nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.Conv1d(8, 2, 1)],
        [nn.Conv1d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(56, 2)],
        [Beside(3, 4, both=True), nn.Conv1d(8, 2, 3)],
    ],
)
def test_magnitude_is_what_goes_with_a_unit(layers: Sequence[nn.Module]) -> None:
    graph = graph_of(*layers, time=7)

    def energy(student: GraphModule) -> float:
        return sum(
            float(value.detach().double().square().sum())
            for name, value in student.named_parameters()
            if "weight" in name
        )

    for group in find_groups(graph)[0]:
        gone = []
        for unit in range(group.units):
            narrow = copy_graph(graph)
            remove(narrow, {group: [unit]})
            gone.append(energy(graph) - energy(narrow))
        np.testing.assert_allclose(importance.magnitude(graph, group), gone, rtol=1e-5)


def test_taylor_is_the_first_order_change_of_the_output_s_energy() -> None:
    graph = graph_of(nn.Conv1d(3, 6, 1, bias=False), nn.Conv1d(6, 2, 1, bias=False))
    data = data_for(graph, count=3, size=20)
    first, second = weight(graph, "0")[..., 0], weight(graph, "1")[..., 0]
    wanted = np.zeros(6)
    for read in rows(data.train):
        output = second @ first @ read
        to_first = second.T @ output @ read.T / output.size
        to_second = output @ (first @ read).T / output.size
        wanted += (np.abs(first * to_first).sum(1) + np.abs(second * to_second).sum(0)) / 3
    effects = weight_effects(graph, data.train)
    np.testing.assert_allclose(importance.taylor(graph, group_of(graph, "0"), effects), wanted, rtol=1e-4)


def test_activation_is_weights_times_what_they_read() -> None:
    graph = pointwise()
    data = data_for(graph, count=3)
    energies = sum(np.square(np.tanh(weight(graph, "0")[..., 0] @ read)).sum(1) for read in rows(data.train))
    scores = energies * np.square(weight(graph, "2")).sum((0, 2))
    group = group_of(graph, "0")
    order = Ranking(graph, [group], "activation", data.train, 0).order(group)
    assert list(order.order) == np.argsort(-scores).tolist()
    lost = [scores[list(order.order[count:])].sum() / scores.sum() for count in range(7)]
    np.testing.assert_allclose(order.errors, lost, atol=1e-9)


def test_fpgm_is_the_distance_to_all_other_filters() -> None:
    graph = pointwise()
    filters = weight(graph, "0").reshape(6, -1)
    wanted = [sum(float(np.linalg.norm(one - other)) for other in filters) for one in filters]
    np.testing.assert_allclose(importance.fpgm(graph, group_of(graph, "0")), wanted, rtol=1e-6)


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=12, unique=True))
def test_lamp_is_the_paper_s_formula(magnitudes: list[float]) -> None:
    wanted = [one / sum(other for other in magnitudes if other >= one) for one in magnitudes]
    found = importance.lamp(torch.tensor(magnitudes, dtype=torch.float64))
    np.testing.assert_allclose(found, wanted)
    assert float(found.max()) == 1.0


def test_random_hangs_on_the_seed_and_the_group_only() -> None:
    graph = graph_of(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 2, 1))
    first, second = group_of(graph, "0"), group_of(graph, "1")
    assert torch.equal(importance.random(first, 5), importance.random(group_of(copy_graph(graph), "0"), 5))
    assert not torch.equal(importance.random(first, 5), importance.random(first, 6))
    assert not torch.equal(importance.random(first, 5), importance.random(second, 5))


@pytest.mark.parametrize("kind", ["magnitude", "lamp", "fpgm", "taylor", "random"])
def test_the_channels_that_matter_least_go(kind: str) -> None:
    graph = pointwise(8)
    context = context_for(data_for(graph), seed=7)
    group = group_of(graph, "0")
    scores = {
        "magnitude": lambda: importance.magnitude(graph, group),
        "lamp": lambda: importance.magnitude(graph, group),
        "fpgm": lambda: importance.fpgm(graph, group),
        "taylor": lambda: importance.taylor(graph, group, weight_effects(graph, data_for(graph).train)),
        "random": lambda: importance.random(group, 7),
    }[kind]()
    strategy = ChannelImportancePruning.model_validate({"importance": kind, "pruning_ratio": 0.5, "round_to": 1})
    student = strategy.apply(copy_graph(graph), context).student
    kept = sorted(np.argsort(scores.numpy())[4:])
    np.testing.assert_array_equal(weight(student, "0"), weight(graph, "0")[kept])
    np.testing.assert_array_equal(weight(student, "2"), weight(graph, "2")[:, kept])


@pytest.mark.parametrize("kind", ["reconstruction", "taylor", "activation"])
def test_without_data_all_importances_are_magnitude(kind: str) -> None:
    graph = pointwise(8)
    strategy = ChannelImportancePruning.model_validate({"importance": kind, "pruning_ratio": 0.5, "round_to": 1})
    outcome = strategy.apply(copy_graph(graph), context_for(None))
    assert outcome.findings[0].message == "no data to calibrate on: importance falls back to magnitude"
    plain = strategy.model_copy(update={"importance": "magnitude"}).apply(copy_graph(graph), context_for(None))
    assert not any("falls back" in finding.message for finding in plain.findings)
    np.testing.assert_array_equal(weight(outcome.student, "0"), weight(plain.student, "0"))


def test_progressive_pruning_measures_anew() -> None:
    graph = graph_of(nn.Conv1d(3, 12, 1), nn.Tanh(), nn.Conv1d(12, 12, 1), nn.Tanh(), nn.Conv1d(12, 2, 1))
    context = context_for(data_for(graph))
    students = [
        ChannelImportancePruning(pruning_ratio=0.5, round_to=1, steps=steps).apply(copy_graph(graph), context)
        for steps in (1, 3)
    ]
    shapes = [{name: value.shape for name, value in each.student.state_dict().items()} for each in students]
    assert shapes[0] == shapes[1]
    assert not torch.equal(*(each.student.get_parameter("4.weight") for each in students))
    chosen = {"0": 6, "2": 4}
    outcome = ChannelImportancePruning(round_to=2, steps=2).apply(copy_graph(graph), replace(context, choices=chosen))
    assert [outcome.student.get_submodule(layer).out_channels for layer in chosen] == [6, 4]


def test_what_layers_read_is_what_numpy_says() -> None:
    graph = pointwise()
    samples = samples_of(graph, *(np.random.default_rng(seed).standard_normal((1, 3, 30)) for seed in range(2)))
    seen = views(graph, group_of(graph, "0"))
    readings = read_on(graph, seen, samples)
    read = [np.tanh(weight(graph, "0")[..., 0] @ values) for values in rows(samples)]
    np.testing.assert_allclose(readings.moments[seen[0]], sum(each @ each.T for each in read), rtol=1e-5)
    energies = sum(np.square(each).sum(1) for each in read) * np.square(weight(graph, "2")).sum((0, 2))
    np.testing.assert_allclose(readings.energies[seen[0]], energies, rtol=1e-5)
    assert readings.totals == {"2": pytest.approx(energies.sum())}
    assert not read_on(graph, seen, samples, products=False).moments
