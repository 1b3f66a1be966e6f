"""Converters that plugins add to onnx2torch's, for as long as one model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto
from onnx2torch.node_converters import registry
from onnx2torch.onnx_tensor import OnnxTensor
from torch import Tensor

from compressor.hookspecs import Converter, Converters
from compressor.weights_apart import Weights

ORIGINAL: Converters = MappingProxyType(
    {
        (description.operation_type, description.version): converter
        for description, converter in registry._CONVERTER_REGISTRY.items()
        if not description.domain
    }
)
"""onnx2torch's own, whatever plugins offer; a converter may hand a node on to one of these."""


@contextmanager
def additional_converters(converters: Converters) -> Iterator[None]:
    """Offer converters to onnx2torch inside the block; a plugin's goes before onnx2torch's own.

    onnx2torch keeps one registry for the process, so what was there is put back afterwards.
    """
    known: dict[registry.OperationDescription, Converter] = registry._CONVERTER_REGISTRY
    before = dict(known)
    for (operator, version), converter in converters.items():
        known[registry.OperationDescription("", operator, version)] = converter
    try:
        yield
    finally:
        known.clear()
        known.update(before)


@contextmanager
def values_from(weights: Weights) -> Iterator[None]:
    """Let onnx2torch read the values of tensors that a model only refers to, by name, inside the block.

    torch tensors made inside know their ONNX name, `onnx_name`.
    """
    stored, as_torch = OnnxTensor.to_numpy, OnnxTensor.to_torch

    def to_numpy(tensor: OnnxTensor) -> NDArray[Any]:
        apart = tensor.proto.data_location == TensorProto.EXTERNAL
        found: NDArray[Any] = weights[tensor.name].copy() if apart else stored(tensor)
        return found

    def to_torch(tensor: OnnxTensor) -> Tensor:
        found: Tensor = as_torch(tensor)
        found.onnx_name = tensor.name  # type: ignore[attr-defined]
        return found

    OnnxTensor.to_numpy, OnnxTensor.to_torch = to_numpy, to_torch
    try:
        yield
    finally:
        OnnxTensor.to_numpy, OnnxTensor.to_torch = stored, as_torch
