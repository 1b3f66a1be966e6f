"""Which weights a training keeps."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule

from compressor_distill.phase_plan import ADVERSARIAL
from compressor_distill.running_average import weights_on_cpu
from compressor_distill.training_progress import Progress


class BestWeights:
    """The weights of the best validation; of an adversarial phase those of the last that was sound.

    What discriminators teach, spectral losses count as an error: they cannot say which of its weights are best.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def consider(self, student: GraphModule, score: float, where: str, progress: Progress, *, moved: bool) -> None:
        """Keep a sound student's weights if they are the ones to keep by now.

        Args:
            student: as validated.
            score: the sum of its losses.
            where: the phase and the step.
            progress: is told.
            moved: whether the student has learnt in this phase.
        """
        if moved if where.startswith(ADVERSARIAL) else score < progress.best_score:
            self.weights = weights_on_cpu(student)
            progress.best_score, progress.best_step = score, where
            progress.lowest_score = min(progress.lowest_score, score)

    def told(self, progress: Progress, *, last: bool) -> str:
        """Return what the report says of them; `last`: they are not what the student gets."""
        why = "the last that were sound" if progress.best_step.startswith(ADVERSARIAL) else "best in validation"
        kept = "; the last ones are kept" if last else " and are kept"
        return f"the weights of {progress.best_step} were {why}{kept}"
