"""What a phase does besides its steps: parts of a batch, averages, projections, and what goes wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compressor_distill.health import Health, overfitting
from compressor_distill.losses import MeanAbsolute
from compressor_distill.objective import to_training
from compressor_distill.running_average import RunningAverage
from compressor_distill.schedule import Schedule
from compressor_prune.channel_importance import ChannelImportancePruning
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr, ValidationError
from torch import Tensor
from torch.fx import GraphModule

from compressor.errors import DataError, SelectionError
from compressor.graph_editing import copy_graph, feed
from compressor.loss import Loss
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_runs import OutputL1
from compressor.testing.tiny_vocoder import HOP
from tests.compressor_distill.short_training import Interrupting, assert_equal_weights, distillation, weights_of


def test_a_batch_in_parts_is_the_same_batch(student: GraphModule, tiny_context: StageContext) -> None:
    whole, parts = (
        distillation(batch_size=4, accumulate=pieces, features=[MeanAbsolute()]).apply(
            copy_graph(student), replace(tiny_context, workdir=tiny_context.workdir / str(pieces))
        )
        for pieces in (1, 2)
    )
    for name, wanted in weights_of(whole).items():
        torch.testing.assert_close(weights_of(parts)[name], wanted, rtol=1e-3, atol=1e-4)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 2 cannot be computed in 3 equal parts"):
        distillation(accumulate=3)


def test_a_phase_has_its_own_segment(student: GraphModule, tiny_context: StageContext) -> None:
    lengths: list[int] = []

    class Measuring(OutputL1):
        def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
            if student.requires_grad:
                lengths.append(student.shape[-1])
            return super().compute(student, teacher)

    options = distillation(losses=[Measuring()], end_to_end={"steps": 2, "segment": 24, "feature_weight": 0.0})
    options.apply(copy_graph(student), tiny_context)
    assert lengths == [12 * HOP] * 6 + [24 * HOP] * 2


def test_a_phase_has_its_own_batch(student: GraphModule, tiny_context: StageContext) -> None:
    sizes: list[int] = []

    class Counting(OutputL1):
        def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
            if student.requires_grad:
                sizes.append(len(student))
            return super().compute(student, teacher)

    distillation(losses=[Counting()], end_to_end={"steps": 2, "batch_size": 3}).apply(copy_graph(student), tiny_context)
    assert sizes == [2] * 6 + [3] * 2


def test_a_loss_comes_in_by_its_schedule(student: GraphModule, tiny_context: StageContext) -> None:
    late = OutputL1(weight={0.0: 0.0, 0.5: 0.0, 1.0: 2.0})
    outcome = distillation(losses=[late], block_wise={"steps": 0}).apply(copy_graph(student), tiny_context)
    first, second, third = (point.losses["output-l1"] for point in outcome.curve[1:])
    assert first == 0
    assert second == 0
    assert third > 0
    # Validation weighs by the end of a phase, the same at all times.
    plain = distillation(losses=[OutputL1(weight=2.0)], block_wise={"steps": 0})
    start = plain.apply(copy_graph(student), replace(tiny_context, workdir=tiny_context.workdir / "plain")).curve[0]
    assert outcome.curve[0].validation == pytest.approx(start.validation)


def test_an_average_of_weights_is_kept_and_resumed(student: GraphModule, tiny_context: StageContext) -> None:
    options = distillation(ema=0.9)
    average = options.apply(copy_graph(student), tiny_context)
    again = replace(tiny_context, workdir=tiny_context.workdir / "again")
    with pytest.raises(KeyboardInterrupt):
        options.apply(copy_graph(student), replace(again, reporter=Interrupting(8)))
    assert_equal_weights(weights_of(options.apply(copy_graph(student), again)), weights_of(average))
    plain = distillation().apply(copy_graph(student), replace(again, workdir=again.workdir / "plain"))
    assert not torch.equal(*(weights_of(each)["conv_pre/Conv.weight"] for each in (average, plain)))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_an_average_lies_between_the_least_and_the_most(values: list[float], decay: float) -> None:
    model = torch.fx.symbolic_trace(torch.nn.Linear(1, 1, bias=False))
    average = RunningAverage(model, decay)
    assert average.copy is not None
    weight, averaged = model.get_parameter("weight"), average.copy.get_parameter("weight")
    wanted = float(weight.detach())
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            weight.fill_(value)
        average.follow(model)
        kept = min(decay, step / (step + 10))
        wanted = kept * wanted + (1 - kept) * value
    assert float(averaged.detach()) == pytest.approx(wanted, abs=1e-4)


def test_narrower_features_are_compared_through_projections(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    narrow = ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("resblocks/1/convs2/1/*",))
    pruned = narrow.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    phases: dict[str, Any] = {"block_wise": {"steps": 8}, "end_to_end": {"steps": 8, "feature_weight": 1.0}}
    options = distillation(**phases, validate_every=4)
    outcome = options.apply(copy_graph(pruned), tiny_context)
    assert "div (6 of 12 channels), div_1" in outcome.findings[0].message
    # Projections train beside the student and are no part of it.
    assert weights_of(outcome).keys() == pruned.state_dict().keys()
    features = [point.losses["features"] for point in outcome.curve if point.phase == "end-to-end"]
    assert features[-1] < features[0]
    # Least squares comes near at once: without it, a projection of zeros puts out nothing, an error of one.
    assert features[0] < 1.5
    again = replace(tiny_context, workdir=tiny_context.workdir / "again")
    with pytest.raises(KeyboardInterrupt):
        options.apply(copy_graph(pruned), replace(again, reporter=Interrupting(12)))
    assert_equal_weights(weights_of(options.apply(copy_graph(pruned), again)), weights_of(outcome))


class Spoiled(Loss):
    """Says something wrong at some of the training steps."""

    name = "spoiled"
    at: tuple[int, ...]
    value: float
    _calls: list[int] = PrivateAttr(default_factory=list)

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        distance = (student - teacher).abs().mean()
        if not student.requires_grad:
            return distance
        self._calls.append(1)
        return distance * self.value if len(self._calls) in self.at else distance


def said(outcome: StageOutcome) -> list[str]:
    return [finding.message for finding in outcome.findings]


@pytest.mark.parametrize(
    ("value", "what"),
    [(float("nan"), "spoiled is no finite number"), (1e4, "the loss exploded: ")],
    ids=["nan", "high"],
)
def test_a_step_that_would_do_harm_is_not_taken(
    value: float, what: str, student: GraphModule, tiny_context: StageContext
) -> None:
    phases = {"block_wise": {"steps": 0}, "end_to_end": {"steps": 40, "feature_weight": 0.0}}
    options = distillation(losses=[Spoiled(at=(30,), value=value)], **phases)
    outcome = options.apply(copy_graph(student), tiny_context)
    (told,) = [message for message in said(outcome) if "half the learning rate" in message]
    assert told.startswith(f"end-to-end step 29: {what}")
    assert all(bool(tensor.isfinite().all()) for tensor in weights_of(outcome).values())
    assert outcome.curve[-1].validation["spoiled"] < outcome.curve[0].validation["spoiled"]


def test_a_training_that_keeps_failing_stops_with_what_was_best(
    student: GraphModule, tiny_context: StageContext
) -> None:
    phases = {"block_wise": {"steps": 0}, "end_to_end": {"steps": 99, "feature_weight": 0.0}}
    options = distillation(losses=[Spoiled(at=tuple(range(4, 99)), value=float("inf"))], **phases)
    outcome = options.apply(copy_graph(student), tiny_context)
    assert sum("half the learning rate" in message for message in said(outcome)) == 4
    stopped = next(message for message in said(outcome) if message.startswith("training stopped"))
    assert "end-to-end step 7: spoiled is no finite number; it has gone wrong 5 times" in stopped
    best = min(outcome.curve, key=lambda point: point.validation["spoiled"])
    assert said(outcome)[-1].startswith(f"the weights of {best.phase} step {best.step}")


def test_a_loss_that_comes_in_late_is_no_explosion(student: GraphModule, tiny_context: StageContext) -> None:
    late = OutputL1(weight={0.0: 0.01, 0.6: 0.01, 0.65: 100.0})
    phases = {"block_wise": {"steps": 0}, "end_to_end": {"steps": 60, "feature_weight": 0.0, "learning_rate": 1e-5}}
    outcome = distillation(losses=[late], validate_every=60, **phases).apply(copy_graph(student), tiny_context)
    assert not any("half the learning rate" in message for message in said(outcome))


def test_a_student_that_puts_out_nothing_finite_is_refused(student: GraphModule, tiny_context: StageContext) -> None:
    broken = copy_graph(student)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="before training: the validation's losses are no finite numbers"):
        distillation().apply(broken, tiny_context)


def test_frozen_layers_stay_as_they_are_and_the_others_learn(student: GraphModule, tiny_context: StageContext) -> None:
    outcome = distillation(frozen=["resblocks/0/*", "conv_p*"]).apply(copy_graph(student), tiny_context)
    for name, value in student.state_dict().items():
        still = name.startswith(("resblocks/0/", "conv_p"))
        assert torch.equal(weights_of(outcome)[name], value) == still, name
    for patterns, message in ((["nix*"], "matches no layer"), (["*"], "leave nothing to learn")):
        with pytest.raises(SelectionError, match=message):
            distillation(frozen=patterns).apply(copy_graph(student), tiny_context)


def test_batch_norms_keep_their_statistics_while_the_rest_trains() -> None:
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 2, 1), torch.nn.BatchNorm1d(2), torch.nn.Dropout()).eval()
    to_training(model)
    assert [module.training for module in model] == [True, False, True]


def test_a_blank_output_is_noticed(student: GraphModule, tiny_context: StageContext) -> None:
    class Silence(OutputL1):
        def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
            return student.square().mean().sqrt()

    phases = {"block_wise": {"steps": 0}, "end_to_end": {"steps": 60, "learning_rate": 0.05, "feature_weight": 0.0}}
    outcome = distillation(losses=[Silence()], validate_every=10, **phases).apply(copy_graph(student), tiny_context)
    assert any("the output went blank" in message for message in said(outcome))
    sample = tiny_context.data.validation[0] if tiny_context.data else None
    assert sample is not None
    assert sample.reference is not None
    output = feed(outcome.student, (torch.from_numpy(sample.inputs["mel"]),))[0].numpy()
    # The level is of all samples together, so that one may lie a little lower.
    assert np.square(output).mean() > 0.005 * np.square(sample.reference).mean()


def test_health_of_validations() -> None:
    assert Health.of_validation(1.0, 2.0, -3.0, 0.0) == ""
    # What was blank before training is not blamed on it.
    assert Health.of_validation(1.0, 2.0, -40.0, -30.0) == ""
    assert "blank: 21 dB" in Health.of_validation(1.0, 2.0, -21.0, 0.0)
    assert Health.of_validation(1e-4, 0.0, 0.0, 0.0) == ""
    assert "100.0 times worse" in Health.of_validation(0.1, 0.0, 0.0, 0.0)
    assert "3.5 times worse" in Health.of_validation(7.0, 2.0, 0.0, 0.0)
    assert "no finite" in Health.of_validation(float("nan"), 2.0, 0.0, 0.0)


def test_overfitting_is_three_rises_while_training_falls() -> None:
    falling = [4.0, 3.0, 2.0, 1.0]
    assert "overfitting" in overfitting(falling, [1.0, 1.1, 1.2, 1.3])
    assert overfitting(falling, [1.0, 1.1, 1.05, 1.3]) == ""
    assert overfitting(falling[::-1], [1.0, 1.1, 1.2, 1.3]) == ""
    assert overfitting(falling[:3], [1.0, 1.1, 1.2]) == ""


@given(st.integers(0, 500), st.integers(0, 50))
def test_a_rate_that_stays(step: int, warmup: int) -> None:
    level = Schedule(500, 2.0, warmup, starts_at_seconds=0.0, ends_at_seconds=math.inf, falls=False)
    assert level.rate(step, step / 500) == pytest.approx(2.0 * min(1.0, (step + 1) / max(1, warmup)))
