"""Where a training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Progress:
    """Where a training stands; goes into checkpoints."""

    phase: int = 0
    step: int = 0
    """Steps done in the phase."""
    seconds: float = 0.0
    """Time spent in all phases, over all interruptions."""
    best_score: float = math.inf
    """Of the weights that are kept."""
    lowest_score: float = math.inf
    best_step: str = ""
    level_at_start: float = 0.0
    """Energy of the output against the teacher's before training, in dB."""
    setbacks: int = 0
    """How often the training went wrong and was taken back; each halves the learning rate."""
