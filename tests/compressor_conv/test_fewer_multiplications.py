from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from compressor_conv.fewer_multiplications import WinogradConvStrategy
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_conv.winograd import WinogradConv
from torch import nn
from torch.fx import GraphModule

from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, input_specs, module_nodes, parameter_count
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.verification import check_stage


@pytest.fixture
def wide(tiny_teacher: Teacher, tiny_context: StageContext) -> GraphModule:
    student = copy_graph(tiny_teacher.graph)
    for strategy in (TransposedToStandardConv(), Conv1dToConv2d()):
        student = strategy.apply(student, tiny_context).student
    return student


def faster(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[int]:
    """Let the clock find the second form so much faster; return a list that holds an entry for each comparison."""
    asked: list[int] = []

    def timed(models: Sequence[Any], _: int, runs: int) -> list[tuple[float, ...]]:
        asked.append(len(models))
        return [(gain,) * runs, (1.0,) * runs]

    monkeypatch.setattr("compressor.timing.time_in_turn", timed)
    return asked


def test_all_that_can_be_is_taken_where_no_gain_is_asked(wide: GraphModule, tiny_context: StageContext) -> None:
    outcome = WinogradConvStrategy(least_gain=0).apply(copy_graph(wide), tiny_context)
    plain = [conv for _, conv in module_nodes(wide, nn.Conv2d) if conv.kernel_size != (1, 1)]
    assert len(list(module_nodes(outcome.student, WinogradConv))) == len(plain) > 4
    assert parameter_count(outcome.student) == parameter_count(wide)
    assert all("gain" not in finding.values for finding in outcome.findings)
    check_stage("winograd", wide, outcome.student, input_specs(wide))


@pytest.mark.parametrize("gain", [1.19, 1.21])
def test_a_layer_is_taken_where_it_gains(
    gain: float, wide: GraphModule, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = faster(monkeypatch, gain)
    outcome = WinogradConvStrategy(least_gain=1.2).apply(copy_graph(wide), tiny_context)
    taken = list(module_nodes(outcome.student, WinogradConv))
    layers = list(module_nodes(wide, nn.Conv2d))
    assert len(taken) == (len(layers) if gain > 1.2 else 0)
    assert {finding.values["taken"] for finding in outcome.findings} == {gain > 1.2}
    assert {finding.values["gain"] for finding in outcome.findings} == {gain}
    # Layers of one kind share a comparison.
    assert 0 < len(asked) < len(layers)


def test_layers_are_timed_for_real(wide: GraphModule, tiny_context: StageContext) -> None:
    outcome = WinogradConvStrategy(runs=1).apply(copy_graph(wide), tiny_context)
    assert all(finding.values["gain"] > 0 for finding in outcome.findings)


def test_layers_can_be_named(wide: GraphModule, tiny_context: StageContext) -> None:
    first, second = [str(node.target) for node, _ in module_nodes(wide, nn.Conv2d)][:2]
    outcome = WinogradConvStrategy(least_gain=0, targets=(first, second), ignore=(second,)).apply(wide, tiny_context)
    assert [str(node.target) for node, _ in module_nodes(outcome.student, WinogradConv)] == [first]
    with pytest.raises(SelectionError, match="matches no layer"):
        WinogradConvStrategy(targets=("nothing/*",)).apply(wide, tiny_context)


def test_what_does_not_suit_is_left_with_the_reason(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(3, 4, 3), nn.LeakyReLU(), nn.Conv1d(4, 4, 3, stride=2)), (1, 3, "time"))
    outcome = WinogradConvStrategy().apply(graph, tiny_context)
    messages = [finding.message for finding in outcome.findings]
    assert messages[0] == "left as it is: no convolution of height one over two or more taps"
    assert messages[-1] == "the model has no convolution of height one that this form suits"


def test_a_model_without_convolutions_says_so(tiny_context: StageContext) -> None:
    outcome = WinogradConvStrategy().apply(traced(nn.Sequential(nn.Tanh()), (1, 3, "time")), tiny_context)
    assert [finding.message for finding in outcome.findings] == [
        "the model has no convolution of height one that this form suits"
    ]
