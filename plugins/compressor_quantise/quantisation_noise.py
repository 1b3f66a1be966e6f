"""Which layers quantisation hurts: the noise of 8 bits in what they read and in their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.stored_model import onnx_session

LEVELS = 255


def noise_by_layer(
    content: bytes, layers: Sequence[str], inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """Return, for each layer, the energy of quantisation noise as a share of the signal's: activations' plus weights'.

    A range is cut into 255 steps; rounding to them adds a twelfth of a step's square (Widrow, 1956).
    """
    model = onnx.load_model_from_string(content)
    nodes = {node.name: node for node in model.graph.node}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    read = _activation_noise(model, sorted({nodes[layer].input[0] for layer in layers}), inputs)
    return {layer: read[nodes[layer].input[0]] + weight_noise(weights[nodes[layer].input[1]]) for layer in layers}


def weight_noise(weight: NDArray[Any]) -> float:
    """Return the noise of a weight (output channels, …) that has a range for each output channel."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    low, high = np.minimum(rows.min(1, keepdims=True), 0.0), np.maximum(rows.max(1, keepdims=True), 0.0)
    step = np.maximum((high - low) / LEVELS, 1e-30)
    moved = np.round(rows / step) * step - rows
    return float(np.square(moved).sum() / max(np.square(rows).sum(), 1e-300))


def _activation_noise(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = []
    for tensor in tensors:
        square = f"{tensor}/square"
        watched.graph.node.append(helper.make_node("Mul", [tensor, tensor], [square]))
        for operator, source in (("ReduceMin", tensor), ("ReduceMax", tensor), ("ReduceMean", square)):
            outputs.append(f"{tensor}/{operator}")
            watched.graph.node.append(helper.make_node(operator, [source], [outputs[-1]], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(outputs[-1], TensorProto.FLOAT, []))
    session = onnx_session(watched.SerializeToString())
    found = np.array([session.run(outputs, dict(sample)) for sample in inputs], np.float64)
    by_tensor = found.reshape(len(inputs), len(tensors), 3)
    low, high = np.minimum(by_tensor[..., 0].min(0), 0.0), np.maximum(by_tensor[..., 1].max(0), 0.0)
    noise = np.square((high - low) / LEVELS) / 12 / np.maximum(by_tensor[..., 2].mean(0), 1e-300)
    return dict(zip(tensors, noise.tolist(), strict=True))
