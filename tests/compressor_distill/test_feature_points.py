from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_distill.feature_points import Point, PointRunner, _articulation_points, find_points
from compressor_hifigan.mrf_simplification import MrfSimplification
from compressor_prune.channel_importance import ChannelImportancePruning
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compressor.dataset import Dataset
from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, fitted_inputs, output_nodes, placeholders
from compressor.strategy import StageContext, Strategy
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import mel

FUSIONS = ("div", "div_1")


def names(points: tuple[Point, ...]) -> tuple[str, ...]:
    assert all(point.same_width for point in points)
    return tuple(point.name for point in points)


def student(teacher: Teacher, context: StageContext, *strategies: Strategy) -> GraphModule:
    graph = copy_graph(teacher.graph)
    for strategy in strategies:
        graph = strategy.apply(graph, context).student
    return graph


@pytest.mark.parametrize(
    "strategies",
    [
        [],
        [DepthwiseSeparableConv()],
        [TransposedToStandardConv(), Conv1dToConv2d()],
        [MrfSimplification(drop_units=3), DepthwiseSeparableConv(), TransposedToStandardConv(), Conv1dToConv2d()],
        [Conv1dToConv2d(input_shape="image")],
        [ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("*convs1*",))],
    ],
    ids=lambda strategies: "+".join(strategy.name for strategy in strategies) or "teacher",
)
def test_a_vocoder_s_points_are_its_fusions(
    strategies: list[Strategy], tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    assert names(find_points(tiny_teacher.graph, student(tiny_teacher, tiny_context, *strategies))) == FUSIONS


def test_one_convolution_a_unit(tiny_teacher_2: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> None:
    context = stage_context(tiny_teacher_2, tiny_dataset, tmp_path)
    graph = student(tiny_teacher_2, context, DepthwiseSeparableConv())
    assert names(find_points(tiny_teacher_2.graph, graph)) == FUSIONS


def test_a_block_that_became_narrower_ends_at_a_point_all_the_same(
    tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    narrow = ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("resblocks/1/convs2/1/*",))
    first, second = find_points(tiny_teacher.graph, student(tiny_teacher, tiny_context, narrow))
    assert (first, second) == (Point("div", 6, 12), Point("div_1", 8, 8))
    assert str(first) == "div (6 of 12 channels)"
    assert str(second) == "div_1"


def test_named_points(tiny_teacher: Teacher) -> None:
    graph = copy_graph(tiny_teacher.graph)
    assert names(find_points(tiny_teacher.graph, graph, ("div*",))) == FUSIONS
    # Any node will do, such as a branch's sum, which not everything flows through.
    assert names(find_points(tiny_teacher.graph, graph, ("resblocks_0_add",))) == ("resblocks_0_add",)
    with pytest.raises(SelectionError, match=r"'dib' matches no layer \(did you mean 'div'"):
        find_points(tiny_teacher.graph, graph, ("dib",))


def test_a_chain_that_changes_its_length_has_the_ends_of_its_blocks() -> None:
    model = chain(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv1d(6, 5, 4, 2, 1), nn.Tanh(), nn.Conv1d(5, 1, 1))
    graph = traced(model, (1, 4, "time"))
    assert names(find_points(graph, copy_graph(graph))) == ("_1",)


def reachable(start: list[Node], without: Node) -> set[Node]:
    found: set[Node] = set()
    stack = [node for node in start if node is not without]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += [user for user in node.users if user is not without]
    return found


def test_articulation_points_are_what_cuts_input_from_output(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    for graph in (tiny_teacher.graph, student(tiny_teacher, tiny_context, DepthwiseSeparableConv(rank=2))):
        outputs = set(output_nodes(graph))
        cuts = [
            node
            for node in graph.graph.nodes
            if node.op in ("call_module", "call_function") and not outputs & reachable(placeholders(graph), node)
        ]
        assert _articulation_points(graph) == cuts


def test_a_runner_keeps_what_is_computed(tiny_teacher: Teacher) -> None:
    runner = PointRunner(tiny_teacher.graph, FUSIONS)
    value = torch.from_numpy(mel(12, 3))
    with torch.no_grad():
        output = runner.forward((value,))
        assert torch.equal(output, tiny_teacher.graph(value))
    assert {name: tuple(found.shape) for name, found in runner.found.items()} == {
        "div": (1, 12, 48),
        "div_1": (1, 8, 96),
    }


def test_given_values_flow_on_and_computed_ones_are_kept(tiny_teacher: Teacher) -> None:
    runner = PointRunner(tiny_teacher.graph, FUSIONS)
    value, other = torch.from_numpy(mel(12, 3)), torch.from_numpy(mel(12, 4))
    with torch.no_grad():
        wanted = runner.forward((other,))
        features = dict(runner.found)
        runner.forward((value,))
        own = dict(runner.found)
        # Features come with an axis of height one from a two-dimensional student.
        given = {name: feature.unsqueeze(2) for name, feature in features.items()}
        output = runner.forward((value,), given)
    assert torch.equal(output, wanted)
    assert torch.equal(runner.found["div"], own["div"])
    # The second block saw the other mel's features and computes the other mel's next ones.
    assert torch.equal(runner.found["div_1"], features["div_1"])
    with torch.no_grad():
        assert not torch.equal(runner.forward((value,)), wanted)


def test_every_block_gets_a_gradient_of_its_own(tiny_teacher: Teacher) -> None:
    graph = copy_graph(tiny_teacher.graph)
    runner = PointRunner(graph, FUSIONS)
    with torch.no_grad():
        runner.forward((torch.from_numpy(mel(12, 3)),))
    given = {name: value.clone() for name, value in runner.found.items()}
    runner.forward((torch.from_numpy(mel(12, 3)),), given).sum().backward()  # type: ignore[no-untyped-call]
    post, pre = graph.get_submodule("conv_post/Conv"), graph.get_submodule("conv_pre/Conv")
    assert isinstance(post.weight, Tensor)
    assert isinstance(pre.weight, Tensor)
    assert post.weight.grad is not None
    assert pre.weight.grad is None


def test_the_teacher_s_inputs_in_the_student_s_shapes(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    image = student(tiny_teacher, tiny_context, Conv1dToConv2d(input_shape="image"))
    (value,) = fitted_inputs(image, (torch.zeros(3, 8, 5),))
    assert value.shape == (3, 1, 8, 5)
