"""Branches and loops that constants decide are written out, and compute what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from compressor.control_flow import decided
from compressor.doctor import examine
from compressor.errors import TeacherError
from compressor.onnx_conversion import Support
from compressor.plugin_catalog import load_catalog
from compressor.stored_model import onnx_session
from compressor.teacher_loading import load_teacher

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "time"])


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def constant(name: str, content: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(content), name)


def branch(operator: str, name: str, weights: Sequence[TensorProto] = ()) -> GraphProto:
    """Return a branch that applies an operator to `x`, read from outside."""
    nodes = [helper.make_node(operator, ["x", *[each.name for each in weights]], ["h"], name="same name")]
    return helper.make_graph([*nodes, helper.make_node("Neg", ["h"], ["r"])], name, [], [value("r")], weights)


def choice(condition: str, then: GraphProto, otherwise: GraphProto) -> NodeProto:
    return helper.make_node("If", [condition], ["y"], name="choice", then_branch=then, else_branch=otherwise)


def model(nodes: Sequence[NodeProto], weights: Sequence[TensorProto] = (), rank: int = 3) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph(nodes, "model", [X], [out], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def equal_to_the_file(made: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Load a model, which compares it with onnxruntime, and return it written out, compared here as well."""
    path = folder / "model.onnx"
    onnx.save(made, path)
    load_teacher(path, load_catalog().converters)
    written = decided(made)
    onnx.checker.check_model(written, full_check=True)
    for size in (1, 7):
        x = np.random.default_rng(size).standard_normal((1, 3, size)).astype(np.float32)
        sessions = (onnx_session(each.SerializeToString()) for each in (made, written))
        wanted, found = (session.run(None, {"x": x})[0] for session in sessions)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    return written


@pytest.mark.parametrize("condition", [True, False])
def test_a_constant_takes_its_branch(condition: bool, tmp_path: Path) -> None:
    weights = [constant("w", np.full((1, 3, 1), 2.0, np.float32))]
    nodes = [choice("c", branch("Mul", "then", weights), branch("Exp", "else"))]
    written = equal_to_the_file(model(nodes, [constant("c", condition)]), tmp_path)
    assert [node.op_type for node in written.graph.node] == ["Mul" if condition else "Exp", "Neg", "Identity"]
    found = examine(str(tmp_path / "model.onnx"), load_catalog().converters)
    assert found.loads
    assert [(fact.operator, fact.support) for fact in found.operators] == [("If", Support.WRITTEN_OUT)]


@pytest.mark.parametrize(("axis", "then"), [(0, True), (1, False)])
def test_a_size_that_is_known_takes_its_branch(axis: int, then: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["v"], name="before"),
        helper.make_node("Shape", ["v"], ["s"]),
        helper.make_node("Gather", ["s", "axis"], ["n"]),
        helper.make_node("Equal", ["n", "one"], ["c"]),
        choice("c", branch("Tanh", "then"), branch("Exp", "else")),
    ]
    weights = [constant("axis", np.int64(axis)), constant("one", np.int64(1))]
    written = equal_to_the_file(model(nodes, weights), tmp_path)
    assert ("Tanh" in [node.op_type for node in written.graph.node]) == then


def test_branches_in_branches(tmp_path: Path) -> None:
    inner = choice("c", branch("Tanh", "inner then"), branch("Exp", "inner else"))
    inner.output[0] = "z"
    outer = helper.make_graph([inner, helper.make_node("Abs", ["z"], ["r"])], "outer", [], [value("r")])
    written = equal_to_the_file(model([choice("c", outer, branch("Exp", "else"))], [constant("c", True)]), tmp_path)
    assert [node.op_type for node in written.graph.node if node.op_type != "Identity"] == ["Tanh", "Neg", "Abs"]


def test_what_the_input_decides_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["c"]),
        choice("c", branch("Tanh", "then"), branch("Exp", "else")),
    ]
    made = model(nodes, [constant("zero", np.float32(0))])
    assert decided(made) is made
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(TeacherError, match=r"If \(first at 'choice'\)"):
        load_teacher(tmp_path / "model.onnx", load_catalog().converters)


def loop(*, going: str, scan: bool, count: str = "count", start: str = "go") -> NodeProto:
    """Return a loop that computes v ← v · w + turn and, if asked, stacks each v."""
    nodes = [
        helper.make_node("Cast", ["turn"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["v", "w"], ["product"]),
        helper.make_node("Add", ["product", "number"], ["next"], name="step"),
        helper.make_node("Identity", [going], ["on"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]
    graph = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            value("v"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), value("next"), *([value("seen")] if scan else [])],
        [constant("w", np.full((1, 3, 1), 0.5, np.float32)), constant("always", True)],
    )
    outputs = ["last", "y"] if scan else ["y"]
    return helper.make_node("Loop", [count, start, "x"], outputs, name="loop", body=graph)


@pytest.mark.parametrize("going", ["going", "always"])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("turns", [1, 4])
def test_a_loop_of_constant_length_is_written_out(going: str, scan: bool, turns: int, tmp_path: Path) -> None:
    weights = [constant("count", np.int64(turns)), constant("go", True)]
    made = model([loop(going=going, scan=scan)], weights, rank=4 if scan else 3)
    written = equal_to_the_file(made, tmp_path)
    assert sum(node.op_type == "Add" for node in written.graph.node) == turns


def test_a_loop_without_turns_hands_on_what_it_got(tmp_path: Path) -> None:
    made = model([loop(going="going", scan=False)], [constant("count", np.int64(0)), constant("go", True)])
    written = equal_to_the_file(made, tmp_path)
    assert [node.op_type for node in written.graph.node] == ["Identity"]


def test_several_sizes_at_once_are_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "axes"], ["pair"]),
        helper.make_node("ReduceProd", ["pair"], ["n"], keepdims=0),
        helper.make_node("Equal", ["n", "three"], ["c"]),
        choice("c", branch("Tanh", "then"), branch("Exp", "else")),
    ]
    weights = [constant("axes", np.array([[0, 1]])), constant("three", np.int64(3))]
    written = equal_to_the_file(model(nodes, weights), tmp_path)
    assert "Tanh" in [node.op_type for node in written.graph.node]


def test_what_does_not_fit_its_body_stays() -> None:
    lame = choice("c", branch("Tanh", "then"), branch("Exp", "else"))
    lame.output.append("more")
    graph = helper.make_graph([lame], "lame", [X], [value("y")], [constant("c", True)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert decided(made) is made


def test_a_loop_of_an_empty_body_is_limited_too() -> None:
    numbers = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
    ]
    body = helper.make_graph([], "body", [*numbers, value("v")], [numbers[1], value("v")])
    for count, stays in ((30_000, True), (5, False)):
        nodes = [helper.make_node("Loop", ["count", "go", "x"], ["y"], name="loop", body=body)]
        made = model(nodes, [constant("count", np.int64(count)), constant("go", True)])
        assert (decided(made) is made) == stays


def test_a_loop_that_may_end_itself_or_never_does_stays() -> None:
    weights = [constant("count", np.int64(3)), constant("go", True)]
    ending = loop(going="going", scan=False)
    body = helper.get_attribute_value(ending.attribute[0])
    body.node[3].CopyFrom(helper.make_node("Not", ["going"], ["on"]))
    changed = helper.make_node("Loop", list(ending.input), ["y"], name="loop", body=body)
    made = model([changed], weights)
    assert decided(made) is made
    huge = model([loop(going="going", scan=False)], [constant("count", np.int64(2**40)), constant("go", True)])
    assert decided(huge) is huge
