"""What trains on a GPU, for machines that have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compressor_distill.distillation import Distillation
from compressor_distill.losses import MeanAbsolute
from compressor_prune.channel_importance import ChannelImportancePruning
from torch import Tensor
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.loss import Loss
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_runs import OutputL1, stage_context
from tests.compressor_distill.short_training import Interrupting, distillation, weights_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CLOSE = {"fp32": 0.01, "bf16": 0.05, "fp16": 0.05}
"""How far losses may be from those of float32 on the processor: a GPU rounds a convolution's factors to ten bits."""


def test_a_gpu_trains_what_the_processor_trains_and_goes_on_where_it_stopped(
    student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome
) -> None:
    on_gpu = replace(tiny_context, device="cuda")
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), replace(on_gpu, reporter=Interrupting(after=8)))
    trained = weights_of(distillation().apply(copy_graph(student), on_gpu))
    for name, wanted in weights_of(uninterrupted).items():
        assert trained[name].device.type == "cpu"
        # A GPU rounds products of convolutions to ten bits, and Adam steps by signs: a step's length may be apart.
        torch.testing.assert_close(trained[name], wanted, rtol=1e-3, atol=5e-3)
    assert next(tiny_context.teacher.graph.parameters()).device.type == "cpu"


@pytest.fixture(scope="module")
def narrow(student: GraphModule, tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> GraphModule:
    """Return a student that needs a projection where its features are compared."""
    context = stage_context(tiny_teacher, None, tmp_path_factory.mktemp("narrow"))
    pruning = ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("resblocks/1/convs2/1/*",))
    return pruning.apply(copy_graph(student), context).student


def everything(precision: str, folder: Path, **changes: Any) -> Distillation:
    """Return a training of all phases, with all that goes to the device with it."""
    adversarial = {
        "steps": 8, "discriminators_alone": 2, "segment": 24, "width": 0.0625,
        "discriminators": ["multi-period", "multi-scale"],
    }  # fmt: skip
    return distillation(
        precision=precision, features=[MeanAbsolute()], ema=0.5, adversarial=adversarial, accumulate=2,
        end_to_end={"steps": 6, "learning_rate": 2e-3, "feature_weight": 0.5}, cache_dir=folder, **changes,
    )  # fmt: skip


def losses_of(outcome: StageOutcome) -> list[float]:
    return [value for point in outcome.curve for value in (*point.losses.values(), *point.validation.values())]


@pytest.fixture(scope="module")
def on_the_processor(
    narrow: GraphModule, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    folder = tmp_path_factory.mktemp("processor")
    context = stage_context(tiny_teacher, tiny_dataset, folder)
    return losses_of(everything("fp32", folder).apply(copy_graph(narrow), context))


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("signals", ["in-memory", "recorded", "on-the-fly"])
def test_every_phase_follows_the_processor_s_curve(
    precision: str,
    signals: str,
    narrow: GraphModule,
    tiny_context: StageContext,
    on_the_processor: list[float],
    tmp_path: Path,
) -> None:
    way = {} if signals == "in-memory" else {"teacher_signals": signals, "memory_gb": 0.0}
    on_gpu = replace(tiny_context, device="cuda")
    outcome = everything(precision, tmp_path, **way).apply(copy_graph(narrow), on_gpu)
    assert outcome.findings[0].message.endswith(precision)
    assert losses_of(outcome) == pytest.approx(on_the_processor, rel=CLOSE[precision], abs=CLOSE[precision])
    assert {value.device.type for value in weights_of(outcome).values()} == {"cpu"}


@pytest.mark.parametrize("after", [3, 9, 14])
def test_every_phase_goes_on_where_it_stopped(
    after: int, narrow: GraphModule, tiny_context: StageContext, tmp_path: Path
) -> None:
    on_gpu = replace(tiny_context, device="cuda")
    whole = everything("fp32", tmp_path).apply(copy_graph(narrow), replace(on_gpu, workdir=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        everything("fp32", tmp_path).apply(copy_graph(narrow), replace(on_gpu, reporter=Interrupting(after)))
    resumed = everything("fp32", tmp_path).apply(copy_graph(narrow), on_gpu)
    assert losses_of(resumed) == pytest.approx(losses_of(whole), rel=1e-2, abs=1e-2)


class Looking(Loss):
    name = "looking"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        difference = (student - teacher).abs().mean()
        return difference if float(difference.detach()) > 0 else difference * 0


def test_a_loss_that_looks_at_its_value_is_trained_with_step_by_step(
    student: GraphModule, tiny_context: StageContext
) -> None:
    reporter = Interrupting(after=1000)
    options = distillation(losses=[Looking()], block_wise={"steps": 0})
    outcome = options.apply(copy_graph(student), replace(tiny_context, device="cuda", reporter=reporter))
    assert any("no CUDA graph of them" in message for message in reporter.said)
    losses = [point.validation["looking"] for point in outcome.curve]
    assert min(losses) < losses[0]


def test_what_is_captured_is_what_is_computed_one_by_one(
    narrow: GraphModule, tiny_context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays = 0
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        nonlocal replays
        replays += 1
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    reporter = Interrupting(after=1000)
    on_gpu = replace(tiny_context, device="cuda", reporter=reporter)
    captured = everything("fp32", tmp_path).apply(copy_graph(narrow), on_gpu)
    assert not [message for message in reporter.said if "CUDA graph" in message]
    # Two parts a step, the first four steps of a phase one by one; discriminators have a graph of their own.
    assert replays == 2 * (2 + 2 + 2 + 4)
    apart = replace(on_gpu, workdir=tmp_path / "one by one")
    one_by_one = everything("fp32", tmp_path, cuda_graphs=False).apply(copy_graph(narrow), apart)
    assert replays == 2 * (2 + 2 + 2 + 4)
    assert losses_of(captured) == pytest.approx(losses_of(one_by_one), rel=1e-3, abs=1e-3)


def test_a_weight_that_changes_is_followed(student: GraphModule, tiny_context: StageContext) -> None:
    options = distillation(losses=[OutputL1(weight={0.0: 1.0, 0.5: 1.0, 0.75: 2.0})], end_to_end={"steps": 24})
    curves = [
        losses_of(options.apply(copy_graph(student), replace(tiny_context, device=device, workdir=folder)))
        for device, folder in (("cpu", tiny_context.workdir / "cpu"), ("cuda", tiny_context.workdir / "cuda"))
    ]
    assert curves[1] == pytest.approx(curves[0], rel=CLOSE["fp32"])


def test_a_training_that_went_wrong_is_taken_back(student: GraphModule, tiny_context: StageContext) -> None:
    wild = {"steps": 16, "learning_rate": 50.0}
    options = distillation(block_wise={"steps": 0}, end_to_end=wild, validate_every=6)
    outcome = options.apply(copy_graph(student), replace(tiny_context, device="cuda"))
    assert any("going back to the weights" in finding.message for finding in outcome.findings)
    assert all(value.isfinite().all() for value in weights_of(outcome).values())
