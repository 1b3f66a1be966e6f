from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressor_hifigan.fusion import find_fusions
from compressor_hifigan.mrf_simplification import MrfSimplification
from torch import Tensor, nn

from compressor.calibration import calibration_inputs
from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph, feed, module_nodes, parameter_count
from compressor.measuring import MeasuredModel
from compressor.output_trials import output_errors
from compressor.sensitivity import Balance
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import ResBlock1, TinyVocoder, mel, tiny_vocoder


def simplified(teacher: Teacher, context: StageContext, **options: int) -> StageOutcome:
    return MrfSimplification.model_validate(options).apply(copy_graph(teacher.graph), context)


def contributions(model: TinyVocoder, data: Dataset, samples: int) -> dict[str, float]:
    """Return what each unit adds as a share of its fusion's energy, from the torch module that was exported."""
    added: dict[str, float] = {}
    fused: dict[int, float] = {}
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    for sample in data.train[:samples]:
        with torch.no_grad():
            model(torch.from_numpy(sample.inputs["mel"]))
        for stage in (0, 1):
            total = (seen[f"resblocks.{2 * stage}"] + seen[f"resblocks.{2 * stage + 1}"]) / 2
            fused[stage] = fused.get(stage, 0.0) + float(np.square(total.double().numpy()).sum())
        for block in range(4):
            for unit in (0, 1):
                energy = np.square(seen[f"resblocks.{block}.convs2.{unit}"].double().numpy() / 2).sum()
                layer = f"resblocks/{block}/convs2/{unit}/Conv"
                added[layer] = added.get(layer, 0.0) + float(energy)
    return {layer: energy / fused[int(layer.split("/")[1]) // 2] for layer, energy in added.items()}


def test_contributions_are_those_of_the_torch_module(
    tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext
) -> None:
    outcome = simplified(tiny_teacher, tiny_context, drop_units=0, calibration_samples=3)
    wanted = contributions(tiny_vocoder("1"), tiny_dataset, 3)
    found = {finding.layer: finding.values["contribution"] for finding in outcome.findings}
    assert found == pytest.approx(wanted, rel=1e-5)
    assert parameter_count(outcome.student) == parameter_count(tiny_teacher.graph)


@pytest.mark.parametrize("count", range(9))
def test_units_that_add_least_go_first(count: int, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = simplified(tiny_teacher, tiny_context, drop_units=count)
    shares = {finding.layer: finding.values["contribution"] for finding in outcome.findings}
    dropped = {finding.layer for finding in outcome.findings if finding.values["dropped"]}
    wanted: set[str] = set()
    for layer in sorted(shares, key=lambda layer: shares[layer]):
        stage = int(layer.split("/")[1]) // 2
        in_stage = sum(int(other.split("/")[1]) // 2 == stage for other in wanted)
        if len(wanted) < count and in_stage < 3:
            wanted.add(layer)
    assert dropped == wanted
    left = {str(node.target) for node, _ in module_nodes(outcome.student, nn.Conv1d) if "convs2" in str(node.target)}
    assert left == set(shares) - dropped


def without_units(model: TinyVocoder, dropped: set[str]) -> TinyVocoder:
    """Return the torch module with what the dropped units add set to zero."""
    with torch.no_grad():
        for layer in dropped:
            _, block, _, unit, _ = layer.split("/")
            resblock = model.resblocks[int(block)]
            assert isinstance(resblock, ResBlock1)
            for parameter in resblock.convs2[int(unit)].parameters():
                parameter.zero_()
    return model


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_rest_computes_what_it_did(count: int, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = simplified(tiny_teacher, tiny_context, drop_units=count)
    dropped = {finding.layer for finding in outcome.findings if finding.values["dropped"]}
    value = torch.from_numpy(mel(20, 5))
    with torch.no_grad():
        wanted = without_units(tiny_vocoder("1"), dropped)(value)
        torch.testing.assert_close(outcome.student(value), wanted, atol=1e-5, rtol=1e-4)


def test_each_fusion_keeps_what_was_asked(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = simplified(tiny_teacher, tiny_context, drop_units=8, keep_units=2)
    assert [sum(map(len, fusion.branches)) for fusion in find_fusions(outcome.student)] == [2, 2]


def weakest(shares: Mapping[str, float], keep: int) -> set[str]:
    """Return the units that each fusion can spare when it keeps its `keep` strongest."""
    found: set[str] = set()
    for stage in (0, 1):
        units = [layer for layer in shares if int(layer.split("/")[1]) // 2 == stage]
        found |= set(sorted(units, key=lambda layer: shares[layer])[: len(units) - keep])
    return found


@pytest.mark.parametrize("keep", [1, 3])
def test_the_budget_is_offered_what_fusions_can_spare(
    keep: int, tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext
) -> None:
    strategy = MrfSimplification(keep_units=keep)
    found = strategy.candidates(copy_graph(tiny_teacher.graph), tiny_context)
    shares = contributions(tiny_vocoder("1"), tiny_dataset, 4)
    assert {candidate.layer for candidate in found} == weakest(shares, keep)
    for candidate in found:
        assert set(candidate.touches) == {candidate.layer, candidate.layer.replace("convs2", "convs1")}


def test_what_dropping_a_unit_is_said_to_do_is_what_it_does(
    tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext
) -> None:
    inputs = list(calibration_inputs(tiny_teacher.inputs, tiny_dataset.train[:1]))
    wanted = feed(tiny_teacher.graph, inputs[0])[0]
    balance = Balance(wanted)
    for candidate in MrfSimplification().candidates(tiny_teacher.graph, tiny_context):
        assert candidate.replacement is not None
        (place,) = candidate.disturbs
        said = output_errors(tiny_teacher.graph, {place: candidate.replacement}, inputs)[place]
        chosen = replace(tiny_context, choices={candidate.layer: candidate.setting})
        off = feed(simplified(tiny_teacher, chosen).student, inputs[0])[0] - wanted
        assert said == pytest.approx(float(balance.weighted(off).square().sum()) / balance.energy, rel=1e-3)
        assert 0 < candidate.error < 1


def test_a_unit_that_the_budget_picks_goes_and_saves_what_it_said(
    tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext
) -> None:
    teacher = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    for candidate in MrfSimplification().candidates(copy_graph(tiny_teacher.graph), tiny_context):
        chosen = replace(tiny_context, choices={candidate.layer: candidate.setting})
        outcome = simplified(tiny_teacher, chosen)
        assert [finding.layer for finding in outcome.findings if finding.values["dropped"]] == [candidate.layer]
        student = MeasuredModel(outcome.student, tiny_teacher, tiny_dataset)
        assert candidate.saving["parameters"] == teacher.parameters - student.parameters
        assert candidate.saving["macs"] == teacher.macs - student.macs
        assert not set(candidate.touches) & {name for name, _ in outcome.student.named_modules()}


def test_what_the_budget_picked_is_dropped_without_data_too(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    picked = {"resblocks/0/convs2/0/Conv": "dropped", "resblocks/3/convs2/1/Conv": "dropped"}
    context = replace(tiny_context, choices=picked)
    blind = simplified(tiny_teacher, replace(context, data=None))
    seeing = simplified(tiny_teacher, context)
    assert {name for name, _ in blind.student.named_modules()} == {name for name, _ in seeing.student.named_modules()}
    assert blind.findings == ()


def test_without_a_choice_every_unit_stays(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = simplified(tiny_teacher, tiny_context)
    assert not any(finding.values["dropped"] for finding in outcome.findings)
    assert parameter_count(outcome.student) == parameter_count(tiny_teacher.graph)


def test_units_of_one_convolution(tiny_teacher_2: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> None:
    context = stage_context(tiny_teacher_2, tiny_dataset, tmp_path)
    outcome = simplified(tiny_teacher_2, context, drop_units=3)
    assert sum(finding.values["dropped"] for finding in outcome.findings) == 3
    assert sum(map(len, (branch for fusion in find_fusions(outcome.student) for branch in fusion.branches))) == 5


def test_a_model_without_fusion_is_left_and_told_so(tiny_context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(8, 4, 3), nn.Tanh()), (1, 8, "time"))
    outcome = MrfSimplification().apply(graph, replace(tiny_context, data=None))
    assert outcome.findings[0].message == "the model has no multi-receptive-field fusion: nothing done"
