"""A file in 8 bits but for some layers, and how far its output moves: onnxruntime's static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from compressor.shared_draws import RANDOM_OPERATORS
from compressor.stored_model import onnx_session

METHODS: Final[Mapping[str, CalibrationMethod]] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
Inputs = Mapping[str, NDArray[Any]]


def quantisable(content: bytes, operators: Sequence[str]) -> list[str]:
    """Return the names of a file's nodes whose second input is a constant weight."""
    graph = onnx.load_model_from_string(content).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in operators and node.name and node.input[1] in weights]


def draws_random_numbers(content: bytes) -> str:
    """Return an operator of the file that draws random numbers, or nothing."""
    operators = {node.op_type for node in onnx.load_model_from_string(content).graph.node}
    return next(iter(sorted(operators & set(RANDOM_OPERATORS))), "")


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not annotated
    """Samples one after the other, as onnxruntime asks for them."""

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self.left = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return dict(sample) if (sample := next(self.left, None)) is not None else None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep onnxruntime's advice from the user's log: files of ours are slim already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Quantiser:
    """Quantises one file again and again, each time with other layers."""

    def __init__(
        self, content: bytes, inputs: Sequence[Inputs], operators: Sequence[str], calibration: str, *, per_channel: bool
    ) -> None:
        self.content = content
        self.inputs = inputs
        self.operators = operators
        self.calibration = calibration
        self.per_channel = per_channel
        self.wanted = self._outputs(content)
        self.tried: dict[tuple[str, ...], tuple[bytes, float]] = {}

    def file(self, layers: Sequence[str]) -> bytes:
        """Return the file with these layers in 8 bits."""
        return self._tried(layers)[0]

    def drift(self, layers: Sequence[str]) -> float:
        """Return the root mean square by which the output moves then, as a share of its own."""
        return self._tried(layers)[1]

    def _tried(self, layers: Sequence[str]) -> tuple[bytes, float]:
        key = tuple(layers)
        if key not in self.tried:
            content = self._quantised(key)
            self.tried[key] = content, self._drift(content)
        return self.tried[key]

    def _quantised(self, layers: Sequence[str]) -> bytes:
        if not layers:
            return self.content
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(self.content)
            with _quietly():
                quantize_static(
                    source,
                    target,
                    _Samples(self.inputs),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(self.operators),
                    nodes_to_quantize=list(layers),
                    per_channel=self.per_channel,
                    # Unsigned both: with signed weights, sums saturate on processors that have no VNNI.
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QUInt8,
                    calibrate_method=METHODS[self.calibration],
                )
            return target.read_bytes()

    def _outputs(self, content: bytes) -> list[NDArray[np.float64]]:
        session = onnx_session(content)
        return [session.run(None, dict(sample))[0].astype(np.float64) for sample in self.inputs]

    def _drift(self, content: bytes) -> float:
        pairs = list(zip(self._outputs(content), self.wanted, strict=True))
        moved = sum(float(np.square(found - wanted).sum()) for found, wanted in pairs)
        whole = sum(float(np.square(wanted).sum()) for _, wanted in pairs)
        return float(np.sqrt(moved / max(whole, 1e-300)))
