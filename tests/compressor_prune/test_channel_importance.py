from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_prune.channel_groups import find_groups
from compressor_prune.channel_importance import ChannelImportancePruning
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.allocation import allocate
from compressor.calibration import layer_positions
from compressor.dataset import Dataset, Sample
from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, module_nodes, parameter_count
from compressor.measuring import MeasuredModel
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, inputs_of, traced
from compressor.testing.tiny_vocoder import mel

FUSED = "ups/0/ConvTranspose"
"""Names the group of the first stage's residual stream."""


def widths(student: GraphModule) -> dict[str, int]:
    return {
        str(node.target): int(module.out_channels)  # type: ignore[arg-type]
        for node, module in module_nodes(student, nn.Conv1d, nn.ConvTranspose1d)
    }


def layer(graph: GraphModule, name: str) -> nn.Conv1d:
    module = graph.get_submodule(name)
    assert isinstance(module, nn.Conv1d)
    return module


def pruned(teacher: Teacher, context: StageContext, **options: object) -> GraphModule:
    strategy = ChannelImportancePruning.model_validate(options)
    return strategy.apply(copy_graph(teacher.graph), context).student


def test_groups_of_a_vocoder(tiny_teacher: Teacher) -> None:
    groups = {group.layer: group for group in find_groups(copy_graph(tiny_teacher.graph))[0]}
    assert sorted(group.width for group in groups.values()) == [8] * 5 + [12] * 5 + [16]
    assert "conv_post/Conv" not in groups
    assert groups["conv_pre/Conv"].readers == {"ups/0/ConvTranspose"}
    assert groups["conv_pre/Conv"].width == 16
    residual = groups[FUSED]
    assert {"ups/0/ConvTranspose", "resblocks/0/convs2/0/Conv", "resblocks/1/convs2/1/Conv"} <= residual.makers
    assert {"ups/1/ConvTranspose", "resblocks/0/convs1/0/Conv"} <= residual.readers


@given(ratio=st.floats(0.0, 0.99), round_to=st.integers(1, 9))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_widths_are_multiples_and_never_zero(
    ratio: float, round_to: int, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    student = pruned(tiny_teacher, tiny_context, pruning_ratio=ratio, round_to=round_to, importance="magnitude")
    before = widths(tiny_teacher.graph)
    for name, width in widths(student).items():
        assert 0 < width <= before[name]
        assert width % round_to == 0 or width == before[name]
    assert widths(student)["conv_post/Conv"] == 1
    assert student(torch.zeros(1, 8, 9)).shape == (1, 1, 72)


@pytest.mark.parametrize("importance", ["reconstruction", "magnitude"])
def test_a_ratio_is_the_share_that_goes(importance: str, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = pruned(tiny_teacher, tiny_context, pruning_ratio=0.5, round_to=2, importance=importance)
    halves = {name: width // 2 or 1 for name, width in widths(tiny_teacher.graph).items()}
    assert widths(student) == halves


def test_a_fixed_ratio_leaves_the_budget_nothing_to_choose() -> None:
    assert ChannelImportancePruning(pruning_ratio=0.0).fixed
    assert not ChannelImportancePruning().fixed
    with pytest.raises(ValidationError, match="global_pruning needs a pruning_ratio"):
        ChannelImportancePruning(global_pruning=True)


@pytest.mark.parametrize("factorised", [False, True])
def test_each_candidate_saves_what_it_says(
    factorised: bool, tiny_teacher: Teacher, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    graph = copy_graph(tiny_teacher.graph)
    if factorised:
        graph = DepthwiseSeparableConv(rank=2, min_channels=12).apply(graph, tiny_context).student
    strategy = ChannelImportancePruning(round_to=4)
    before = MeasuredModel(graph, tiny_teacher, tiny_dataset)
    for candidate in strategy.candidates(copy_graph(graph), tiny_context):
        chosen = replace(tiny_context, choices={candidate.layer: candidate.setting})
        student = strategy.apply(copy_graph(graph), chosen).student
        after = MeasuredModel(student, tiny_teacher, tiny_dataset)
        assert before.parameters - after.parameters == candidate.saving["parameters"] > 0
        saved = before.macs / (before.probe_seconds or 0) - after.macs / (after.probe_seconds or 0)
        assert saved == pytest.approx(candidate.saving["macs"], rel=1e-6)


def test_narrower_candidates_cost_more_error(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    found = ChannelImportancePruning(round_to=2).candidates(copy_graph(tiny_teacher.graph), tiny_context)
    by_layer: dict[str, list[tuple[int, float]]] = {}
    for candidate in found:
        by_layer.setdefault(candidate.layer, []).append((int(candidate.setting), candidate.error))
    assert len(by_layer) == 11
    for entries in by_layer.values():
        errors = [error for _, error in sorted(entries)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] > 0


def test_the_allocation_s_choices_are_carried_out(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    strategy = ChannelImportancePruning(round_to=2)
    candidates = strategy.candidates(copy_graph(tiny_teacher.graph), tiny_context)
    count = parameter_count(tiny_teacher.graph)
    choices = allocate({"prune": candidates}, {"parameters": count}, {"parameters": 0.75 * count})["prune"]
    outcome = strategy.apply(copy_graph(tiny_teacher.graph), replace(tiny_context, choices=choices))
    assert choices
    assert {name: widths(outcome.student).get(name) for name in choices} == choices
    kept = [finding for finding in outcome.findings if finding.message.startswith("kept all")]
    assert {finding.layer for finding in kept} == {candidate.layer for candidate in candidates} - set(choices)
    assert parameter_count(outcome.student) <= 0.75 * count


def test_two_prunings_do_not_know_of_each_other(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    def weights(ratio: float) -> dict[str, Tensor]:
        return pruned(tiny_teacher, tiny_context, pruning_ratio=ratio, round_to=2).state_dict()

    alone = weights(0.5)
    weights(0.25)
    again = weights(0.5)
    assert alone.keys() == again.keys()
    assert all(torch.equal(alone[name], again[name]) for name in alone)
    assert widths(tiny_teacher.graph)["conv_pre/Conv"] == 16


def test_a_student_can_be_pruned_again(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    once = pruned(tiny_teacher, tiny_context, pruning_ratio=0.25, round_to=2)
    outcome = ChannelImportancePruning(pruning_ratio=0.5, round_to=2).apply(copy_graph(once), tiny_context)
    assert widths(outcome.student)["conv_pre/Conv"] == 6
    assert outcome.student(torch.zeros(1, 8, 9)).shape == (1, 1, 72)


def test_targets_and_their_mistakes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = pruned(tiny_teacher, tiny_context, pruning_ratio=0.5, round_to=2, targets=("*convs1*", "conv_pre*"))
    before = widths(tiny_teacher.graph)
    changed = {name for name, width in widths(student).items() if width != before[name]}
    assert changed == {name for name in before if "convs1" in name} | {"conv_pre/Conv"}
    with pytest.raises(SelectionError, match=r"the pattern 'conv_psot\*' matches no layer"):
        pruned(tiny_teacher, tiny_context, pruning_ratio=0.5, ignore=("conv_psot*",))


def test_without_data_importance_is_magnitude(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    strategy = ChannelImportancePruning(pruning_ratio=0.5, round_to=2)
    outcome = strategy.apply(copy_graph(tiny_teacher.graph), replace(tiny_context, data=None))
    assert outcome.findings[0].message == "no data to calibrate on: importance falls back to magnitude"
    magnitude = pruned(tiny_teacher, tiny_context, pruning_ratio=0.5, round_to=2, importance="magnitude")
    for name, value in magnitude.state_dict().items():
        torch.testing.assert_close(outcome.student.state_dict()[name], value)


def test_reconstruction_is_nearer_to_the_teacher_than_magnitude(
    tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    options = {"pruning_ratio": 0.25, "round_to": 2, "targets": ("*convs1*", "conv_pre*")}
    value = torch.from_numpy(mel(40, 77))
    with torch.no_grad():
        wanted = tiny_teacher.graph(value)
        errors = {
            importance: float(
                (pruned(tiny_teacher, tiny_context, importance=importance, **options)(value) - wanted).abs().mean()
            )
            for importance in ("reconstruction", "magnitude")
        }
    assert errors["reconstruction"] < 0.7 * errors["magnitude"]


def redundant() -> nn.Sequential:
    """Return a model of which three of six hidden channels are combinations of the others."""
    model = chain(nn.Conv1d(2, 6, 3, padding=1, bias=False), nn.Conv1d(6, 3, 5, padding=2))
    first = model[0]
    assert isinstance(first, nn.Conv1d)
    with torch.no_grad():
        first.weight[3] = first.weight[0] - 0.5 * first.weight[1]
        first.weight[4] = 2 * first.weight[2]
        first.weight[5] = 0
    return model


def test_redundant_channels_go_without_a_trace(tiny_context: StageContext) -> None:
    graph = traced(redundant(), (1, 2, "time"))
    samples = tuple(Sample(f"{seed}", {"input_1": inputs_of(graph, 50, seed)[0].numpy()}) for seed in range(3))
    context = replace(tiny_context, data=Dataset(samples, samples, "random"))
    strategy = ChannelImportancePruning(pruning_ratio=0.5, round_to=1)
    outcome = strategy.apply(copy_graph(graph), context)
    assert layer(outcome.student, "0").out_channels == 3
    assert outcome.findings[0].values["predicted_error"] == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(outcome.student(*inputs_of(graph)), graph(*inputs_of(graph)), atol=1e-4, rtol=1e-4)


def test_linear_layers_are_pruned_too(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), (1, "time", 6))
    samples = tuple(Sample(f"{seed}", {"input_1": inputs_of(graph, 50, seed)[0].numpy()}) for seed in range(2))
    context = replace(tiny_context, data=Dataset(samples, samples, "random"))
    student = ChannelImportancePruning(pruning_ratio=0.5).apply(copy_graph(graph), context).student
    first, last = student.get_submodule("0"), student.get_submodule("2")
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert (first.out_features, last.in_features, last.out_features) == (8, 8, 3)
    assert student(*inputs_of(graph)).shape == graph(*inputs_of(graph)).shape


def test_a_model_with_nothing_to_prune_is_left(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(2, 4, 3)), (1, 2, "time"))
    outcome = ChannelImportancePruning(pruning_ratio=0.5).apply(copy_graph(graph), replace(tiny_context, data=None))
    assert parameter_count(outcome.student) == parameter_count(graph)


def test_positions_are_how_often_weights_are_applied(tiny_teacher: Teacher) -> None:
    per_second = layer_positions(tiny_teacher.graph, 800)
    # 800 samples a second are 100 frames; a transposed convolution is applied once for each sample that it reads.
    assert per_second["conv_pre/Conv"] == per_second["ups/0/ConvTranspose"] == 100
    assert per_second["ups/1/ConvTranspose"] == per_second["resblocks/0/convs1/0/Conv"] == 400
    assert per_second["conv_post/Conv"] == 800
    assert layer_positions(tiny_teacher.graph, None)["conv_pre/Conv"] == 32


def test_polyphase_follows_pruning(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = pruned(tiny_teacher, tiny_context, pruning_ratio=0.5, round_to=2)
    with torch.no_grad():
        wanted = student(torch.from_numpy(mel(20, 3)))
        after = TransposedToStandardConv().apply(copy_graph(student), tiny_context).student
        torch.testing.assert_close(after(torch.from_numpy(mel(20, 3))), wanted, atol=1e-5, rtol=1e-4)
