"""A model whose output is nothing but rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def rounding_model(last: np.ndarray[Any, Any]) -> bytes:
    """Return a model of two outputs: rounding alone, and its input times a number."""
    generator = np.random.default_rng(0)
    order = generator.permutation(4096)
    weight = generator.standard_normal((4096, 64)).astype(np.float32) * 5
    # The same sum in two orders, taken from each other: nothing is left but how each engine rounds.
    nodes = [
        helper.make_node("Gather", ["x", "order"], ["turned"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["one"]),
        helper.make_node("MatMul", ["turned", "v"], ["other"]),
        helper.make_node("Sub", ["one", "other"], ["y"]),
        helper.make_node("Mul", ["x", "last"], ["z"]),
    ]
    weights: dict[str, np.ndarray[Any, Any]] = {
        "w": weight,
        "v": weight[order],
        "order": order.astype(np.int64),
        "last": last,
    }
    graph = helper.make_graph(
        nodes,
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4096])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4096]),
        ],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
