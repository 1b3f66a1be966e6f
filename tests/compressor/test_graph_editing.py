from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.errors import SelectionError
from compressor.graph_editing import (
    clean,
    copy_graph,
    feed,
    fit_shape,
    layer_name,
    module_nodes,
    named_weights,
    output_nodes,
    parameter_count,
    placeholders,
    replace_module,
    replace_with_chain,
    replace_with_sum,
    run_graph,
    select,
)
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, inputs_of, traced

NAMES = ["conv_pre", "ups/0", "ups/1", "conv_post"]


class Nested(nn.Module):
    scale: Tensor
    zero: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU())
        self.register_buffer("scale", torch.tensor([2.0, 3.0])[:, None])
        self.register_buffer("zero", torch.tensor(0.0))
        self.register_buffer("count", torch.tensor([1, 2, 3]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return y * self.scale + self.zero, y + self.count.sum()


def test_modules_are_found_by_kind_and_in_order() -> None:
    graph = traced(Nested(), (1, 2, "time"))
    assert [layer_name(node) for node, _ in module_nodes(graph, nn.Conv1d, nn.ReLU)] == ["body.0", "body.1"]
    assert [layer_name(node) for node, _ in module_nodes(graph, nn.modules.conv._ConvNd)] == ["body.0"]
    assert [layer_name(node) for node in output_nodes(graph)] == ["add", "add_1"]
    assert [node.name for node in placeholders(graph)] == ["x"]


def test_weights_are_parameters_and_float_buffers() -> None:
    graph = traced(Nested(), (1, 2, "time"))
    # A single float is a setting, and integers are indices.
    assert set(named_weights(graph)) == {"body.0.weight", "body.0.bias", "scale"}
    assert parameter_count(graph) == 4 + 2 + 2


def test_shared_weights_count_once_also_in_a_copy() -> None:
    model = chain(nn.Conv1d(3, 3, 1), nn.ReLU(), nn.Conv1d(3, 3, 1))
    model[2].weight = model[0].weight
    graph = traced(model, (1, 3, "time"))
    assert parameter_count(graph) == parameter_count(copy_graph(graph)) == 9 + 3 + 3


def test_a_copy_is_independent() -> None:
    graph = traced(chain(nn.Conv1d(2, 2, 1)), (1, 2, "time"))
    other = copy_graph(graph)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in graph.parameters())
    assert placeholders(other)[0].meta["tensor_spec"] == placeholders(graph)[0].meta["tensor_spec"]


def test_a_module_is_replaced_under_its_name() -> None:
    graph = traced(Nested(), (1, 2, "time"))
    ((node, _),) = module_nodes(graph, nn.ReLU)
    replace_module(graph, node, nn.Tanh())
    assert [layer_name(found) for found, _ in module_nodes(graph, nn.Tanh)] == ["body.1"]


def test_a_module_becomes_a_chain_or_a_sum() -> None:
    graph = traced(chain(nn.Conv1d(2, 2, 1), nn.ReLU()), (1, 2, "time"))
    value = inputs_of(graph)
    first, second = nn.Conv1d(2, 3, 1), nn.Conv1d(3, 2, 1)
    ((node, _),) = module_nodes(graph, nn.Conv1d)
    replace_with_chain(graph, node, {"_first": first, "_second": second})
    torch.testing.assert_close(clean(graph)(*value), torch.relu(second(first(*value))))
    ((node, _),) = module_nodes(graph, nn.ReLU)
    replace_with_sum(graph, node, [{"_a": nn.Tanh()}, {"_b": nn.Sigmoid()}, {"_c": nn.ReLU()}])
    x = second(first(*value))
    torch.testing.assert_close(clean(graph)(*value), torch.tanh(x) + torch.sigmoid(x) + torch.relu(x))
    assert not dict(graph.named_modules()).get("0")
    assert sum(found.target is operator.add for found in graph.graph.nodes) == 2


@pytest.mark.parametrize(
    ("targets", "ignore", "chosen"),
    [
        (("*",), (), NAMES),
        (("ups/*",), (), ["ups/0", "ups/1"]),
        (("*",), ("conv_*",), ["ups/0", "ups/1"]),
        (("conv_post", "ups/0"), (), ["ups/0", "conv_post"]),
        (("ups/?",), ("ups/1",), ["ups/0"]),
        ((), (), []),
    ],
)
def test_selection(targets: tuple[str, ...], ignore: tuple[str, ...], chosen: list[str]) -> None:
    assert select(NAMES, targets, ignore) == chosen


@pytest.mark.parametrize(("targets", "ignore"), [(("up/0",), ()), (("*",), ("up/0",)), (("*", "up/0"), ())])
def test_a_pattern_that_matches_nothing(targets: tuple[str, ...], ignore: tuple[str, ...]) -> None:
    with pytest.raises(SelectionError, match=r"the pattern 'up/0' matches no layer \(did you mean 'ups/0'\?\)"):
        select(NAMES, targets, ignore)


def test_selection_of_names_with_brackets_and_case() -> None:
    with pytest.raises(SelectionError):
        select(["Conv"], ("conv",), ())


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 2))
def test_axes_of_size_one_come_and_go(shape: list[int], more: int) -> None:
    value = torch.randn(shape)
    wide = fit_shape(value, len(shape) + more)
    assert wide.shape == (shape[0], *(1,) * more, *shape[1:])
    assert torch.equal(fit_shape(wide, len(shape)), value)


def test_axes_of_other_sizes_stay() -> None:
    assert fit_shape(torch.zeros(1, 8, 1, 5), 3).shape == (1, 8, 1, 5)


def test_a_graph_may_return_one_value_or_several(tiny_teacher: Teacher) -> None:
    assert len(run_graph(tiny_teacher.graph, inputs_of(tiny_teacher.graph))) == 1
    graph = traced(Nested(), (1, 2, "time"))
    assert len(feed(graph, inputs_of(graph))) == 2
    assert not feed(graph, inputs_of(graph))[0].requires_grad
