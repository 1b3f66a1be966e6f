from __future__ import annotations

from dataclasses import replace

import torch
from compressor_prune.channel_groups import find_groups
from compressor_prune.channel_importance import ChannelImportancePruning
from compressor_prune.channel_proof import prove
from compressor_prune.channel_removal import remove
from compressor_prune.channel_tracing import is_depthwise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import copy_graph, parameter_count
from compressor.testing.small_graphs import inputs_of
from tests.compressor_prune.random_graphs import context_for, data_for, macs, random_graphs, sizes

IMPORTANCES = ("reconstruction", "magnitude", "taylor", "activation", "fpgm", "lamp", "random")

unhurried = settings(max_examples=50, suppress_health_check=list(HealthCheck))


def made(graph: GraphModule) -> dict[str, int]:
    return {
        name: int(module.out_channels if isinstance(module, _ConvNd) else module.out_features)
        for name, module in graph.named_modules()
        if isinstance(module, _ConvNd | nn.Linear)
    }


@given(
    graph=random_graphs(),
    importance=st.sampled_from(IMPORTANCES),
    ratio=st.floats(0.0, 0.99),
    round_to=st.sampled_from([1, 2, 3, 4]),
    steps=st.integers(1, 3),
    everywhere=st.booleans(),
)
@unhurried
def test_a_pruned_model_runs_and_its_layers_have_the_widths_asked_for(
    graph: GraphModule, importance: str, ratio: float, round_to: int, steps: int, everywhere: bool
) -> None:
    strategy = ChannelImportancePruning.model_validate(
        {
            "importance": importance,
            "pruning_ratio": ratio,
            "round_to": round_to,
            "steps": steps,
            "global_pruning": everywhere,
        }
    )
    student = strategy.apply(copy_graph(graph), context_for(data_for(graph))).student
    for size in sizes(graph):
        assert student(*inputs_of(graph, size)).shape == graph(*inputs_of(graph, size)).shape
    before, after = made(graph), made(student)
    for layer, width in after.items():
        assert 0 < width <= before[layer]
        # A depthwise layer has the widths of all that lies side by side before it.
        assert width % round_to == 0 or width == before[layer] or is_depthwise(graph.get_submodule(layer))
        assert width >= 0.1 * before[layer]
    # A rehearsal has no data, and must come to the same costs.
    rehearsed = strategy.apply(copy_graph(graph), context_for(None)).student
    assert made(rehearsed) == after
    assert parameter_count(rehearsed) == parameter_count(student)
    at_once = strategy.model_copy(update={"steps": 1})
    assert made(at_once.apply(copy_graph(graph), context_for(None)).student) == after


@given(graph=random_graphs(), round_to=st.sampled_from([1, 2, 4]), choice=st.randoms(use_true_random=False))
@unhurried
def test_each_candidate_saves_what_it_says(graph: GraphModule, round_to: int, choice: st.DataObject) -> None:
    context = context_for(data_for(graph))
    strategy = ChannelImportancePruning(round_to=round_to)
    parameters, multiplied = parameter_count(graph), macs(graph)
    found = strategy.candidates(copy_graph(graph), context)
    for candidate in choice.sample(list(found), min(3, len(found))):  # type: ignore[attr-defined]
        chosen = replace(context, choices={candidate.layer: candidate.setting})
        student = strategy.apply(copy_graph(graph), chosen).student
        assert made(student)[candidate.layer] == candidate.setting
        assert parameters - parameter_count(student) == candidate.saving["parameters"] > 0
        assert multiplied - macs(student) == candidate.saving["macs"] > 0
        assert 0.0 <= candidate.error <= 1.0 + 1e-9


@given(graph=random_graphs(), seed=st.integers(0, 99))
@unhurried
def test_removing_channels_is_the_same_as_reading_nothing_of_them(graph: GraphModule, seed: int) -> None:
    # Statistics of several channels change with them, whoever reads them.
    for module in graph.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = nn.Identity().forward  # type: ignore[method-assign]
    groups, _ = prove(graph, find_groups(graph)[0])
    generator = torch.Generator().manual_seed(seed)
    drops = {
        group: torch.randperm(group.units, generator=generator)[: max(1, group.units // 3)].tolist() for group in groups
    }
    narrow = copy_graph(graph)
    remove(narrow, drops)
    with torch.no_grad():
        for group, units in drops.items():
            for place in group.places:
                if place.role == "reads":
                    silence(graph.get_submodule(place.name), place.positions[units].flatten().tolist())
        for size in sizes(graph):
            wanted = graph(*inputs_of(graph, size))
            torch.testing.assert_close(narrow(*inputs_of(graph, size)), wanted, atol=1e-4, rtol=1e-3)


def silence(module: nn.Module, channels: list[int]) -> None:
    """Set the weights that read some channels to zero."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    for channel in channels:
        if isinstance(module, nn.Linear):
            weight[:, channel] = 0
        elif isinstance(module, nn.ConvTranspose1d):
            weight[channel] = 0
        elif isinstance(module, nn.Conv1d):
            group, within = divmod(channel, module.in_channels // module.groups)
            outputs = module.out_channels // module.groups
            weight[group * outputs : (group + 1) * outputs, within] = 0
