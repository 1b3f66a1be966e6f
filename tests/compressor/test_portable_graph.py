from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace

from compressor.graph_editing import feed, input_specs, output_specs
from compressor.portable_graph import PortableGraph
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_vocoder import mel


def sent(graph: GraphModule) -> GraphModule:
    portable: PortableGraph = pickle.loads(pickle.dumps(PortableGraph(graph)))  # noqa: S301 - our own
    return portable.graph


def test_a_teacher_arrives_as_it_was(tiny_teacher: Teacher) -> None:
    graph = tiny_teacher.graph
    arrived = sent(graph)
    assert [node.name for node in arrived.graph.nodes] == [node.name for node in graph.graph.nodes]
    assert [str(node.args) for node in arrived.graph.nodes] == [str(node.args) for node in graph.graph.nodes]
    assert (input_specs(arrived), output_specs(arrived)) == (input_specs(graph), output_specs(graph))
    assert list(arrived.state_dict()) == list(graph.state_dict())
    assert not arrived.training
    value = (torch.from_numpy(mel(9, 0)),)
    assert torch.equal(feed(arrived, value)[0], feed(graph, value)[0])


class Reading(nn.Module):
    """Reads one buffer twice, made before a layer whose name could take its place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("k_value", torch.tensor(2.0))
        self.register_buffer("unread", torch.tensor(3.0))
        self.conv = nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.conv(x) * self.k_value + self.k_value
        return value


def test_one_value_that_two_nodes_read_stays_one() -> None:
    traced = symbolic_trace(Reading())
    values = [node for node in traced.graph.nodes if node.op == "get_attr"]
    for node in values[1:]:
        node.replace_all_uses_with(values[0])
        traced.graph.erase_node(node)
    arrived = sent(traced)
    assert [node.name for node in arrived.graph.nodes] == [node.name for node in traced.graph.nodes]
    # Unread or not: a checkpoint of the one fits the other.
    assert list(arrived.state_dict()) == list(traced.state_dict())
    x = torch.randn(1, 2, 5)
    assert torch.equal(arrived(x), traced(x))


@pytest.mark.parametrize("bound", [slice(1, 3), slice(None, None, 2)])
def test_slices_lists_and_keywords_arrive(bound: slice) -> None:
    graph = Graph()
    x = graph.placeholder("x")
    size = graph.call_method("size", (x, 0))
    cut = graph.call_function(torch.Tensor.__getitem__, (x, (slice(0, size), bound)))
    joined = graph.call_function(torch.cat, ([cut, cut],), {"dim": 1})
    graph.output((joined,))
    module = GraphModule(nn.Module(), graph)
    value = torch.arange(12.0).reshape(2, 6)
    assert torch.equal(sent(module)(value)[0], module(value)[0])
