"""Training against discriminators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compressor_distill.adversary import AdversarialLearner
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
    step = AdversarialLearner.step

    def watched(learner: AdversarialLearner, *arguments: Any) -> dict[str, float]:
        before = [
            [parameter.detach().clone() for parameter in module.parameters()]
            for module in (learner.objective, learner.discriminators)
        ]
        losses = step(learner, *arguments)
        for seen, module, old in zip((moved, judged), (learner.objective, learner.discriminators), before, strict=True):
            seen.append(any(not torch.equal(a, b) for a, b in zip(module.parameters(), old, strict=True)))
        return losses

    monkeypatch.setattr(AdversarialLearner, "step", watched)
    outcome = distillation(**AGAINST).apply(copy_graph(student), tiny_context)
    assert moved == [False] * 3 + [True] * 5
    assert judged == [True] * 8
    last = outcome.curve[-1]
    assert last.phase == "adversarial"
    assert {"output-l1", "adversarial", "feature-matching", "discriminator"} <= last.losses.keys()
    # What was best before counts no more: spectral losses say nothing of what discriminators teach.
    assert "the weights of adversarial" in outcome.findings[-1].message


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
