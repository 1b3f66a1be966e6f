"""A file in 8 bits but for some layers, and how far its output moves: onnxruntime's static quantisation."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
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
ONE_BY_ONE: Final = {"CalibStridedMinMax": 1}
"""For methods that count values: by itself onnxruntime stacks what samples make, which must then be equally long."""
KEEPS_RANGES: Final = "calibration_cache_path" in inspect.signature(quantize_static).parameters
"""Whether this onnxruntime can; else it calibrates anew each time."""
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
        self.inputs = inputs
        self.left = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return dict(sample) if (sample := next(self.left, None)) is not None else None

    def __len__(self) -> int:
        return len(self.inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.inputs[start_index:end_index])


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep onnxruntime's advice from the user's log, and what it prints from what is for programs to read."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
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
        self.wanted = self._outputs(content, inputs)
        self.operators = operators
        self.calibration = calibration
        self.per_channel = per_channel
        self.ranges = b""
        """What calibration found, as onnxruntime keeps it; empty before the first time, and where it keeps nothing."""
        self.drifts: dict[tuple[str, ...], float] = {}
        self.drifts_alone: dict[str, float] = {}

    def drift(self, layers: Sequence[str]) -> float:
        """Return the root mean square by which the output moves with these layers in 8 bits, as a share of its own."""
        key = tuple(layers)
        if key not in self.drifts:
            self.drifts[key] = self._drift(self.file(key))
        return self.drifts[key]

    def drift_alone(self, layer: str) -> float:
        """Return how far the output moves with one layer in 8 bits, on the first sample: enough to compare layers."""
        if layer not in self.drifts_alone:
            self.drifts_alone[layer] = self._drift(self.file([layer]), samples=1)
        return self.drifts_alone[layer]

    def file(self, layers: Sequence[str]) -> bytes:
        """Return the file with these layers in 8 bits."""
        if not layers:
            return self.content
        with tempfile.TemporaryDirectory() as folder:
            source, target, ranges = (Path(folder) / name for name in ("float.onnx", "int8.onnx", "ranges.json"))
            source.write_bytes(self.content)
            if self.ranges:
                ranges.write_bytes(self.ranges)
            with _quietly():
                quantize_static(
                    source,
                    target,
                    _Samples(self._loudest_first()),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(self.operators),
                    nodes_to_quantize=list(layers),
                    per_channel=self.per_channel,
                    # Unsigned both: with signed weights, sums saturate on processors that have no VNNI.
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QUInt8,
                    calibrate_method=METHODS[self.calibration],
                    extra_options={} if self.calibration == "minmax" else ONE_BY_ONE,
                    **({"calibration_cache_path": ranges} if KEEPS_RANGES else {}),
                )
            if ranges.is_file():
                self.ranges = ranges.read_bytes()
            return target.read_bytes()

    def _loudest_first(self) -> list[Inputs]:
        """Return the samples by what comes out of them: what is louder than the first costs bins, without end."""
        order = sorted(range(len(self.inputs)), key=lambda at: -float(np.abs(self.wanted[at]).max(initial=0.0)))
        return [self.inputs[at] for at in order]

    def _outputs(self, content: bytes, inputs: Sequence[Inputs]) -> list[NDArray[np.float64]]:
        session = onnx_session(content)
        return [session.run(None, dict(sample))[0].astype(np.float64) for sample in inputs]

    def _drift(self, content: bytes, samples: int | None = None) -> float:
        pairs = list(zip(self._outputs(content, self.inputs[:samples]), self.wanted[:samples], strict=True))
        moved = sum(float(np.square(found - wanted).sum()) for found, wanted in pairs)
        whole = sum(float(np.square(wanted).sum()) for _, wanted in pairs)
        drift = float(np.sqrt(moved / max(whole, 1e-300)))
        return drift if math.isfinite(drift) else math.inf
