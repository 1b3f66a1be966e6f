"""What the teacher puts out, and computes on the way, for every training sample; and random segments of it.

The teacher runs once over each sample. Its tensors are kept in half precision with channels last, so that a segment
is one block of memory.
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
from compressor.progress import Reporter
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
    """The teacher's tensors for all training samples, and batches of segments cut from them."""

    def __init__(
        self,
        teacher: GraphModule,
        specs: tuple[TensorSpec, ...],
        points: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self.teacher = teacher
        self.specs = specs
        self.points = points
        self.device = device
        self.signals: list[_Signals] = []

    @property
    def segmented(self) -> bool:
        """Say whether samples have a length that segments can be cut from: exactly their last axis varies."""
        return all(set(spec.dynamic_axes) - {0} == {len(spec.shape) - 1} for spec in self.specs)

    def record(self, samples: Sequence[Sample], segment: int, reporter: Reporter) -> None:
        """Run the teacher over all samples that are long enough for a segment.

        Raises:
            DataError: no sample is.
        """
        runner = PointRunner(self.teacher, self.points)
        with reporter.task("teacher's outputs and features", len(samples)) as task:
            for sample in samples:
                inputs = tuple(torch.from_numpy(sample.inputs[spec.name]) for spec in self.specs)
                if not self.segmented or inputs[0].shape[-1] >= segment:
                    self.signals.append(self._run(runner, inputs))
                task.advance()
        if not self.signals:
            raise DataError(
                f"all {len(samples)} training samples are shorter than one segment of {segment}; "
                "use longer recordings or a smaller segment"
            )

    def _run(self, runner: PointRunner, inputs: tuple[Tensor, ...]) -> _Signals:
        with torch.no_grad():
            output = runner.forward(tuple(value.to(self.device) for value in inputs))
        features = {
            name: value.flatten(1, -2)[0].to(torch.float16).T.contiguous().cpu() for name, value in runner.found.items()
        }
        return _Signals(inputs, output[0].cpu(), features, inputs[0].shape[-1])

    @property
    def megabytes(self) -> float:
        """Memory taken by the recorded features."""
        return sum(value.nbytes for signals in self.signals for value in signals.features.values()) / 1e6

    def batch(self, generator: np.random.Generator, count: int, segment: int) -> Batch:
        """Cut `count` random segments; long samples are taken more often, so that every moment is as likely."""
        sizes = np.array([signals.size for signals in self.signals], float)
        chosen = generator.choice(len(self.signals), count, p=sizes / sizes.sum())
        cuts = [self._cut(self.signals[index], generator, segment) for index in chosen]
        inputs = tuple(torch.cat(parts).to(self.device) for parts in zip(*(cut.inputs for cut in cuts), strict=True))
        output = torch.stack([cut.output for cut in cuts]).to(self.device)
        features = {
            name: torch.stack([cut.features[name] for cut in cuts]).to(self.device).float().unsqueeze(1)
            for name in self.points
        }
        # (batch, 1, time, channels) -> (batch, channels, 1, time) without moving memory
        return Batch(inputs, output, {name: value.permute(0, 3, 1, 2) for name, value in features.items()})

    def _cut(self, signals: _Signals, generator: np.random.Generator, segment: int) -> _Signals:
        if not self.segmented:
            return signals
        start = int(generator.integers(0, signals.size - segment + 1))

        def part(length: int) -> slice:
            rate = length // signals.size
            return slice(start * rate, (start + segment) * rate)

        return _Signals(
            tuple(value[..., start : start + segment] for value in signals.inputs),
            signals.output[..., part(signals.output.shape[-1])],
            {name: value[part(len(value))] for name, value in signals.features.items()},
            segment,
        )
