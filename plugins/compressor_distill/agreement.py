"""How often a student decides as its teacher does, for classifiers."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric, Subject


class TopOneAgreement(Metric):
    """Share of validation samples for which the student's best class is the teacher's.

    Where a sample has scores at several positions, such as (1, classes, time), each position counts.
    """

    name: ClassVar[str] = "top-1-agreement"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    needs_data: ClassVar[bool] = True

    classes: int = Field(ge=2, description="size of the first output's axis 1, on which the classes' scores are")

    def measure(self, subject: Subject) -> float:
        """Return the share, 0 to 1; of scores that are equal the first is the best.

        Raises:
            MetricUnavailable: the output is none of so many classes.
        """
        pairs = zip(subject.outputs, subject.teacher_outputs, strict=True)
        agreed = [self._best(student) == self._best(teacher) for student, teacher in pairs]
        if not agreed:
            raise MetricUnavailable("there are no validation samples")
        return float(np.concatenate(agreed).mean())

    def _best(self, scores: FloatArray) -> NDArray[np.intp]:
        """Return the best class at each position of a flat output."""
        if not scores.size or scores.size % self.classes:
            raise MetricUnavailable(
                f"an output has {scores.size} values, which {self.classes} classes do not divide; set the size of its "
                "axis 1 in the metric's options: classes"
            )
        best: NDArray[np.intp] = scores.reshape(self.classes, -1).argmax(axis=0)
        return best
