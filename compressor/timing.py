"""How long ONNX files take in onnxruntime; in turn, so that the machine's drift meets all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from compressor.stored_model import StoredModel, onnx_session


@dataclass(frozen=True)
class Timings:
    """Seconds of each timed run of a model, and of the teacher's file just after it.

    While a budget is spent it is one run, made up of each node's fastest.
    """

    model: tuple[float, ...]
    teacher: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Median time of a run."""
        return median(self.model)

    @property
    def speedup(self) -> float:
        """How many times faster than the teacher: the median of the ratios, run by run."""
        return median(teacher / model for model, teacher in zip(self.model, self.teacher, strict=True))

    def as_if_teacher_took(self, seconds: float) -> Timings:
        """Return the timings on a machine on which the teacher always takes this long: clocks drift during a run."""
        model = tuple(seconds * own / teacher for own, teacher in zip(self.model, self.teacher, strict=True))
        return Timings(model, (seconds,) * len(model))


def time_in_turn(
    models: Sequence[tuple[bytes | StoredModel, Mapping[str, Any]]], threads: int, runs: int
) -> list[tuple[float, ...]]:
    """Return the seconds of each run of each model on its inputs, after one run that does not count."""
    sessions = [(onnx_session(content, threads), inputs) for content, inputs in models]
    seconds: list[list[float]] = [[] for _ in models]
    for run in range(runs + 1):
        for (session, inputs), found in zip(sessions, seconds, strict=True):
            begun = time.perf_counter()
            session.run(None, dict(inputs))
            if run:
                found.append(time.perf_counter() - begun)
    return [tuple(each) for each in seconds]
