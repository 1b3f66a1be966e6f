"""How long recorded signals take on this machine, and those computed on the fly."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from compressor.segments import cut as cut_inputs
from compressor_distill.on_the_fly import CONTEXTS, TOLERANCE, OnTheFly, fitting_context
from compressor_distill.recorded_signals import RecordedOnDisk
from compressor_distill.signal_choice import Amount, Costs, seconds_on_the_fly, seconds_recorded
from compressor_distill.training_inputs import Cut


class Timing:
    """Tries both ways out on the longest sample."""

    def __init__(self, disk: RecordedOnDisk, count: int, *, features: bool) -> None:
        self.disk = disk
        self.inputs = disk.inputs
        self.count = count
        self.features = features
        self.longest = int(self.inputs.sizes.argmax())
        self.given = self.inputs[self.longest]
        self.fit = fitting_context(disk.run, self.inputs, self._part(), features=features)
        self.on_the_fly = OnTheFly(disk.run, self.inputs, self.fit.context)

    def _part(self) -> tuple[Tensor, ...]:
        """Return as much of the sample as two segments with the widest context take."""
        if self.inputs.segment is None:
            return self.given
        return cut_inputs(self.given, self.inputs.specs, 0, 2 * (self.inputs.segment + CONTEXTS[-1]))

    def seconds(self, segments: int, bytes_per_step: float) -> tuple[float, float]:
        """Return the seconds that so many segments take, recorded and on the fly.

        On the fly takes for ever where no context makes segments come out as from whole samples.
        """
        amount = Amount(segments, self.inputs.sizes, bytes_per_step, self.disk.cache.most_bytes)
        costs = self._costs()
        on_the_fly = seconds_on_the_fly(amount, costs) if self.fit.equal else float("inf")
        return seconds_recorded(amount, costs), on_the_fly

    def _costs(self) -> Costs:
        mean = float(self.inputs.sizes.mean() / self.inputs.sizes[self.longest])
        length = self.inputs.length(self.given)
        last = self.inputs.fitting(length, length)
        starts = [last * number // self.count for number in range(self.count)]
        cuts = [Cut(self.longest, start) for start in starts]
        lazy = self.inputs.lazy
        making = self._timed(lambda: self.inputs[self.longest]) / (1 + lazy.workers) if lazy is not None else 0.0
        # Long, and warmed up by what was done on a part of it.
        recording = self._once(lambda: self.disk.record(self.longest, features=self.features)) - making
        reading = self._timed(lambda: self.disk.pieces(cuts, features=self.features)) / self.count
        given = [self.given] * self.count
        running = self._timed(lambda: self.on_the_fly.of(given, starts, features=self.features)) / self.count
        return Costs(making * mean, max(0.0, recording) * mean, reading, running)

    def _timed(self, work: Callable[[], object]) -> float:
        """Return the seconds of the second time: the first has to warm up."""
        work()
        return self._once(work)

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        begun = time.monotonic()
        work()
        self._wait()
        return time.monotonic() - begun

    def _wait(self) -> None:
        if self.disk.run.device.type == "cuda":
            torch.cuda.synchronize(self.disk.run.device)

    @property
    def says_context(self) -> str:
        """In words, what is around segments, and whether that makes them those of whole samples."""
        if self.fit.equal:
            return f"with {self.fit.context} steps on either side"
        return (
            f"with {self.fit.context} steps on either side; what it makes of them differs from what it makes of whole "
            f"samples by up to {self.fit.difference:.2g} of the largest value ({TOLERANCE:g} would be rounding)"
        )

    def says_choice(self, recorded: float, on_the_fly: float) -> str:
        """In words, what was chosen and why."""
        if not self.fit.equal:
            return (
                f"the teacher's signals are recorded in {self.disk.cache.folder}: on segments it does not compute what "
                f"it computes on whole samples (off by {self.fit.difference:.2g} of the largest value)"
            )
        if recorded <= on_the_fly:
            return (
                f"the teacher's signals are recorded in {self.disk.cache.folder}: about {_minutes(recorded)} in all, "
                f"{_minutes(on_the_fly)} on each segment anew"
            )
        return (
            f"the teacher runs on each segment, {self.says_context}: about {_minutes(on_the_fly)} in all, "
            f"{_minutes(recorded)} if its signals were recorded"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
