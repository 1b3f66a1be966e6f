"""`max-abs-difference`: the worst that happened to any one value."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compressor.metric import Metric, Subject


class MaxAbsDifference(Metric):
    """Largest difference between one value of the student's output and the teacher's, on validation samples."""

    name: ClassVar[str] = "max-abs-difference"
    needs_data: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        pairs = zip(subject.outputs, subject.teacher_outputs, strict=True)
        return max(float(np.abs(student - teacher).max()) for student, teacher in pairs)
