"""The student's losses on whole validation samples, which training never sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.dataset import Sample
from compressor.graph_editing import feed
from compressor.loss import Loss
from compressor.processes import Company
from compressor.tensor_spec import TensorSpec
from compressor_distill.objective import to_training

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Validated:
    """What a validation found."""

    losses: Mapping[str, float]
    """The mean of each weighted loss over the samples."""
    level_db: float
    """The energy of the student's output against its teacher's."""

    @property
    def score(self) -> float:
        """The sum of the losses: the lower, the better."""
        return sum(self.losses.values())


class Validation:
    """Validation samples with the teacher's outputs, computed once; each process takes its share of them."""

    def __init__(
        self,
        samples: Sequence[Sample],
        teacher: GraphModule,
        inputs: Sequence[TensorSpec],
        losses: Sequence[Loss],
        company: Company,
    ) -> None:
        self.compared = losses
        self.company = company
        self.count = len(samples)
        own = samples[company.index :: company.of]
        self.inputs = [
            tuple(torch.from_numpy(sample.inputs[spec.name]).to(company.device) for spec in inputs) for sample in own
        ]
        self.targets: list[Tensor] = [feed(teacher, values)[0] for values in self.inputs]

    def of(self, student: GraphModule) -> Validated:
        """Validate a student, in evaluation mode while it lasts."""
        sums = torch.zeros(len(self.compared) + 2, dtype=torch.float32, device=self.company.device)
        student.eval()
        for values, target in zip(self.inputs, self.targets, strict=True):
            output = feed(student, values)[0].reshape(target.shape)
            losses = [loss.weight_at(1.0) * loss.compute(output, target) for loss in self.compared]
            energies = [signal.float().square().sum() for signal in (output, target)]
            sums += torch.stack([*losses, *energies])
        to_training(student)
        self.company.average([sums])
        *totals, own, wanted = (value * self.company.of for value in sums.tolist())
        names = [loss.name for loss in self.compared]
        return Validated(
            {name: value / max(1, self.count) for name, value in zip(names, totals, strict=True)},
            _decibels(own, wanted),
        )

    def first(self, student: GraphModule) -> tuple[Tensor, Tensor] | None:
        """Return the output for the first sample, and the teacher's, each flat on the CPU; None without samples."""
        if not self.inputs:
            return None
        student.eval()
        output = feed(student, self.inputs[0])[0]
        to_training(student)
        return output.reshape(-1).cpu(), self.targets[0].reshape(-1).cpu()


def _decibels(energy: float, reference: float) -> float:
    if reference <= 0:
        return 0.0
    return 10 * math.log10(max(energy, 1e-30) / reference) if math.isfinite(energy) else math.inf
