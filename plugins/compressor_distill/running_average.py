"""The running average of a student's weights while it trains (Polyak and Juditsky, 1992)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.fx import GraphModule


class RunningAverage:
    """Keeps `decay` of itself at each step; with a decay of zero it is the student itself, and costs nothing."""

    def __init__(self, student: GraphModule, decay: float) -> None:
        self.decay = decay
        self.copy: GraphModule | None = copy.deepcopy(student) if decay else None
        self.steps = 0

    @torch.no_grad()
    def follow(self, student: GraphModule) -> None:
        """Take one step's weights in."""
        if self.copy is None:
            return
        self.steps += 1
        # Short trainings: the average of the first steps is not of the start.
        decay = min(self.decay, self.steps / (self.steps + 10))
        for own, new in zip(self.copy.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 1 - decay)

    def restart(self, student: GraphModule) -> None:
        """Forget everything but these weights."""
        if self.copy is not None:
            self.copy.load_state_dict(student.state_dict())
            self.steps = 0

    @contextmanager
    def shown(self, student: GraphModule) -> Iterator[GraphModule]:
        """Give what validation should judge: the average, or the student itself."""
        yield student if self.copy is None else self.copy

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        weights = {} if self.copy is None else {name: value.cpu() for name, value in self.copy.state_dict().items()}
        return {"steps": self.steps, "weights": weights}

    def restore(self, state: Mapping[str, object]) -> None:
        """Take up what a checkpoint kept."""
        weights, steps = state["weights"], state["steps"]
        if self.copy is not None and isinstance(weights, dict) and isinstance(steps, int):
            self.copy.load_state_dict(weights)
            self.steps = steps


def weights_on_cpu(student: GraphModule) -> dict[str, Tensor]:
    """Return a copy of a student's weights."""
    return {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
