"""What plugin authors test with: every class of ours passes, and what is broken is told why."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset, Sample
from compressor.graph_editing import copy_graph
from compressor.loss import Loss
from compressor.metric import Metric, Subject
from compressor.named_options import build
from compressor.plugin_catalog import DISTRIBUTION, load_catalog
from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome, Strategy
from compressor.testing import (
    CheckFailedError,
    check_data_source,
    check_loss,
    check_metric,
    check_strategy,
    dataset,
    stage_context,
    tiny_teacher,
)
from compressor.testing.loss_checks import SIGNAL

CATALOG = load_catalog().only(DISTRIBUTION)
RANK_ONE = ("depthwise-separable-conv", {"rank": 1})
EXACT: tuple[tuple[str, dict[str, Any]], ...] = (("transposed-to-standard-conv", {}), ("conv1d-to-conv2d", {}))
OPTIONS: dict[str, dict[str, Any]] = {
    "distillation": {"losses": ["l1"], "block_wise": {"steps": 2}, "end_to_end": {"steps": 2}, "precision": "fp32"},
    "channel-importance-pruning": {"round_to": 2},
    "low-rank-conv": {"min_channels": 4},
    "top-1-agreement": {"classes": 2},
}
BEFORE: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "readable-hifigan": EXACT,
    "least-squares-reconstruction": [RANK_ONE],
}
"""Stages before, where a strategy has nothing to do on the teacher's own graph."""
BY_THE_CLOCK = {"fastest-exact-form"}
AUDIBLE = 22_050


def made(kind: str, name: str, **options: Any) -> Any:
    return build(CATALOG.by_kind()[kind][name], options, CATALOG.validation_context())


@pytest.mark.parametrize("name", sorted(CATALOG.strategies))
def test_our_strategies_pass(name: str, tmp_path: Path) -> None:
    student = copy_graph(tiny_teacher().graph)
    for before, options in BEFORE.get(name, ()):
        context = stage_context(tiny_teacher(), dataset(tiny_teacher().content), tmp_path)
        student = made("strategies", before, **options).apply(student, context).student
    strategy = made("strategies", name, **OPTIONS.get(name, {}))
    check_strategy(strategy, student=student, repeatable=name not in BY_THE_CLOCK)


@pytest.mark.parametrize("name", sorted(CATALOG.losses))
def test_our_losses_pass(name: str) -> None:
    # Of one class only, nothing is more likely than the other.
    check_loss(made("losses", name), (4, 10) if name == "kl-divergence" else SIGNAL)


@pytest.mark.parametrize("name", sorted(CATALOG.metrics))
def test_our_metrics_pass(name: str) -> None:
    teacher = tiny_teacher()
    check_metric(
        made("metrics", name, **OPTIONS.get(name, {})), teacher, dataset(teacher.content, 1, 2, AUDIBLE, frames=4_000)
    )


class Broken(Strategy):
    """Changes nothing, and says so."""

    name: ClassVar[str] = "broken"

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        return StageOutcome(student, (Finding("nothing done"),))


class Unseeded(Broken):
    """Draws random numbers of its own."""

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        with torch.no_grad():
            next(student.parameters()).add_(torch.rand(1))
        return StageOutcome(student, (Finding("moved"),))


class ChangesTheTeacher(Broken):
    """Works on the wrong graph."""

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        with torch.no_grad():
            next(context.teacher.graph.parameters()).mul_(0.5)
        return StageOutcome(student, (Finding("moved"),))


class Silent(Broken):
    """Tells nothing."""

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        return StageOutcome(student)


class NotWhatItWas(Broken):
    """Claims what it does not keep."""

    preserves_output: ClassVar[bool] = True

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        with torch.no_grad():
            next(student.parameters()).mul_(0.5)
        return StageOutcome(student, (Finding("halved"),))


class TwoOutputs(Broken):
    """Puts its output out twice."""

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        output = next(node for node in student.graph.nodes if node.op == "output")
        (made,) = output.all_input_nodes
        output.args = ((made, made),)
        student.recompile()
        return StageOutcome(student, (Finding("one more output"),))


class Boastful(BudgetedStrategy):
    """Offers what it does not save."""

    name: ClassVar[str] = "boastful"
    fixed_by: ClassVar[str] = "ratio"
    ratio: float | None = None

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        return [Candidate("conv_pre/Conv", 1, {"parameters": 500.0}, 0.1)]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        return StageOutcome(student, (Finding("nothing done"),))


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (Unseeded(), "draw random numbers from context.seed"),
        (ChangesTheTeacher(), "the teacher's weights differ"),
        (Silent(), "no finding"),
        (NotWhatItWas(), "preserves_output = True, but"),
        (TwoOutputs(), "the student has 2 outputs, the teacher 1"),
        (Boastful(), "says that it saves 500 parameters and saves 0"),
    ],
)
def test_what_is_wrong_with_a_strategy_is_told(strategy: Strategy, told: str) -> None:
    teacher = tiny_teacher()
    untouched = copy_graph(teacher.graph).state_dict()
    with pytest.raises(CheckFailedError, match=told):
        check_strategy(strategy)
    teacher.graph.load_state_dict(untouched)


class Rooted(Loss):
    """Has no gradient where it is least."""

    name: ClassVar[str] = "rooted"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean().sqrt()


class Weighted(Loss):
    """Applies its weight."""

    name: ClassVar[str] = "weighted"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight_at(1.0) * (student.float() - teacher).abs().mean()


class ByElement(Loss):
    """Forgets to take the mean."""

    name: ClassVar[str] = "by-element"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs()


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (Rooted(), "its gradient is not finite"),
        (Weighted(), "it would count twice"),
        (ByElement(), "expected a scalar"),
    ],
)
def test_what_is_wrong_with_a_loss_is_told(loss: Loss, told: str) -> None:
    with pytest.raises(CheckFailedError, match=told):
        check_loss(loss)


class Backwards(Metric):
    """Says that more of a difference is better."""

    name: ClassVar[str] = "backwards"
    better = "higher"
    needs_data: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        pairs = zip(subject.outputs, subject.teacher_outputs, strict=True)
        return max(float(np.abs(a - b).max()) for a, b in pairs)


class Restless(Metric):
    """Is another number each time."""

    name: ClassVar[str] = "restless"

    def measure(self, subject: Subject) -> float:
        return float(torch.rand(1))


@pytest.mark.parametrize(("metric", "told"), [(Backwards(), "is `better` right"), (Restless(), "measured twice")])
def test_what_is_wrong_with_a_metric_is_told(metric: Metric, told: str) -> None:
    with pytest.raises(CheckFailedError, match=told):
        check_metric(metric)


class Attached(tuple[Sample, ...]):
    """Samples with what they are read from beside them."""

    beside: object


def attached(samples: Sequence[Sample], beside: object) -> Attached:
    together = Attached(samples)
    together.beside = beside
    return together


class Mels(DataSource):
    """The tiny data set, spoiled as asked for."""

    name: ClassVar[str] = "mels"
    spoiled: str = ""

    def load(self, context: DataContext) -> Dataset:
        data = dataset(tiny_teacher().content, 2, 2)
        if self.spoiled == "shared":
            return Dataset(data.validation, data.validation, "id")
        if self.spoiled == "double":
            sample = data.train[0]
            wide = {name: array.astype(np.float64) for name, array in sample.inputs.items()}
            return Dataset((type(sample)("wide", wide),), data.validation, "id")  # type: ignore[arg-type]
        if self.spoiled in ("open file", "lambda"):
            beside = io.TextIOWrapper(io.BytesIO()) if self.spoiled == "open file" else lambda: data
            return Dataset(attached(data.train, beside), data.validation, "id")
        if self.spoiled == "used up":
            loaded = context.cache_dir / "loaded"
            left = data.train[:1] if loaded.exists() else data.train
            loaded.touch()
            return Dataset(left, data.validation, "id")
        return Dataset(data.train, data.validation, "" if self.spoiled == "nameless" else "id")


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        ("shared", "samples of validation"),
        ("double", "float64, expected float32"),
        ("nameless", "`identity` is empty"),
        ("open file", "cannot be pickled, as processes .* do: .*TextIOWrapper.* Hold paths"),
        ("lambda", "cannot be pickled, as processes .* do: .*lambda.* Hold paths"),
        ("used up", "loaded again, there are 1 training samples, before 2"),
    ],
)
def test_what_is_wrong_with_a_data_source_is_told(spoiled: str, told: str) -> None:
    check_data_source(Mels())
    with pytest.raises(CheckFailedError, match=told):
        check_data_source(Mels(spoiled=spoiled))
