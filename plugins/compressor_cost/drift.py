"""How far a student's output is from its teacher's, for models of any kind."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compressor.metric import Metric, Subject


class OutputDrift(Metric):
    """Root mean square of the output's difference from the teacher's, as a share of the teacher's own."""

    name: ClassVar[str] = "output-drift"
    needs_data: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        """Return it over all validation samples: 0 is equal, 1 is as far as silence."""
        pairs = list(zip(subject.outputs, subject.teacher_outputs, strict=True))
        lost = sum(float(np.square(student - teacher, dtype=np.float64).sum()) for student, teacher in pairs)
        whole = sum(float(np.square(teacher, dtype=np.float64).sum()) for _, teacher in pairs)
        return float(np.sqrt(lost / max(whole, 1e-300)))
