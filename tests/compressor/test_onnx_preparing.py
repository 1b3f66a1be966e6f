from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_preparing import OLDEST, prepared


def model(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], *, opset: int = 17, shape: Sequence[int | str] = (2, 3)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.array([1.0, 2.0, 3.0], np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(given: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": np.arange(-3, 3, dtype=np.float32).reshape(2, 3)}))


def knows(*kinds: str) -> object:
    return lambda node, version: node.op_type in kinds  # noqa: ARG005


def test_every_node_gets_a_name_of_its_own_and_keeps_one_that_it_had() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="Relu_1"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Add", ["c", "w"], ["y"], name="block.0.Add"),
    ]
    made = prepared(model(nodes, ["y"]), knows("Relu", "Add"))  # type: ignore[arg-type]
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == 4
    assert names[1] == "Relu_1"
    assert names[3] == "block/0/Add"


def test_outputs_are_made_by_nodes_of_their_own() -> None:
    nodes = [helper.make_node("Split", ["x"], ["a", "b"], axis=0)]
    made = prepared(model(nodes, ["b", "a", "w", "x"]), knows("Split", "Identity"))  # type: ignore[arg-type]
    makers = {node.output[0]: node.op_type for node in made.graph.node}
    assert [makers[value.name] for value in made.graph.output] == ["Identity"] * 4
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    found = run(made)
    for value, wanted in zip(found, [x[1:], x[:1], [1, 2, 3], x], strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_the_given_model_is_not_touched() -> None:
    given = model([helper.make_node("Split", ["x"], ["a", "b"], axis=0)], ["b", "a"])
    before = given.SerializeToString()
    prepared(given, knows("Split"))  # type: ignore[arg-type]
    assert given.SerializeToString() == before


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_old_operator_sets_are_converted(opset: int) -> None:
    given = model([helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0])], ["y"], opset=opset)
    made = prepared(given, knows("Unsqueeze"))  # type: ignore[arg-type]
    assert made.opset_import[0].version == OLDEST
    np.testing.assert_array_equal(run(made)[0], run(given)[0])


def test_functions_of_the_standard_are_written_out_only_where_nothing_converts_them() -> None:
    given = model([helper.make_node("HardSwish", ["x"], ["y"], name="act")], ["y"])
    as_it_is = prepared(given, knows("HardSwish"))  # type: ignore[arg-type]
    assert [node.op_type for node in as_it_is.graph.node] == ["HardSwish"]
    written = prepared(given, knows("HardSigmoid", "Mul"))  # type: ignore[arg-type]
    assert sorted(node.op_type for node in written.graph.node) == ["HardSigmoid", "Mul"]
    np.testing.assert_allclose(run(written)[0], run(given)[0], atol=1e-6)


def test_functions_of_the_model_are_written_out() -> None:
    twice = helper.make_function(
        "local", "Twice", ["v"], ["d"], [helper.make_node("Add", ["v", "v"], ["d"])], [helper.make_opsetid("", 17)]
    )
    given = model([helper.make_node("Twice", ["x"], ["y"], domain="local")], ["y"])
    given.functions.append(twice)
    given.opset_import.append(helper.make_opsetid("local", 1))
    made = prepared(given, knows("Add"))  # type: ignore[arg-type]
    assert [node.op_type for node in made.graph.node] == ["Add"]
