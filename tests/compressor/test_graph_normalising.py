from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx2torch import convert
from torch import nn
from torch.fx import GraphModule

from compressor.graph_editing import module_nodes
from compressor.graph_normalising import normalise
from compressor.stored_model import onnx_session
from compressor.teacher_loading import load_teacher

OPERATIONS = ("Add", "Sub", "Mul", "Div", "LeakyRelu", "Identity", "Dropout")
FUNCTIONS = (operator.add, operator.sub, operator.mul, operator.truediv)


Array = np.ndarray[Any, Any]


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    dtype: int = TensorProto.FLOAT,
    inline: Sequence[str] = (),
) -> bytes:
    """Return a model from `x` (1, 2, time) to `y`."""
    shape: list[str | int | None] = [1, 2, "time"]
    # Exporters write constants as nodes, simplifiers make them initializers: both are met.
    first = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(constants[name])) for name in inline
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        "small",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name not in inline],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Draw a graph of arithmetic between values, scalars, channel constants and idle steps, in any order."""
    constants = {
        "zero": np.array(0, np.float32),
        "third": np.array(1 / 3, np.float32),
        "negative": np.array(-2.5, np.float32),
        "channels": np.array([[1.5], [-0.5]], np.float32),
    }
    values, nodes = ["x"], []
    count = draw(st.integers(1, 8))
    for position in range(count):
        kind = draw(st.sampled_from(OPERATIONS))
        output = "y" if position == count - 1 else f"v{position}"
        operands = [draw(st.sampled_from(values))]
        if kind in ("Add", "Sub", "Mul", "Div"):
            others = values if kind != "Div" else []
            known = [name for name in constants if (kind, name) != ("Div", "zero")]
            operands.append(draw(st.sampled_from([*others, *known])))
            if kind != "Div" and draw(st.booleans()):
                operands.reverse()
        nodes.append(helper.make_node(kind, operands, [output]))
        values.append(output)
    return model(nodes, constants, inline=draw(st.lists(st.sampled_from(sorted(constants)), unique=True)))


def run(graph: nn.Module, value: Array) -> Array:
    with torch.no_grad():
        return np.asarray(graph(torch.from_numpy(value)).numpy())


def converted(content: bytes) -> GraphModule:
    graph: GraphModule = convert(onnx.load_model_from_string(content), attach_onnx_mapping=False)
    return graph.eval()


@given(models())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_the_numbers_stay_the_same(content: bytes) -> None:
    value = np.random.default_rng(0).standard_normal((1, 2, 9)).astype(np.float32)
    before = converted(content)
    after = normalise(converted(content))
    assert np.array_equal(run(before, value), run(after, value))
    np.testing.assert_allclose(
        run(after, value), onnx_session(content).run(None, {"x": value})[0], rtol=1e-5, atol=1e-5
    )
    assert not list(module_nodes(after, nn.Identity, nn.Dropout))


@pytest.mark.parametrize("inline", [(), ("zero", "half", "three")])
def test_arithmetic_becomes_torch_s_own_and_scalars_numbers(inline: tuple[str, ...]) -> None:
    nodes = [
        helper.make_node("Add", ["zero", "x"], ["a"]),
        helper.make_node("Mul", ["half", "a"], ["b"]),
        helper.make_node("Sub", ["half", "b"], ["c"]),
        helper.make_node("Div", ["c", "three"], ["y"]),
    ]
    constants = {name: np.array(value, np.float32) for name, value in (("zero", 0), ("half", 0.5), ("three", 3))}
    graph = normalise(converted(model(nodes, constants, inline=inline)))
    calls = [(node.target, node.args[1:]) for node in graph.graph.nodes if node.op == "call_function"]
    assert [target for target, _ in calls] == [operator.mul, operator.sub, operator.truediv]
    assert calls[0][1] == (0.5,)
    assert calls[2][1] == (3.0,)
    assert not [node for node in graph.graph.nodes if node.op in ("call_module", "get_attr")]


def test_names_stay() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], name="/sum/Add"),
        helper.make_node("LeakyRelu", ["a"], ["y"], name="/after/LeakyRelu"),
    ]
    before = converted(model(nodes, {}))
    names = [node.name for node in before.graph.nodes]
    assert [node.name for node in normalise(converted(model(nodes, {}))).graph.nodes] == names


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32])
def test_division_of_integers_is_left_alone(dtype: int, tmp_path: Path) -> None:
    kind = np.int64 if dtype == TensorProto.INT64 else np.int32
    nodes = [helper.make_node("Div", ["x", "two"], ["y"])]
    content = model(nodes, {"two": np.array(2, kind)}, dtype)
    value = np.arange(-5, 5, dtype=kind).reshape(1, 2, 5)
    graph = normalise(converted(content))
    assert not [node for node in graph.graph.nodes if node.target is operator.truediv]
    np.testing.assert_array_equal(run(graph, value), onnx_session(content).run(None, {"x": value})[0])
    path = tmp_path / "integers.onnx"
    path.write_bytes(content)
    assert load_teacher(path).inputs[0].dtype == np.dtype(kind).name


def test_zero_is_only_dropped_where_it_is_added() -> None:
    zero = {"zero": np.array(0, np.float32)}
    value = np.ones((1, 2, 3), np.float32)
    for kind, wanted in (("Mul", 0.0), ("Sub", 1.0), ("Add", 1.0)):
        graph = normalise(converted(model([helper.make_node(kind, ["x", "zero"], ["y"])], zero)))
        assert run(graph, value).tolist() == np.full((1, 2, 3), wanted).tolist()
