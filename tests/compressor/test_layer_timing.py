from __future__ import annotations

import numpy as np
import onnx
import pytest
from compressor_conv.two_dimensional import Conv1dToConv2d
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor.graph_editing import copy_graph, layer_name, module_nodes
from compressor.layer_timing import time_by_layer
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import random_inputs


@pytest.mark.parametrize("wide", [False, True])
def test_every_layer_takes_time(wide: bool, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    if wide:
        student = Conv1dToConv2d().apply(student, tiny_context).student
    seconds = time_by_layer(export_onnx(student), random_inputs(tiny_teacher.inputs, 32), runs=1)
    kinds = (nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.ConvTranspose2d)
    layers = {layer_name(node) for node, _ in module_nodes(student, *kinds)}
    assert layers <= set(seconds) <= layers | {""}
    assert all(seconds[layer] > 0 for layer in layers)


def branches() -> bytes:
    """Return `second(relu(first(x))) + first(x)`, with the weights' layers in their names."""
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 1), np.float32), name) for name in ("first.weight", "second.weight")
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"], name="n1"),
        helper.make_node("Relu", ["a"], ["b"], name="n2"),
        helper.make_node("Conv", ["b", "second.weight"], ["c"], name="n3"),
        helper.make_node("Add", ["a", "c"], ["y"], name="n4"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, "time"]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "branches", values[:1], values[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_what_has_no_weights_belongs_to_the_layer_computed_last_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # As onnxruntime names them: `y_nchwc` is the fused convolution that makes `y`, the last one is a change of layout.
    profile = {"n1": 1.0, "n2": 10.0, "y_nchwc": 100.0, "ReorderInput_token_5": 1000.0}

    def fastest(*_: object) -> dict[str, float]:
        return profile

    monkeypatch.setattr("compressor.layer_timing._fastest", fastest)
    assert time_by_layer(branches(), {}) == {"first": 11.0, "second": 100.0, "": 1000.0}
