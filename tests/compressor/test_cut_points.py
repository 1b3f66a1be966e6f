from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressor.cut_points import MOST_CUTS, RegionFact, regions


def model(nodes: list[onnx.NodeProto], weights: dict[str, int], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "time"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones((2, 2, size), np.float32), name) for name, size in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(source: str, weight: str, made: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [made], name=made)


def test_a_chain_can_be_cut_everywhere_and_the_largest_part_comes_first() -> None:
    found = regions(
        model([conv("x", "a", "p"), conv("p", "b", "q"), conv("q", "c", "y")], {"a": 1, "b": 5, "c": 2}, ["y"])
    )
    assert found[0] == RegionFact("x", "y", 32, 3)
    assert RegionFact("p", "q", 20, 1) in found
    assert [part.parameters for part in found] == sorted((part.parameters for part in found), reverse=True)


def test_no_cut_goes_through_a_residual_unit() -> None:
    nodes = [
        conv("x", "a", "p"),
        conv("p", "b", "inner"),
        helper.make_node("Add", ["inner", "p"], ["sum"], name="sum"),
        conv("sum", "c", "y"),
    ]
    found = regions(model(nodes, {"a": 1, "b": 1, "c": 1}, ["y"]))
    assert {(part.input, part.output) for part in found} >= {("p", "sum"), ("x", "p"), ("p", "y")}
    assert not any("inner" in (part.input, part.output) for part in found)


def test_a_size_read_from_elsewhere_does_not_flow_but_closes_no_region_either() -> None:
    nodes = [
        conv("x", "a", "p"),
        helper.make_node("Shape", ["x"], ["sizes"], name="sizes"),
        conv("p", "b", "q"),
        helper.make_node("Reshape", ["q", "sizes"], ["y"], name="y"),
    ]
    found = {(part.input, part.output) for part in regions(model(nodes, {"a": 1, "b": 1}, ["y"]))}
    assert ("p", "q") in found
    assert ("p", "y") not in found


def test_two_streams_that_never_meet_cannot_be_cut() -> None:
    nodes = [conv("x", "a", "p"), conv("x", "b", "q")]
    assert regions(model(nodes, {"a": 1, "b": 1}, ["p", "q"])) == ()


def test_of_a_deep_model_only_some_places_are_tried() -> None:
    count = 4 * MOST_CUTS
    nodes = [conv("x" if at == 0 else f"t{at - 1}", "a", f"t{at}") for at in range(count)]
    found = regions(model(nodes, {"a": 1}, [f"t{count - 1}"]))
    assert len({part.input for part in found} | {part.output for part in found}) <= MOST_CUTS
    assert found
