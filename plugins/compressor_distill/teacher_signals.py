"""What the teacher puts out, and computes on the way, for training samples; and random segments of it.

The teacher runs once over each sample, when a segment of it is first asked for: training starts at once, and a short
one pays for what it sees only. Tensors are kept in half precision with channels last, so that a segment is one block
of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.dataset import Sample
from compressor.errors import DataError
from compressor.graph_editing import output_specs
from compressor.segments import can_be_cut, cut, length_of, stretch
from compressor.tensor_spec import TensorSpec
from compressor_distill.feature_points import PointRunner


@dataclass(frozen=True)
class Batch:
    """Segments of several samples: inputs and output in the teacher's shapes, features (batch, channels, 1, time)."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Signals:
    inputs: tuple[Tensor, ...]
    output: Tensor
    features: Mapping[str, Tensor]
    """By point, (time, channels)."""
    size: int


class TeacherSignals:
    """The teacher's tensors for all training samples, and batches of segments cut from them.

    Raises:
        DataError: no sample is long enough for a segment.
    """

    def __init__(
        self,
        teacher: GraphModule,
        specs: tuple[TensorSpec, ...],
        points: tuple[str, ...],
        device: torch.device,
        samples: Sequence[Sample],
        segment: int,
    ) -> None:
        self.specs = specs
        self.made = output_specs(teacher)[0]
        self.points = points
        self.device = device
        self.segment = segment
        self.runner = PointRunner(teacher, points)
        inputs = [tuple(torch.from_numpy(sample.inputs[spec.name]) for spec in specs) for sample in samples]
        self.inputs = [each for each in inputs if not self.segmented or self._size(each) >= segment]
        self.recorded: dict[int, _Signals] = {}
        if not self.inputs:
            raise DataError(
                f"all {len(samples)} training samples are shorter than one segment of {segment}; "
                "use longer recordings or a smaller segment"
            )

    @property
    def segmented(self) -> bool:
        """Say whether segments can be cut from samples: inputs have a time axis, and the output has it last."""
        return self.made.time_axis == len(self.made.shape) - 1 and can_be_cut(self.specs)

    def _size(self, inputs: tuple[Tensor, ...]) -> int:
        """Return the length of a sample: that of the input of the lowest rate."""
        return length_of(inputs, self.specs) if can_be_cut(self.specs) else 1

    def _signals(self, index: int) -> _Signals:
        if index not in self.recorded:
            self.recorded[index] = self._run(self.inputs[index])
        return self.recorded[index]

    def _run(self, inputs: tuple[Tensor, ...]) -> _Signals:
        with torch.no_grad():
            output = self.runner.forward(tuple(value.to(self.device) for value in inputs))
        features = {
            name: value.flatten(1, -2)[0].to(torch.float16).T.contiguous().cpu()
            for name, value in self.runner.found.items()
        }
        return _Signals(inputs, output[0].cpu(), features, self._size(inputs))

    @property
    def megabytes(self) -> float:
        """Memory taken by the features recorded so far."""
        return sum(value.nbytes for each in self.recorded.values() for value in each.features.values()) / 1e6

    def batch(self, seed: tuple[int, ...], count: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Cut `count` random segments; long samples are taken more often, so that every moment is as likely."""
        generator = np.random.default_rng(list(seed))
        sizes = np.array([self._size(inputs) for inputs in self.inputs], float)
        chosen = generator.choice(len(sizes), count, p=sizes / sizes.sum())
        cuts = [self._cut(self._signals(int(index)), generator) for index in chosen][part[0] :: part[1]]
        inputs = tuple(torch.cat(parts).to(self.device) for parts in zip(*(cut.inputs for cut in cuts), strict=True))
        output = torch.stack([cut.output for cut in cuts]).to(self.device)
        features = {
            name: torch.stack([cut.features[name] for cut in cuts]).to(self.device).float().unsqueeze(1)
            for name in self.points
        }
        # (batch, 1, time, channels) -> (batch, channels, 1, time) without moving memory
        return Batch(inputs, output, {name: value.permute(0, 3, 1, 2) for name, value in features.items()})

    def _cut(self, signals: _Signals, generator: np.random.Generator) -> _Signals:
        if not self.segmented:
            return signals
        segment = self.segment
        start = int(generator.integers(0, signals.size - segment + 1))

        return _Signals(
            cut(signals.inputs, self.specs, start, segment),
            stretch(signals.output, -1, signals.size, start, segment),
            {name: stretch(value, 0, signals.size, start, segment) for name, value in signals.features.items()},
            segment,
        )
