"""Running the teacher on inputs, and what it then has: the output, and what it computes on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.segments import cut, stretch
from compressor.tensor_spec import TensorSpec
from compressor_distill.feature_points import PointRunner


@dataclass(frozen=True)
class Batch:
    """Segments of several samples: inputs and output in the teacher's shapes, features (batch, channels, …, time).

    Features of one-dimensional models are (batch, channels, 1, time).
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    features: Mapping[str, Tensor]
    """By point; none where they were not asked for."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in one order for all batches of a kind."""
        return (*self.inputs, self.output, *(self.features[name] for name in sorted(self.features)))

    def copied(self) -> Batch:
        """Return the same in memory of its own."""
        features = {name: value.clone() for name, value in self.features.items()}
        return Batch(tuple(value.clone() for value in self.inputs), self.output.clone(), features)


@dataclass(frozen=True)
class Signals:
    """Of a sample or segment: inputs with their batch axis of one, output without it, features (time, …, channels)."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    features: Mapping[str, Tensor]
    size: int
    """Steps."""

    def segment(self, specs: Sequence[TensorSpec], start: int, size: int) -> Signals:
        """Return `size` steps of everything from `start`."""
        return Signals(
            cut(self.inputs, specs, start, size),
            stretch(self.output, -1, self.size, start, size),
            {name: stretch(value, 0, self.size, start, size) for name, value in self.features.items()},
            size,
        )

    @property
    def nbytes(self) -> int:
        """Memory of output and features."""
        return sum(value.nbytes for value in (self.output, *self.features.values()))


class TeacherRun:
    """A teacher on its device, and the points at which its features are looked at."""

    def __init__(self, graph: GraphModule, points: tuple[str, ...], device: torch.device) -> None:
        self.device = device
        self.points = points
        self._runners = {features: PointRunner(graph, points if features else ()) for features in (True, False)}

    def run(self, inputs: tuple[Tensor, ...], *, features: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the output, and features (batch, time, …, channels) if asked for, on the device."""
        runner = self._runners[features]
        with torch.no_grad():
            output = runner.forward(tuple(value.to(self.device) for value in inputs))
        found = {name: _with_time(value).transpose(1, -1) for name, value in runner.found.items()}
        runner.found = {}
        return output, found

    def whole(self, inputs: tuple[Tensor, ...], size: int, *, features: bool) -> Signals:
        """Return the signals of a sample, in memory: features in half precision, with a segment one block of memory."""
        output, found = self.run(inputs, features=features)
        kept = {name: _halved(value[0]).contiguous().cpu() for name, value in found.items()}
        return Signals(inputs, output[0].cpu(), kept, size)


def _with_time(feature: Tensor) -> Tensor:
    """Return a feature with an axis for time, or for width: one of (batch, channels) gets one of size one."""
    return feature if feature.dim() > 2 else feature.unsqueeze(-1)


def _halved(feature: Tensor) -> Tensor:
    """Return a feature in half precision, or as it is where that cannot hold it."""
    half = feature.to(torch.float16)
    return half if bool(half.isfinite().all()) else feature


def stacked(pieces: Sequence[Signals], device: torch.device) -> Batch:
    """Return segments of equal size as a batch on a device."""
    inputs = tuple(torch.cat(parts).to(device) for parts in zip(*(piece.inputs for piece in pieces), strict=True))
    output = torch.stack([piece.output for piece in pieces]).to(device)
    features = {
        name: torch.stack([piece.features[name] for piece in pieces]).to(device).float() for name in pieces[0].features
    }
    return Batch(inputs, output, {name: _channels_first(value) for name, value in features.items()})


def _channels_first(feature: Tensor) -> Tensor:
    """Turn (batch, time, …, channels) into (batch, channels, …, time), with four axes at least, moving no memory."""
    turned = feature.transpose(1, -1)
    return turned if turned.dim() > 3 else turned.unsqueeze(2)
