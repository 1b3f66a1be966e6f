"""Training against discriminators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compressor_distill.adversary import AdversarialLearner
from compressor_distill.schedule import Schedule
from pydantic import ValidationError
from torch.fx import GraphModule

from compressor.errors import DataError
from compressor.graph_editing import copy_graph
from compressor.strategy import StageContext
from tests.compressor_distill.short_training import Interrupting, assert_equal_weights, distillation, weights_of

AGAINST: dict[str, Any] = {
    "block_wise": {"steps": 0},
    "end_to_end": {"steps": 2, "feature_weight": 0.0},
    "adversarial": {
        "steps": 8, "width": 0.0625, "discriminators": ["multi-period"], "discriminators_alone": 3,
        "learning_rate": 1e-3,
    },
    "segment": 24,
}  # fmt: skip


def test_discriminators_learn_alone_first_and_then_both_do(
    student: GraphModule, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[bool] = []
    judged: list[bool] = []
    rates: list[float] = []
    step = AdversarialLearner.step

    def watched(learner: AdversarialLearner, *arguments: Any) -> dict[str, float]:
        before = [
            [parameter.detach().clone() for parameter in module.parameters()]
            for module in (learner.objective, learner.discriminators)
        ]
        losses = step(learner, *arguments)
        for seen, module, old in zip((moved, judged), (learner.objective, learner.discriminators), before, strict=True):
            seen.append(any(not torch.equal(a, b) for a, b in zip(module.parameters(), old, strict=True)))
        if moved[-1]:
            rates.append(learner.optimised.optimiser.param_groups[0]["lr"])
        return losses

    monkeypatch.setattr(AdversarialLearner, "step", watched)
    options = {**AGAINST, "adversarial": {**AGAINST["adversarial"], "schedule": "constant"}}
    outcome = distillation(**options).apply(copy_graph(student), tiny_context)
    assert moved == [False] * 3 + [True] * 5
    assert judged == [True] * 8
    last = outcome.curve[-1]
    assert last.phase == "adversarial"
    assert {"output-l1", "adversarial", "feature-matching", "discriminator"} <= last.losses.keys()
    # What was best before counts no more, nor what the student was before it moved.
    kept = outcome.findings[-1].message
    assert kept == "the weights of adversarial step 8 were the last that were sound and are kept"
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3])


def test_a_phase_in_which_the_student_would_not_learn_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"in the first 50 steps .* and there are 40"):
        distillation(adversarial={"steps": 40})


def test_where_time_ends_it_before_the_student_learns_that_is_said(
    student: GraphModule, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "done", lambda schedule, step, _: step / min(2, schedule.steps or 1))
    outcome = distillation(**AGAINST).apply(copy_graph(student), tiny_context)
    told = [finding.message for finding in outcome.findings]
    assert "adversarial ended while discriminators still learnt alone: the student is as before" in told
    assert told[-1] == "the weights of end-to-end step 2 were best in validation and are kept"


@pytest.mark.parametrize("stop", [3, 7])
def test_it_goes_on_where_it_stopped(stop: int, student: GraphModule, tiny_context: StageContext) -> None:
    options = distillation(**AGAINST)
    whole = options.apply(copy_graph(student), tiny_context)
    again = replace(tiny_context, workdir=tiny_context.workdir / "again")
    with pytest.raises(KeyboardInterrupt):
        options.apply(copy_graph(student), replace(again, reporter=Interrupting(stop)))
    assert_equal_weights(weights_of(options.apply(copy_graph(student), again)), weights_of(whole))


def test_segments_too_short_to_judge_are_refused(student: GraphModule, tiny_context: StageContext) -> None:
    against = {**AGAINST["adversarial"], "discriminators": ["multi-resolution"]}
    with pytest.raises(DataError, match="judge at least 905 samples, and a segment's output has 192"):
        distillation(**{**AGAINST, "adversarial": against}).apply(copy_graph(student), tiny_context)


def test_half_precision_scales_the_gradients_of_both(student: GraphModule, tiny_context: StageContext) -> None:
    outcome = distillation(**AGAINST, precision="fp16").apply(copy_graph(student), tiny_context)
    assert outcome.findings[0].message.endswith(", fp16")
    assert [point.phase for point in outcome.curve][-1] == "adversarial"
    assert not torch.equal(
        *(weights["conv_pre/Conv.weight"] for weights in (weights_of(outcome), student.state_dict()))
    )
    assert all(bool(value.isfinite().all()) for value in weights_of(outcome).values())
