from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_hifigan.mrf_simplification import MrfSimplification
from compressor_prune.channel_importance import ChannelImportancePruning
from compressor_reconstruct.least_squares import LeastSquaresReconstruction
from compressor_reconstruct.output_judge import OutputJudge
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, module_nodes
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import inputs_of
from compressor.testing.tiny_vocoder import mel

REFIT = LeastSquaresReconstruction(calibration_samples=6)


def disturbed(teacher: Teacher, amount: float, *, only: type[nn.Module] = nn.Module) -> GraphModule:
    """Return the teacher with noise on its weights."""
    student = copy_graph(teacher.graph)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, module in module_nodes(student, only):
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(amount * parameter.abs().mean() * noise)
    return student


def enough(context: StageContext) -> StageContext:
    """Return a context with more samples than any layer has weights to solve for."""
    assert context.data is not None
    (name,) = context.data.train[0].inputs
    samples = tuple(
        replace(context.data.train[0], name=str(seed), inputs={name: mel(60, seed=seed)}) for seed in range(6)
    )
    return replace(context, data=replace(context.data, train=samples))


def output_error(student: GraphModule, teacher: Teacher) -> float:
    values = inputs_of(teacher.graph, 40, seed=5)
    with torch.no_grad():
        wanted, found = teacher.graph(*values), student(*values)
    return float((wanted - found).square().sum() / wanted.square().sum())


def test_a_teacher_is_left_as_it_is(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    outcome = REFIT.apply(student, enough(tiny_context))
    assert output_error(outcome.student, tiny_teacher) < 1e-8
    convolutions = sum(1 for _ in module_nodes(tiny_teacher.graph, nn.Conv1d, nn.ConvTranspose1d))
    assert len(outcome.findings) == convolutions


@pytest.mark.parametrize(
    "name", ["conv_pre/Conv", "ups/0/ConvTranspose", "resblocks/1/convs2/0/Conv", "conv_post/Conv"]
)
def test_a_spoiled_layer_is_restored(name: str, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    module = student.get_submodule(name)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    before = output_error(student, tiny_teacher)
    outcome = REFIT.apply(student, enough(tiny_context))
    assert before > 1e-3
    assert output_error(outcome.student, tiny_teacher) < 0.02 * before


@pytest.mark.parametrize(
    "strategy",
    [
        DepthwiseSeparableConv(rank=1, calibration_samples=0),
        ChannelImportancePruning(pruning_ratio=0.4, round_to=2, importance="magnitude"),
        MrfSimplification(drop_units=3),
    ],
    ids=lambda strategy: strategy.name,
)
def test_it_mends_what_other_strategies_did(
    strategy: DepthwiseSeparableConv | ChannelImportancePruning | MrfSimplification,
    tiny_teacher: Teacher,
    tiny_context: StageContext,
) -> None:
    context = enough(tiny_context)
    student = strategy.apply(copy_graph(tiny_teacher.graph), context).student
    before = output_error(student, tiny_teacher)
    outcome = REFIT.apply(student, context)
    assert output_error(outcome.student, tiny_teacher) < 0.8 * before
    refitted = [finding for finding in outcome.findings if "error_after" in finding.values]
    assert refitted
    assert all(finding.values["error_after"] < finding.values["error_before"] for finding in refitted)


def test_the_last_layer_is_the_least_squares_solution(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    context = enough(tiny_context)
    student = disturbed(tiny_teacher, 0.2)
    name = "conv_post/Conv"
    strategy = LeastSquaresReconstruction(calibration_samples=6, targets=(name,), positions=100_000, longest=60)
    found = strategy.apply(copy_graph(student), context).student.get_submodule(name).weight
    assert isinstance(found, Tensor)
    read, wanted = [], []
    assert context.data is not None
    for number, sample in enumerate(context.data.train):
        if number % 3 == 2:
            continue
        value = torch.from_numpy(sample.inputs["mel"])
        read.append(captured(student, name, value, of_input=True))
        wanted.append(captured(tiny_teacher.graph, name, value, of_input=False))
    solution = np.linalg.lstsq(np.concatenate(read), np.concatenate(wanted), rcond=None)[0]
    np.testing.assert_allclose(found.detach().numpy()[0].reshape(-1), solution[:-1, 0], rtol=0.02, atol=2e-3)


def captured(graph: GraphModule, name: str, value: Tensor, *, of_input: bool) -> np.ndarray:
    """Return what a convolution of 7 taps reads as rows with a one at the end, or puts out, in float64."""
    kept: dict[str, Tensor] = {}
    handle = graph.get_submodule(name).register_forward_hook(
        lambda _, inputs, output: kept.update(read=inputs[0], made=output)
    )
    with torch.no_grad():
        graph(value)
    handle.remove()
    if not of_input:
        return kept["made"][0].T.double().numpy()
    padded = np.pad(kept["read"][0].double().numpy(), ((0, 0), (3, 3)))
    rows = np.stack([padded[:, at : at + 7].reshape(-1) for at in range(padded.shape[1] - 6)])
    return np.concatenate([rows, np.ones((len(rows), 1))], 1)


def test_layers_can_be_chosen(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = disturbed(tiny_teacher, 0.2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    strategy = LeastSquaresReconstruction(targets=("ups*",), ignore=("ups/1*",), calibration_samples=6)
    after = strategy.apply(student, enough(tiny_context)).student.state_dict()
    changed = {name.rpartition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"ups/0/ConvTranspose"}
    with pytest.raises(SelectionError):
        LeastSquaresReconstruction(targets=("absent",)).apply(student, enough(tiny_context))


def test_layers_that_do_not_bring_the_output_closer_are_left_as_they_were(
    tiny_teacher: Teacher, tiny_context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = iter([0.5, 0.6])
    monkeypatch.setattr(OutputJudge, "distance", lambda _judge, _student: next(distances))
    student = disturbed(tiny_teacher, 0.1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    outcome = REFIT.apply(student, enough(tiny_context))
    assert all(torch.equal(before[name], value) for name, value in outcome.student.state_dict().items())
    (finding,) = outcome.findings
    assert finding.message.startswith("taken back")
    assert finding.values == {"distance_before": 0.5, "distance_after": 0.6}


def test_it_says_so_where_it_can_do_nothing(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = REFIT.apply(copy_graph(tiny_teacher.graph), replace(tiny_context, data=None))
    assert [finding.message for finding in outcome.findings] == ["no data to reconstruct on: nothing refitted"]
    assert tiny_context.data is not None
    few = replace(tiny_context.data, train=tiny_context.data.train[:2])
    outcome = REFIT.apply(copy_graph(tiny_teacher.graph), replace(tiny_context, data=few))
    assert outcome.findings[0].message == "nothing refitted: fewer than three samples to train on"
