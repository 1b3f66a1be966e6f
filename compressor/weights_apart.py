"""Large weights of an ONNX file as views into it: the graph is then small enough to be copied at every step.

Protocol buffers copy what they parse and never hold more than 2 GB in one piece, so the file's fields are walked here
(https://protobuf.dev/programming-guides/encoding) and only the rest is parsed. The numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
from numpy.typing import NDArray
from onnx import TensorProto

LEAST_BYTES = 1 << 16
"""Smaller weights stay in the file: they may be constants of the graph's arithmetic, which has to be seen."""

GRAPH = 7
"""Of a ModelProto."""

INITIALIZER = 5
"""Of a GraphProto."""

RAW_DATA = 9
"""Of a TensorProto."""

LENGTH_DELIMITED = 2

PLAIN = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
)
"""Types that numpy stores as ONNX does."""


Weights = Mapping[str, NDArray[Any]]
"""By name, what a model only refers to."""


class MalformedError(ValueError):
    """These bytes are no protocol buffer."""


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    start: int
    """Where the field begins, its tag included."""
    value: int
    """Where its value begins."""
    end: int


def weights_apart(content: bytes, least: int = LEAST_BYTES) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return a file without its large weights, which it only refers to, and these by name, views into `content`.

    What is not understood is left in place, for onnx's checker to tell of.
    """
    try:
        return _apart(memoryview(content), least)
    except (DecodeError, ValueError, OverflowError):
        return content, {}


def stands_apart(array: NDArray[Any]) -> bool:
    """Say whether a weight is held beside the graph."""
    return array.nbytes >= LEAST_BYTES and array.dtype.name in PLAIN


def refer(tensor: TensorProto, size: int) -> None:
    """Let a tensor only refer to its values, of `size` bytes, under its own name."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", tensor.name), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


def completed(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """Return a copy of a model with the weights inside that it refers to."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].tobytes()
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return made


def _apart(content: memoryview, least: int) -> tuple[bytes, dict[str, NDArray[Any]]]:
    graphs = [field for field in _fields(content, 0, len(content)) if field.number == GRAPH]
    if len(graphs) != 1:
        return bytes(content), {}
    (graph,) = graphs
    weights: dict[str, NDArray[Any]] = {}
    parts: list[bytes] = []
    done = graph.value
    for field in _fields(content, graph.value, graph.end):
        if field.number != INITIALIZER or field.end - field.value < least:
            continue
        found = _weight(content, field, least)
        if found is None or found[0].name in weights:
            continue
        tensor, values = found
        weights[tensor.name] = values
        refer(tensor, values.nbytes)
        parts += [bytes(content[done : field.start]), _written(INITIALIZER, tensor.SerializeToString())]
        done = field.end
    parts.append(bytes(content[done : graph.end]))
    outline = b"".join([content[: graph.start], _written(GRAPH, b"".join(parts)), content[graph.end :]])
    return outline, weights


def _weight(content: memoryview, field: _Field, least: int) -> tuple[TensorProto, NDArray[Any]] | None:
    """Return an initializer without its values, and its values; None if they are small or not plainly stored."""
    inner = list(_fields(content, field.value, field.end))
    raw = [each for each in inner if each.number == RAW_DATA]
    if len(raw) != 1 or raw[0].end - raw[0].value < least:
        return None
    rest = b"".join(content[each.start : each.end] for each in inner if each.number != RAW_DATA)
    tensor = TensorProto.FromString(rest)
    shape = tuple(tensor.dims)
    known = tensor.data_type in onnx.helper.get_all_tensor_dtypes() and tensor.data_type != TensorProto.UNDEFINED
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)) if known else np.dtype(object)
    size = raw[0].end - raw[0].value
    if kind.name not in PLAIN or not tensor.name or min(shape, default=1) < 0 or prod(shape) * kind.itemsize != size:
        return None
    return tensor, np.frombuffer(content, kind, prod(shape), raw[0].value).reshape(shape)


def _fields(content: memoryview, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, value = _varint(content, position, end)
        wire = tag & 7
        if wire == 0:
            _, stop = _varint(content, value, end)
        elif wire == LENGTH_DELIMITED:
            size, value = _varint(content, value, end)
            stop = value + size
        elif wire in (1, 5):
            stop = value + (8 if wire == 1 else 4)
        else:
            raise MalformedError(f"wire type {wire} at byte {position}")
        if stop > end:
            raise MalformedError(f"a field at byte {position} ends outside")
        yield _Field(tag >> 3, wire, position, value, stop)
        position = stop


def _varint(content: memoryview, position: int, end: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise MalformedError(f"a number at byte {position} does not end")


def _written(number: int, value: bytes) -> bytes:
    """Return a field of given bytes."""
    return _as_varint(number << 3 | LENGTH_DELIMITED) + _as_varint(len(value)) + value


def _as_varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
