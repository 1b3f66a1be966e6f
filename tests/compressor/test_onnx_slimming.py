from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compressor.onnx_slimming import _drop_unused
from compressor.stored_model import onnx_session


def model_with_a_choice() -> ModelProto:
    """Return x + w or x + v, by a condition, with a weight besides that nothing reads."""
    kept = [numpy_helper.from_array(np.full(2, value, np.float32), name) for name, value in (("w", 1.0), ("v", 2.0))]
    unread = numpy_helper.from_array(np.ones(2, np.float32), "unread")
    shape = TensorProto.FLOAT, [2]
    branches = [
        helper.make_graph([helper.make_node("Add", ["x", name], [f"sum_{name}"])], name, [],
                          [helper.make_tensor_value_info(f"sum_{name}", *shape)])
        for name in ("w", "v")
    ]  # fmt: skip
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = [helper.make_tensor_value_info("x", *shape), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", *shape), helper.make_tensor_value_info("w", *shape)]
    graph = helper.make_graph([choice], "choice", inputs, outputs, [*kept, unread])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_weights_that_nothing_reads_are_dropped_and_no_others() -> None:
    model = model_with_a_choice()
    _drop_unused(model.graph)
    # One is read in a branch only, the other is an output besides.
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "v"]
    x = np.zeros(2, np.float32)
    for condition, wanted in ((True, 1.0), (False, 2.0)):
        (y, w) = onnx_session(model.SerializeToString(), 1).run(None, {"x": x, "c": np.array(condition)})
        np.testing.assert_array_equal(y, np.full(2, wanted))
        np.testing.assert_array_equal(w, np.ones(2))
