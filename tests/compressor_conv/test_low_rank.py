from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor_conv.low_rank import LowRankConv, low_rank
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.calibration import readings
from compressor.dataset import Dataset, Sample
from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, feed, input_specs, layer_name, module_nodes, parameter_count
from compressor.measuring import MeasuredModel
from compressor.onnx_export import export_onnx
from compressor.strategy import Candidate, StageContext
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import random_inputs
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import RATE
from compressor.verification import check_export

PROBE = 32
"""Size of the dynamic axes at which a model without a sample rate is counted."""


def macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return int(counter.get_total_flops()) // 2


MODELS = {
    "narrowing": chain(nn.Conv1d(20, 12, 5, 2, 1), nn.ReLU(), nn.Conv1d(12, 12, 3), nn.Conv1d(12, 20, 4, dilation=2)),
    "up": chain(
        nn.ConvTranspose1d(24, 12, 7, 3, 2, 1), nn.Tanh(), nn.ConvTranspose1d(12, 12, 4, 2), nn.Conv1d(12, 9, 1)
    ),
    "images": chain(nn.Conv2d(9, 12, (3, 2)), nn.ConvTranspose2d(12, 12, (2, 4), (1, 2)), nn.Conv2d(12, 12, 3, 2)),
    "linear": chain(nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 20), nn.Linear(20, 24)),
}
INPUTS: dict[str, tuple[int | str, ...]] = {
    "narrowing": (1, 20, "time"),
    "up": (1, 24, "time"),
    "images": (1, 9, 8, "time"),
    "linear": (1, "time", 24),
}


@pytest.mark.parametrize("name", MODELS)
def test_candidates_save_exactly_what_they_say(name: str, tiny_context: StageContext) -> None:
    graph = traced(MODELS[name], INPUTS[name])
    context = stage_context(tiny_context.teacher, None, tiny_context.workdir)
    strategy = LowRankConv(keep_ends=False, round_to=1, min_channels=1)
    values = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(graph), PROBE).values())
    offered = list(strategy.candidates(graph, context))
    assert {candidate.layer for candidate in offered} == {layer_name(node) for node, _ in module_nodes(graph, *KINDS)}
    for candidate in offered:
        student = applied(strategy, graph, context, candidate)
        assert candidate.saving["parameters"] == parameter_count(graph) - parameter_count(student) > 0
        assert candidate.saving["macs"] == macs(graph, values) - macs(student, values)
        assert candidate.disturbs == (candidate.layer,)


KINDS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def applied(strategy: LowRankConv, graph: Any, context: StageContext, candidate: Candidate) -> Any:
    chosen = stage_context(context.teacher, context.data, context.workdir, choices={candidate.layer: candidate.setting})
    return strategy.apply(copy_graph(graph), chosen).student


def test_candidates_count_per_second_where_there_are_seconds(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    strategy = LowRankConv(round_to=2, min_channels=8)
    before = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_context.data)
    for candidate in list(strategy.candidates(copy_graph(tiny_teacher.graph), tiny_context))[::7]:
        student = applied(strategy, tiny_teacher.graph, tiny_context, candidate)
        after = MeasuredModel(student, tiny_teacher, tiny_context.data)
        assert before.probe_seconds == pytest.approx(1.0, abs=1 / RATE)
        assert candidate.saving["macs"] == pytest.approx((before.macs - after.macs) / (before.probe_seconds or 0.0))


def test_a_handful_of_ranks_per_layer_evenly_spaced_by_ratio(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(64, 64, 7)), (1, 64, "time"))
    context = stage_context(tiny_context.teacher, None, tiny_context.workdir)
    offered = LowRankConv(keep_ends=False).candidates(graph, context)
    # 64 * 64 * 7 weights against 64 + 7 * 64 for each rank: below 56 it saves.
    assert [candidate.setting for candidate in offered] == [48, 32, 24, 16, 8]
    assert [candidate.error for candidate in offered] == sorted(candidate.error for candidate in offered)


def test_the_narrow_place_lies_beside_the_wider_side(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(8, 16, 5), nn.ConvTranspose1d(16, 8, 4, 2), nn.Linear(24, 8)), (1, 8, 15))
    strategy = LowRankConv(rank=2, keep_ends=False, min_channels=1, calibration_samples=0)
    student = strategy.apply(graph, tiny_context).student
    weights = {name: tuple(weight.shape) for name, weight in student.named_parameters() if weight.dim() > 1}
    assert weights == {
        "0_kernel.weight": (2, 8, 5),
        "0_mixing.weight": (16, 2, 1),
        "1_mixing.weight": (2, 16, 1),
        "1_kernel.weight": (2, 8, 4),
        "2_kernel.weight": (2, 24),
        "2_mixing.weight": (8, 2),
    }


def test_it_saves_the_weights_it_says_and_the_file_runs_as_torch(
    tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    outcome = LowRankConv(rank=4, min_channels=12).apply(copy_graph(tiny_teacher.graph), tiny_context)
    changed = [finding for finding in outcome.findings if finding.values]
    assert {finding.layer.split("/")[0] for finding in changed} == {"ups", "resblocks"}
    saved = sum(finding.values["weights_before"] - finding.values["weights_after"] for finding in changed)
    assert saved == parameter_count(tiny_teacher.graph) - parameter_count(outcome.student) > 0
    assert outcome.student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)
    check_export(export_onnx(outcome.student), outcome.student)


@pytest.fixture
def correlated(tmp_path: Path, tiny_teacher: Teacher) -> tuple[Any, StageContext]:
    """Return a graph of one wide convolution, and samples with three directions of sixteen in them."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((16, 3))
    values = [mixing @ random.standard_normal((3, 50)) + 0.05 * random.standard_normal((16, 50)) + 2 for _ in range(8)]
    samples = tuple(Sample(str(n), {"input_1": value[None].astype(np.float32)}) for n, value in enumerate(values))
    context = stage_context(tiny_teacher, Dataset(samples[:4], samples[4:], "correlated"), tmp_path)
    return traced(chain(nn.Conv1d(16, 12, 3)), (1, 16, "time")), context


def test_data_say_which_directions_matter(correlated: tuple[Any, StageContext]) -> None:
    graph, context = correlated
    assert context.data is not None

    def unseen_error(samples: int) -> float:
        strategy = LowRankConv(rank=3, keep_ends=False, min_channels=1, calibration_samples=samples)
        student = strategy.apply(copy_graph(graph), context).student
        assert context.data is not None
        values = [(torch.from_numpy(sample.inputs["input_1"]),) for sample in context.data.validation]
        wanted, found = (torch.cat([feed(model, each)[0] for each in values]) for model in (graph, student))
        return float((found - wanted).square().sum() / (wanted - wanted.mean((0, 2), keepdim=True)).square().sum())

    # Three channels are enough for three directions and a mean; the weights themselves need more.
    assert unseen_error(4) < 0.02
    assert unseen_error(0) > 0.2


def test_the_readings_that_the_core_takes_are_what_it_is_fitted_to(correlated: tuple[Any, StageContext]) -> None:
    graph, context = correlated
    assert context.data is not None
    strategy = LowRankConv(rank=3, keep_ends=False, min_channels=1)
    (finding,) = strategy.apply(copy_graph(graph), context).findings
    reading = readings(graph, ["0"], context.data.train)["0"]
    assert finding.values["energy_kept"] == pytest.approx(low_rank(graph.get_submodule("0"), 3, reading)[1], abs=1e-6)
    assert finding.message.startswith("rank 3 keeps 99.")
    assert "of the output's energy, 576 to 156 weights" in finding.message


def test_what_stays_dense_and_why(tiny_context: StageContext) -> None:
    last = nn.Conv1d(8, 8, 5)
    graph = traced(chain(nn.Conv1d(8, 8, 5, groups=2), nn.Conv1d(8, 8, 1), last), (1, 8, "time"))
    context = stage_context(tiny_context.teacher, None, tiny_context.workdir)
    outcome = LowRankConv(rank=4, keep_ends=False, min_channels=1).apply(graph, context)
    assert [finding.message for finding in outcome.findings[:2]] == [
        "left dense: it is grouped already (now 160)",
        "left dense: rank 4 would cost 64 weights (now 64)",
    ]
    assert outcome.findings[2].message.startswith("no data to calibrate on")
    kept = low_rank(last, 4)[1]
    assert outcome.findings[3].message == f"rank 4 keeps {kept:.1%} of the weights' energy, 320 to 192 weights"


def test_what_the_budget_does_not_choose_stays_dense(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = LowRankConv(min_channels=1).apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert {finding.message for finding in outcome.findings} == {"left dense: the budget is met at less loss elsewhere"}
    assert parameter_count(outcome.student) == parameter_count(tiny_teacher.graph)


@pytest.mark.parametrize(("keep_ends", "ends"), [(True, 0), (False, 2)])
def test_narrow_layers_and_ends_are_left_unless_asked_for(
    keep_ends: bool, ends: int, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    every = LowRankConv(rank=2, keep_ends=keep_ends, min_channels=1)
    count = len(list(module_nodes(tiny_teacher.graph, *KINDS)))
    assert len(every.apply(copy_graph(tiny_teacher.graph), tiny_context).findings) == count - 2 + ends
    wide = LowRankConv(rank=2, keep_ends=keep_ends, min_channels=12)
    found = wide.apply(copy_graph(tiny_teacher.graph), tiny_context).findings
    assert {finding.layer for finding in found if not finding.layer.startswith("resblocks/")} == {"ups/0/ConvTranspose"}
    assert {finding.layer.split("/")[1] for finding in found} == {"0", "1"}


def test_targets_and_their_mistakes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    chosen = LowRankConv(targets=("ups/*",), ignore=("ups/1/*",), rank=2, min_channels=1)
    outcome = chosen.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert [finding.layer for finding in outcome.findings] == ["ups/0/ConvTranspose"]
    with pytest.raises(SelectionError, match=r"the pattern 'up/\*' matches no layer"):
        LowRankConv(targets=("up/*",), rank=2).apply(copy_graph(tiny_teacher.graph), tiny_context)
