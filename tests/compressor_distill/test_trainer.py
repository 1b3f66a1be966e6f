from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_distill import trainer
from compressor_distill.learner import Optimised
from compressor_distill.processor import chosen_precision
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.errors import DataError
from compressor.graph_editing import copy_graph, feed, parameter_count
from compressor.loss import Loss
from compressor.processes import Company
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_runs import OutputL1
from tests.compressor_distill.short_training import assert_equal_weights, distillation, weights_of


def test_training_brings_the_student_nearer(
    student: GraphModule, tiny_teacher: Teacher, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    steps = {"block_wise": {"steps": 30, "learning_rate": 5e-3}, "end_to_end": {"steps": 30, "learning_rate": 3e-3}}
    outcome = distillation(**steps, validate_every=10).apply(copy_graph(student), tiny_context)
    losses = [point.validation["output-l1"] for point in outcome.curve]
    assert [point.phase for point in outcome.curve] == ["start"] + ["block-wise"] * 3 + ["end-to-end"] * 3
    assert losses[3] < 0.9 * losses[0]
    assert min(losses) < 0.7 * losses[0]
    # What comes back is what was best, ready to be measured.
    values = [torch.from_numpy(sample.inputs["mel"]) for sample in tiny_dataset.validation]
    errors = [float((feed(outcome.student, (v,))[0] - feed(tiny_teacher.graph, (v,))[0]).abs().mean()) for v in values]
    assert sum(errors) / len(errors) == pytest.approx(min(losses), rel=1e-4)
    assert not outcome.student.training
    assert parameter_count(outcome.student) == parameter_count(student)
    assert "best in validation and are kept" in outcome.findings[-1].message
    assert "features are compared at div, div_1" in outcome.findings[0].message
    assert list((tiny_context.workdir / "tensorboard").iterdir())


class RateTimesL1(OutputL1):
    """A loss that the sample rate is a factor of."""

    rate: int = 0

    def at_rate(self, sample_rate: int | None) -> RateTimesL1:
        return self.model_copy(update={"rate": sample_rate})

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.rate * super().compute(student, teacher)


def test_losses_are_those_of_the_datas_sample_rate(
    student: GraphModule, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    assert tiny_dataset.sample_rate
    plain, by_rate = (
        distillation(losses=[loss], block_wise={"steps": 0}, end_to_end={"steps": 1})
        .apply(copy_graph(student), replace(tiny_context, workdir=tiny_context.workdir / type(loss).__name__))
        .curve[0]
        .validation["output-l1"]
        for loss in (OutputL1(), RateTimesL1())
    )
    assert by_rate == pytest.approx(tiny_dataset.sample_rate * plain, rel=1e-4)


def test_the_teacher_is_left_alone(student: GraphModule, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    before = {name: value.clone() for name, value in tiny_teacher.graph.state_dict().items()}
    distillation().apply(copy_graph(student), tiny_context)
    assert_equal_weights(tiny_teacher.graph.state_dict(), before)
    assert not tiny_teacher.graph.training


def test_the_same_seed_trains_the_same_weights(
    student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome
) -> None:
    again = distillation().apply(copy_graph(student), tiny_context)
    assert_equal_weights(weights_of(again), weights_of(uninterrupted))
    elsewhere = replace(tiny_context, seed=1, workdir=tiny_context.workdir / "other")
    other = distillation().apply(copy_graph(student), elsewhere)
    assert not torch.equal(*(weights_of(each)["conv_pre/Conv.weight"] for each in (other, again)))


class Clock:
    """A clock that every look at moves by a second."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1.0
        return self.seconds


def test_time_shortens_the_schedule(
    student: GraphModule, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "time", Clock())
    rates: list[float] = []
    step: Callable[..., Any] = torch.optim.AdamW.step

    def watched(optimiser: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(optimiser.param_groups[0]["lr"])
        return step(optimiser, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    options = distillation(
        max_minutes=1.0, warmup_steps=0, validate_every=999,
        block_wise={"steps": 300, "learning_rate": 1e-3}, end_to_end={"steps": 300, "learning_rate": 5e-4},
    )  # fmt: skip
    assert options.longest_minutes == 1.0
    outcome = options.apply(copy_graph(student), tiny_context)
    notes = [finding.message for finding in outcome.findings if finding.message.startswith("max_minutes ended")]
    assert len(notes) == 2
    assert 10 < len(rates) < 70
    # Each phase ends at a rate of almost nothing, though most of its steps were not taken.
    turn = next(at for at in range(1, len(rates)) if rates[at] > rates[at - 1])
    assert rates[0] == pytest.approx(1e-3, rel=0.05)
    assert rates[turn] == pytest.approx(5e-4, rel=0.05)
    assert max(rates[turn - 1], rates[-1]) < 1e-4
    # The last weights of a shortened phase are validated too.
    assert [point.phase for point in outcome.curve] == ["start", "block-wise", "end-to-end"]
    assert outcome.curve[1].step == turn


def test_a_skipped_phase(student: GraphModule, tiny_context: StageContext) -> None:
    outcome = distillation(block_wise={"steps": 0}).apply(copy_graph(student), tiny_context)
    assert {point.phase for point in outcome.curve} == {"start", "end-to-end"}


def test_training_that_makes_it_worse_keeps_the_start(student: GraphModule, tiny_context: StageContext) -> None:
    wild = {"steps": 4, "learning_rate": 50.0}
    outcome = distillation(block_wise=wild, end_to_end=wild).apply(copy_graph(student), tiny_context)
    assert outcome.findings[-1].message == "the weights of start were best in validation and are kept"
    assert_equal_weights(weights_of(outcome), student.state_dict())


def test_images_can_be_trained(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    image = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    with torch.no_grad():
        for parameter in image.parameters():
            parameter.mul_(0.9)
    outcome = distillation().apply(image, tiny_context)
    losses = [point.validation["output-l1"] for point in outcome.curve]
    assert losses[-1] < losses[0]


def test_without_data_there_is_nothing_to_learn(student: GraphModule, tiny_context: StageContext) -> None:
    with pytest.raises(DataError, match="distillation needs data"):
        distillation().apply(copy_graph(student), replace(tiny_context, data=None))


def test_bf16_is_trained_with_when_asked_for(student: GraphModule, tiny_context: StageContext) -> None:
    outcome = distillation(precision="bf16").apply(copy_graph(student), tiny_context)
    assert outcome.findings[0].message.endswith(", bf16")
    assert all(value.dtype == torch.float32 for value in weights_of(outcome).values())


def test_an_optimiser_goes_on_on_another_device() -> None:
    def optimised() -> Optimised:
        weight = nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        return Optimised([weight], 1e-3, distillation(), Company(torch.device("cpu")), "fp32")

    one, other = optimised(), optimised()
    one.step()
    state = one.state()
    # As a GPU writes it.
    state["optimiser"]["param_groups"][0]["fused"] = True
    other.restore(state)
    assert other.optimiser.param_groups[0]["fused"] is False
    for each in (one, other):
        each.step()
    moved, wanted = (each.optimiser.state[each.parameters[0]]["exp_avg"] for each in (other, one))
    assert torch.equal(moved, wanted)


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16", "fp16"])
def test_a_gpu_computes_in_32_bits_unless_asked(asked: Any) -> None:
    assert chosen_precision(asked, torch.device("cuda")) == ("fp32" if asked == "auto" else asked)


class Weighted(Loss):
    name = "weighted"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


def test_losses_are_summed_by_weight(student: GraphModule, tiny_context: StageContext) -> None:
    both = distillation(losses=[OutputL1(weight=2.0), Weighted(weight=3.0)], end_to_end={"steps": 0})
    alone = distillation(losses=[OutputL1(), Weighted()], end_to_end={"steps": 0})
    start, other = (
        options.apply(copy_graph(student), replace(tiny_context, workdir=tiny_context.workdir / str(number))).curve[0]
        for number, options in enumerate((both, alone))
    )
    assert start.validation["output-l1"] == pytest.approx(2 * other.validation["output-l1"])
    assert start.validation["weighted"] == pytest.approx(3 * other.validation["weighted"])


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_where_the_last_weights_are_asked_for_they_are_kept(
    ema: float, student: GraphModule, tiny_context: StageContext, tiny_dataset: Dataset, tiny_teacher: Teacher
) -> None:
    # Worse in the end than on the way, but not so much that it is taken back.
    end_to_end = {"steps": 6, "learning_rate": 0.15, "schedule": "constant"}
    options = {"block_wise": {"steps": 0}, "end_to_end": end_to_end, "ema": ema, "validate_every": 1}
    outcome = distillation(**options, keep="last").apply(copy_graph(student), tiny_context)
    losses = [point.validation["output-l1"] for point in outcome.curve]
    assert losses[-1] > 1.01 * min(losses)
    values = [torch.from_numpy(sample.inputs["mel"]) for sample in tiny_dataset.validation]
    errors = [float((feed(outcome.student, (v,))[0] - feed(tiny_teacher.graph, (v,))[0]).abs().mean()) for v in values]
    assert sum(errors) / len(errors) == pytest.approx(losses[-1], rel=1e-4)
    assert outcome.findings[-1].message.endswith("were best in validation; the last ones are kept")
