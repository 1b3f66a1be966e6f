"""A training of a second, and how its results are compared."""

from __future__ import annotations

import math
from typing import Any

import torch
from compressor_distill.distillation import Distillation
from torch import Tensor

from compressor.progress import SilentReporter, SilentTask
from compressor.strategy import StageOutcome
from compressor.testing.tiny_runs import OutputL1

SHORT: dict[str, Any] = {
    "losses": [OutputL1()],
    "block_wise": {"steps": 6, "learning_rate": 3e-3},
    "end_to_end": {"steps": 6, "learning_rate": 2e-3, "feature_weight": 0.0},
    "batch_size": 2,
    "segment": 12,
    "warmup_steps": 2,
    "validate_every": 2,
    "checkpoint_seconds": 0,
    "precision": "fp32",
}


def distillation(**changes: object) -> Distillation:
    return Distillation.model_validate({**SHORT, **changes})


class Interrupting(SilentReporter):
    """Presses Ctrl-C when a number of training steps are done."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        reporter = self

        class Task(SilentTask):
            def advance(self, steps: int = 1, status: str = "") -> None:
                if label in ("block-wise", "end-to-end", "adversarial"):
                    reporter.left -= steps
                    if status and reporter.left <= 0:
                        raise KeyboardInterrupt

        return Task()


def weights_of(outcome: StageOutcome) -> dict[str, Tensor]:
    return outcome.student.state_dict()


def assert_equal_weights(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
