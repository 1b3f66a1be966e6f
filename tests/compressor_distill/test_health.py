"""Trainings that go wrong, and what is done about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressor_distill import trainer
from compressor_distill.learner import MOST_SKIPPED, Learner, Optimised, Unhealthy
from compressor_distill.objective import Objective
from compressor_prune.channel_importance import ChannelImportancePruning
from torch import nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph
from compressor.processes import Company
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from tests.compressor_distill.short_training import distillation


@pytest.mark.parametrize(("precision", "allowed"), [("fp16", MOST_SKIPPED), ("bf16", 0), ("fp32", 0)])
def test_gradients_that_are_never_finite_are_noticed(precision: Any, allowed: int) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimised = Optimised([weight], 1e-3, distillation(), Company(torch.device("cpu")), precision)

    def step(gradient: float) -> None:
        optimised.forget_gradients()
        optimised.backward((weight * gradient).sum())
        optimised.gather([torch.tensor(1.0)])
        optimised.step()

    for _ in range(2):
        # One that is finite, and they are counted anew.
        step(1e-3)
        for _ in range(allowed):
            step(float("inf"))
    with pytest.raises(Unhealthy, match="gradient is no finite number"):
        step(float("inf"))


def test_projections_are_fitted_anew_where_training_goes_back(
    tiny_teacher: Teacher, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("resblocks/1/convs2/1/*",))
    narrower = narrow.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    steps, fitted = [], []
    step, fit = Learner.step, Objective.fit_projections

    def failing(learner: Learner, *given: Any) -> dict[str, float]:
        steps.append(1)
        if len(steps) == 3:
            raise Unhealthy("it blew up")
        return step(learner, *given)

    def watched(objective: Objective, *given: Any) -> Any:
        before = {name: value.clone() for name, value in objective.projections.items()}
        made = fit(objective, *given)
        fitted.append(any(not torch.equal(before[name], value) for name, value in objective.projections.items()))
        return made

    monkeypatch.setattr(Learner, "step", failing)
    monkeypatch.setattr(Objective, "fit_projections", watched)
    outcome = distillation(block_wise={"steps": 0}, end_to_end={"steps": 4, "feature_weight": 0.5}).apply(
        narrower, tiny_context
    )
    assert fitted == [True, True]
    assert any("step 2: it blew up; going back" in finding.message for finding in outcome.findings)


def test_overfitting_stands_in_the_report_once_a_phase(
    student: GraphModule, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "overfitting_in", lambda curve: "overfitting" if curve[-1].step >= 4 else "")
    outcome = distillation().apply(copy_graph(student), tiny_context)
    told = [finding.message for finding in outcome.findings if "overfitting" in finding.message]
    assert told == ["block-wise: overfitting", "end-to-end: overfitting"]
