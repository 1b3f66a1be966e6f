from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compressor_conv.two_dimensional import Conv1dToConv2d
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor.graph_editing import copy_graph, layer_name, module_nodes
from compressor.layer_timing import by_layer, nodes_in_turn
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import random_inputs


@pytest.mark.parametrize(("wide", "slim"), [(False, True), (True, True), (True, False)])
def test_every_layer_takes_time(wide: bool, slim: bool, tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = copy_graph(tiny_teacher.graph)
    if wide:
        student = Conv1dToConv2d().apply(student, tiny_context).student
    content = export_onnx(student, slim=slim)
    (nodes,) = nodes_in_turn([(content, random_inputs(tiny_teacher.inputs, 32))], threads=1, runs=1)
    seconds = by_layer(content, nodes)
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


def test_what_has_no_weights_belongs_to_the_layer_computed_last_before_it() -> None:
    # As onnxruntime names them: `y_nchwc` is the fused convolution that makes `y`, the last one is a change of layout.
    profile = {"n1": 1.0, "n2": 10.0, "y_nchwc": 100.0, "ReorderInput_token_5": 1000.0}
    assert by_layer(branches(), profile) == {"first": 11.0, "second": 100.0, "": 1000.0}


class Profiled:
    """A session that notes of each run what a machine that is busy now and then would: nothing runs."""

    def __init__(self, model: bytes, threads: int, profile_prefix: Path) -> None:
        self.model, self.profile, self.runs = model, profile_prefix, 0

    def run(self, outputs: None, inputs: Mapping[str, Any]) -> None:
        self.runs += 1

    def end_profiling(self) -> str:
        busy = [[50.0, 1.0, 9.0, 2.0][: self.runs], [50.0, 7.0, 3.0, 8.0][: self.runs]]
        events, now = [], 0.0
        for times in zip(*busy, strict=True):
            for node, seconds in enumerate(times):
                took = 1e6 * seconds * len(self.model)
                events.append({"cat": "Node", "name": f"n{node}_kernel_time", "ts": now, "dur": took})
                # What a node such as a loop runs is part of it.
                events.append({"cat": "Node", "name": "inner_kernel_time", "ts": now, "dur": took / 2})
                events.append({"cat": "Node", "name": "inner_kernel_time", "ts": now + took / 2, "dur": took / 2})
                now += took
        other = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 1e9}]
        other.append({"cat": "Node", "name": "n0_fence_before", "ts": 0, "dur": 1e9})
        self.profile.write_text(json.dumps([*events, *other]))
        return str(self.profile)


@pytest.mark.parametrize(("runs", "seconds"), [(3, (1.0, 3.0)), (1, (1.0, 7.0)), (0, (50.0, 50.0))])
def test_of_each_node_the_fastest_run_counts(
    runs: int, seconds: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.layer_timing.onnx_session", Profiled)
    one, twelve = nodes_in_turn([(b"one", {}), (b"twelve", {})], 1, runs)
    assert one == {"n0": 3 * seconds[0], "n1": 3 * seconds[1]}
    assert twelve == {"n0": 6 * seconds[0], "n1": 6 * seconds[1]}


def test_what_takes_less_than_the_clock_tells_takes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(Profiled):
        def end_profiling(self) -> str:
            self.profile.write_text(json.dumps([{"cat": "Node", "name": "n_kernel_time", "ts": 5, "dur": 0}]))
            return str(self.profile)

    monkeypatch.setattr("compressor.layer_timing.onnx_session", Quick)
    assert nodes_in_turn([(b"one", {})], 1, 1) == [{"n": 1e-6}]


def test_constants_that_are_nodes_belong_to_nothing() -> None:
    """As torch's exporter writes `relu(conv(x)) / 3` before it is slimmed."""
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"], name="n1"),
        helper.make_node(
            "Constant", [], ["three"], name="n2", value=numpy_helper.from_array(np.array(3.0, np.float32))
        ),
        helper.make_node("Div", ["a", "three"], ["b"], name="n3"),
        helper.make_node("LeakyRelu", ["b"], ["y"], name="n4"),
    ]
    weights = [numpy_helper.from_array(np.ones((2, 2, 1), np.float32), "first.weight")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, "time"]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "divided", values[:1], values[1:], weights))
    profile = {"n1": 1.0, "n3": 10.0, "n4": 100.0}
    assert by_layer(model.SerializeToString(), profile) == {"first": 111.0}
