"""Spending a budget on the biases of the tiny vocoder's convolutions: each can be dropped, and saves its own size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_cost.metrics import FileBytes, Latency, Parameters
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.budget import following_rates
from compressor.calibration import calibration_inputs
from compressor.dataset import Dataset
from compressor.error_prediction import LENGTH, SAMPLES
from compressor.errors import BudgetError, StageError
from compressor.graph_editing import copy_graph, input_specs, layer_name, module_nodes, parameter_count
from compressor.measuring import MeasuredModel
from compressor.metric import Metric
from compressor.planning import PlannedStage
from compressor.progress import SilentReporter
from compressor.recipe import Limit
from compressor.rehearsal import Rehearsal, budgeted
from compressor.rehearsing import CLOCK_MARGIN, spend_budget
from compressor.report import Measurement
from compressor.sensitivity import sensitivities
from compressor.stage_running import Workbench, apply_stage
from compressor.strategy import BudgetedStrategy, Candidate, StageContext, StageOutcome, Strategy
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import random_inputs
from compressor.timing import Timings

MakeBench = Callable[..., Workbench]


class DropBias(BudgetedStrategy):
    """Drops the biases of convolutions: those that the budget picks, or all."""

    name: ClassVar[str] = "drop-bias"
    fixed_by: ClassVar[str] = "everywhere"
    everywhere: bool | None = None
    error: float = 1.0
    reaching: bool = True
    """False: the error is said to be that of the output already."""

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        return [
            Candidate(layer, "none", {"parameters": float(size)}, self.error, (layer,) if self.reaching else ())
            for layer, size in biases(student).items()
        ]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        for layer in biases(student):
            if self.everywhere or layer in context.choices:
                student.get_submodule(layer).register_parameter("bias", None)
        return StageOutcome(student)


def biases(student: GraphModule) -> dict[str, int]:
    convolutions = {layer_name(node): conv for node, conv in module_nodes(student, _ConvNd)}
    return {layer: conv.bias.numel() for layer, conv in convolutions.items() if isinstance(conv.bias, nn.Parameter)}


def staged(*strategies: Strategy) -> list[PlannedStage]:
    return [PlannedStage(f"{strategy.name} {at}", strategy, "test") for at, strategy in enumerate(strategies)]


@pytest.fixture
def make_bench(tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> MakeBench:
    """Return what makes a workbench for the tiny vocoder with limits in parameters saved."""

    def make(
        saved: int,
        data: Dataset | None = tiny_dataset,
        metrics: tuple[Metric, ...] = (Parameters(),),
        limits: Mapping[str, float] | None = None,
        rates: Mapping[str, tuple[str, float]] | None = None,
    ) -> Workbench:
        return Workbench(
            teacher=tiny_teacher,
            data=data,
            baseline=MeasuredModel(tiny_teacher.graph, tiny_teacher, data),
            metrics=metrics,
            limits=limits or {"parameters": float(parameter_count(tiny_teacher.graph) - saved)},
            rates=rates or {},
            workdir=tmp_path,
            device="cpu",
            seed=3,
            reporter=SilentReporter(),
        )

    return make


def wide_and_quiet(reach: Mapping[str, float], student: GraphModule, size: int) -> str:
    """Return the layer with a bias of at least this size whose errors reach the output least."""
    return min((layer for layer, width in biases(student).items() if width >= size), key=lambda layer: reach[layer])


def test_errors_count_by_how_much_of_them_reaches_the_output(
    make_bench: MakeBench, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    student = tiny_teacher.graph
    inputs = calibration_inputs(input_specs(student), tiny_dataset.train[:SAMPLES], LENGTH)
    reach = sensitivities(copy_graph(student), inputs, seed=3)
    choices, (record,) = spend_budget(make_bench(8), staged(DropBias(error=0.25)), copy_graph(student))
    quiet = wide_and_quiet(reach, student, 8)
    assert choices == {"drop-bias 0": {quiet: "none"}}
    assert (record.stage, record.layer, record.setting, record.error) == ("drop-bias 0", quiet, "none", 0.25)
    assert record.saving == {"parameters": biases(student)[quiet]}
    assert record.output_error == pytest.approx(0.25 * reach[quiet], rel=1e-6)


def test_errors_of_the_output_count_as_they_are(
    make_bench: MakeBench, tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.error_prediction.sensitivities", lambda *_: pytest.fail("nothing is disturbed"))
    stages = staged(DropBias(error=2.0, reaching=False), DropBias(error=1.0, reaching=False))
    choices, records = spend_budget(make_bench(28), stages, copy_graph(tiny_teacher.graph))
    assert list(choices) == ["drop-bias 1"]
    # Every layer errs as much as any other: the fewest are best.
    assert sorted(record.saving["parameters"] for record in records) == [12, 16]
    assert all(record.output_error == record.error == 1.0 for record in records)


@pytest.mark.parametrize("without", ["data", "training samples"])
def test_without_samples_random_inputs_will_do(
    without: str, make_bench: MakeBench, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    student = tiny_teacher.graph
    arrays = random_inputs(input_specs(student), 32, seed=3)
    reach = sensitivities(copy_graph(student), [tuple(map(torch.from_numpy, arrays.values()))], seed=3)
    data = None if without == "data" else replace(tiny_dataset, train=())
    choices, _ = spend_budget(make_bench(8, data=data), staged(DropBias()), copy_graph(student))
    assert choices == {"drop-bias 0": {wide_and_quiet(reach, student, 8): "none"}}


def test_a_stage_is_asked_about_the_layers_that_it_will_find(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    stages = staged(DropBias(error=100.0), DepthwiseSeparableConv(rank=1), DropBias())
    bench, student = make_bench(0), copy_graph(tiny_teacher.graph)
    factorised = apply_stage(stages[1], student, bench.context(stages[1], {})).student
    bench = replace(bench, limits={"parameters": float(parameter_count(factorised) - 150)})
    choices, _ = spend_budget(bench, stages, student)
    assert list(choices) == [stages[2].label]
    assert set(choices[stages[2].label]) <= set(biases(factorised))
    assert any(layer.endswith("_pointwise") for layer in choices[stages[2].label])
    for stage in stages:
        student = apply_stage(stage, student, bench.context(stage, choices.get(stage.label, {}))).student
    assert parameter_count(factorised) - 166 < parameter_count(student) <= parameter_count(factorised) - 150


def test_metrics_that_candidates_do_not_know_follow_those_that_they_do(
    make_bench: MakeBench, tiny_teacher: Teacher
) -> None:
    size = len(tiny_teacher.content)
    teacher = (
        Measurement(metric="parameters", value=float(parameter_count(tiny_teacher.graph))),
        Measurement(metric="bytes", value=float(size)),
    )
    metrics = (Parameters(), FileBytes())
    rates = following_rates(metrics, {"bytes": Limit(text="99%")}, teacher)
    bench = make_bench(0, metrics=metrics, limits={"bytes": 0.0}, rates=rates)
    unchanged = Rehearsal(bench, [], tiny_teacher.graph).costs_after({})["bytes"]
    bench = replace(bench, limits={"bytes": unchanged - 150.0})
    student = copy_graph(tiny_teacher.graph)
    choices, records = spend_budget(bench, staged(DropBias()), student)
    each = size / parameter_count(tiny_teacher.graph)
    assert all(record.saving["bytes"] == pytest.approx(each * record.saving["parameters"]) for record in records)
    costs = Rehearsal(bench, staged(DropBias()), student).costs_after(choices)
    assert unchanged - 1000 < costs["bytes"] <= unchanged - 150


def test_what_is_small_enough_is_left_as_it_is(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    assert spend_budget(make_bench(0), staged(DropBias()), copy_graph(tiny_teacher.graph)) == ({}, ())


def test_limits_that_cannot_be_met_are_refused(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    whole = sum(biases(tiny_teacher.graph).values())
    with pytest.raises(BudgetError, match="no choice meets the budget"):
        spend_budget(make_bench(whole + 1), staged(DropBias()), copy_graph(tiny_teacher.graph))
    choices, records = spend_budget(make_bench(whole), staged(DropBias()), copy_graph(tiny_teacher.graph))
    assert len(records) == len(choices["drop-bias 0"]) == len(biases(tiny_teacher.graph))


def test_a_place_that_is_not_there_is_the_stage_s_mistake(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    class Elsewhere(DropBias):
        def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
            return [Candidate("conv_pre/Conv", "none", {"parameters": 16.0}, 1.0, disturbs=("conv_pre",))]

    with pytest.raises(StageError, match=r"stage 'drop-bias 0': .*'conv_pre/Conv' disturbs 'conv_pre'"):
        spend_budget(make_bench(8), staged(Elsewhere()), copy_graph(tiny_teacher.graph))


def test_a_stage_that_fails_when_it_is_asked_is_named(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    class Broken(DropBias):
        def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
            raise ZeroDivisionError("division by zero")

    with pytest.raises(StageError, match="stage 'drop-bias 0': ZeroDivisionError: division by zero"):
        spend_budget(make_bench(8), staged(Broken()), copy_graph(tiny_teacher.graph))


def test_a_rehearsal_trains_nothing_and_reads_no_data_but_to_choose(
    make_bench: MakeBench, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    contexts: list[StageContext] = []

    class Spying(Strategy):
        name: ClassVar[str] = "spying"

        def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
            contexts.append(context)
            return StageOutcome(student)

    class Calibrated(Spying):
        name: ClassVar[str] = "calibrated"
        needs_data: ClassVar[bool] = True

    class Training(Calibrated):
        name: ClassVar[str] = "training"
        trains: ClassVar[bool] = True

    class Budgeted(DropBias):
        needs_data: ClassVar[bool] = True

        def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
            contexts.append(context)
            return super().apply(student, context)

    stages = staged(Spying(), Calibrated(), Training(), Budgeted(), Budgeted(everywhere=False))
    student = copy_graph(tiny_teacher.graph)
    costs = Rehearsal(make_bench(0), stages, student).costs_after({"drop-bias 3": {"conv_pre/Conv": "none"}})
    assert costs == {"parameters": parameter_count(tiny_teacher.graph) - 16}
    assert [context.stage for context in contexts] == ["spying 0", "calibrated 1", "drop-bias 3", "drop-bias 4"]
    assert [context.data for context in contexts] == [None, tiny_dataset, None, tiny_dataset]
    assert [dict(context.choices) for context in contexts] == [{}, {}, {"conv_pre/Conv": "none"}, {}]
    assert parameter_count(student) == parameter_count(tiny_teacher.graph)


def test_stages_after_the_last_question_and_those_that_keep_the_structure_are_not_applied_to_ask(
    make_bench: MakeBench, tiny_teacher: Teacher
) -> None:
    applied: list[str] = []

    class Spying(Strategy):
        name: ClassVar[str] = "spying"

        def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
            applied.append(context.stage)
            return StageOutcome(student)

    class Refitting(Spying):
        name: ClassVar[str] = "refitting"
        keeps_structure: ClassVar[bool] = True

    stages = staged(DropBias(), Refitting(), Spying(), DropBias(), Spying())
    spend_budget(make_bench(0), stages, copy_graph(tiny_teacher.graph))
    # Once to ask the second stage, and once in the rehearsal, to which the last one belongs.
    assert applied == ["spying 2", "spying 2", "spying 4"]


def test_only_stages_with_a_choice_are_rehearsed(make_bench: MakeBench, tiny_teacher: Teacher) -> None:
    applied: list[str] = []

    class Watched(DropBias):
        def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
            applied.append(context.stage)
            return super().apply(student, context)

    stages = staged(Watched(), Watched(), Watched(everywhere=True))
    first, *_ = biases(tiny_teacher.graph)
    rehearsal = Rehearsal(make_bench(0), stages, copy_graph(tiny_teacher.graph))
    assert rehearsal.unchanged is rehearsal.unchanged
    assert applied == ["drop-bias 2"]
    rehearsal.finished({"drop-bias 1": {first: "none"}})
    assert applied[1:] == ["drop-bias 1", "drop-bias 2"]


def test_time_is_aimed_below_its_limit_by_a_clock_that_repeats_itself(
    make_bench: MakeBench, tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each bias takes a millisecond by the nodes' clock, and whole runs are not asked.
    def by_layer(model: MeasuredModel, threads: int, runs: int) -> dict[str, float]:
        assert model.by_nodes
        assert (threads, runs) == (2, 3)
        return {layer: 1e-3 * size for layer, size in biases(model.graph).items()}

    def timed(model: MeasuredModel, threads: int, runs: int) -> Timings:
        return Timings((sum(by_layer(model, threads, runs).values()),), (1.0,))

    monkeypatch.setattr(MeasuredModel, "timed", timed)
    monkeypatch.setattr(MeasuredModel, "time_by_layer", by_layer)
    student = copy_graph(tiny_teacher.graph)
    limit = 0.5 * sum(biases(student).values())
    bench = make_bench(0, metrics=(Latency(threads=2, runs=3),), limits={"latency": limit})
    choices, records = spend_budget(bench, staged(DropBias()), student)
    assert all(record.saving["latency"] == pytest.approx(biases(student)[record.layer]) for record in records)
    costs = Rehearsal(bench, staged(DropBias()), student).costs_after(choices)
    assert 0.8 * limit < costs["latency"] <= (1 - CLOCK_MARGIN) * limit


def test_which_stages_leave_their_choice_to_the_budget() -> None:
    given = staged(DropBias(), DropBias(everywhere=False), DropBias(everywhere=True), DepthwiseSeparableConv(rank=1))
    assert [budgeted(stage) for stage in given] == [True, False, False, False]
