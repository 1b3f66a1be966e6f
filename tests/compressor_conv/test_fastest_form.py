from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compressor_conv.blocked_layout import block
from compressor_conv.fastest_form import AS_IT_IS, FastestExactForm
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_conv.winograd import WinogradConv
from torch import nn
from torch.fx import GraphModule

from compressor.errors import ExportError
from compressor.graph_editing import copy_graph, input_specs, module_nodes, parameter_count
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import traced
from compressor.verification import check_stage

FORMS = [
    AS_IT_IS,
    "two-dimensional",
    "two-dimensional, polyphase",
    "two-dimensional, polyphase, blocked",
    "two-dimensional, polyphase, Winograd",
]


def keep(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Let the clock find the form at a position the fastest."""

    def timed(models: Sequence[object], _: int, runs: int) -> list[tuple[float, ...]]:
        if len(models) < len(FORMS):
            # The two forms of a kind of layer.
            return [(0.02,) * runs, (0.01,) * runs]
        return [((0.01 if at == position else 0.02),) * runs for at in range(len(models))]

    monkeypatch.setattr("compressor.timing.time_in_turn", timed)


@pytest.mark.parametrize("position", [0, 4])
def test_the_fastest_form_is_kept_and_computes_the_same(
    position: int, tiny_teacher: Teacher, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, position)
    outcome = FastestExactForm(size=20, runs=1).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [finding.values["form"] for finding in outcome.findings] == FORMS
    assert [finding.values["kept"] for finding in outcome.findings] == [at == position for at in range(5)]
    check_stage("fastest", tiny_teacher.graph, outcome.student, input_specs(tiny_teacher.graph))
    kinds = [nn.Conv1d, nn.ConvTranspose2d, nn.Conv2d, nn.Conv2d, WinogradConv]
    assert list(module_nodes(outcome.student, kinds[position]))


def test_forms_are_timed_for_real(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = FastestExactForm(size=20, runs=2).apply(copy_graph(tiny_teacher.graph), tiny_context)
    times = [finding.values["latency_ms"] for finding in outcome.findings]
    assert len(times) == 5
    assert all(value > 0 for value in times)
    (kept,) = [finding for finding in outcome.findings if finding.values["kept"]]
    assert kept.values["latency_ms"] == min(times)


def test_a_form_that_cannot_be_written_is_left_out(
    tiny_teacher: Teacher, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __new__(cls) -> Any:
            raise ExportError("no such form")

    monkeypatch.setattr("compressor_conv.two_dimensional.Conv1dToConv2d", Failing)
    outcome = FastestExactForm(size=20, runs=1).apply(copy_graph(tiny_teacher.graph), tiny_context)
    messages = [finding.message for finding in outcome.findings]
    assert messages[0] == "two-dimensional: left out: no such form"
    assert messages[-1].startswith("as it is: ")


class Residual(nn.Module):
    """Up-sampling, then residual units whose activations are and are not fused with a convolution."""

    def __init__(self, width: int, rate: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(3, width, 2 * rate, rate, rate // 2)
        self.first = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv1d(width, width, 5, padding=4, dilation=2) for _ in range(2))
        self.activations = nn.ModuleList(nn.LeakyReLU(0.1 * (at + 1)) for at in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        for unit in range(2):
            inner = self.first[unit](self.activations[2 * unit](x))
            x = self.second[unit](self.activations[2 * unit + 1](inner)) + x
        return x


def wide(graph: GraphModule, context: StageContext) -> GraphModule:
    for strategy in (TransposedToStandardConv(), Conv1dToConv2d()):
        graph = strategy.apply(copy_graph(graph), context).student
    return graph


@pytest.mark.parametrize(("width", "rate"), [(16, 2), (16, 4), (32, 4), (24, 2)])
def test_blocking_changes_nothing(width: int, rate: int, tiny_context: StageContext) -> None:
    before = wide(traced(Residual(width, rate), (1, 3, "time")), tiny_context)
    after = copy_graph(before)
    inserted = block(after)
    # A pooling after the up-sampling, and an identity for both activations of residual streams; widths of half blocks
    # are left alone.
    assert inserted == (0 if width % 16 else 3)
    check_stage("block", before, after, input_specs(before))
    identities = [module for name, module in after.named_modules() if name.endswith("_identity")]
    assert parameter_count(after) - parameter_count(before) == len(identities) * width * (not width % 16)
