"""The student's losses on whole validation samples, which training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.dataset import Sample
from compressor.graph_editing import feed
from compressor.loss import Loss
from compressor.teacher_loading import Teacher

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Validation:
    """Validation samples with the teacher's outputs, computed once."""

    def __init__(
        self, samples: Sequence[Sample], teacher: Teacher, losses: Sequence[Loss], device: torch.device
    ) -> None:
        self.compared = losses
        names = [spec.name for spec in teacher.inputs]
        self.inputs = [tuple(torch.from_numpy(sample.inputs[name]).to(device) for name in names) for sample in samples]
        self.targets: list[Tensor] = [feed(teacher.graph, values)[0] for values in self.inputs]

    def losses(self, student: GraphModule) -> dict[str, float]:
        """Return the mean of each weighted loss over the samples."""
        sums = dict.fromkeys((loss.name for loss in self.compared), 0.0)
        student.eval()
        for values, target in zip(self.inputs, self.targets, strict=True):
            output = feed(student, values)[0].reshape(target.shape)
            for loss in self.compared:
                sums[loss.name] += float(loss.weight_at(1.0) * loss.compute(output, target))
        student.train()
        return {name: value / max(1, len(self.inputs)) for name, value in sums.items()}
