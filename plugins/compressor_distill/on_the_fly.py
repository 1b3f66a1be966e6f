"""Signals computed when they are asked for, on each segment with some of its sample around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.segments import cut as cut_inputs
from compressor_distill.teacher_run import Signals, TeacherRun
from compressor_distill.training_inputs import Cut, TrainingInputs

CONTEXTS = (2, 4, 8, 16, 32, 64)
"""Steps on either side that are tried."""

TOLERANCE = 2e-3
"""Difference from the signals of the whole sample, as a share of the largest: that of half precision, about."""


@dataclass(frozen=True)
class _Window:
    """A segment with what lies around it, moved into its sample where it would begin before or end after it."""

    inputs: tuple[Tensor, ...]
    size: int
    start: int
    """Of the segment, in the window."""


class OnTheFly:
    """Runs the teacher on a batch's segments, those of one length together."""

    def __init__(self, run: TeacherRun, inputs: TrainingInputs, context: int) -> None:
        self.run = run
        self.inputs = inputs
        self.context = context

    def lacks(self, cut: Cut, *, features: bool) -> bool:
        """Say that the teacher has to run for every segment."""
        return True

    def pieces(self, cuts: Sequence[Cut], *, features: bool) -> list[Signals]:
        """Return the signals of segments."""
        return self.of([self.inputs[cut.sample] for cut in cuts], [cut.start for cut in cuts], features=features)

    def of(self, samples: Sequence[tuple[Tensor, ...]], starts: Sequence[int], *, features: bool) -> list[Signals]:
        """Return the signals of one segment of each sample's inputs."""
        windows = [self._window(given, start) for given, start in zip(samples, starts, strict=True)]
        alike: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
        for number, window in enumerate(windows):
            alike[tuple(value.shape for value in window.inputs)].append(number)
        made: dict[int, Signals] = {}
        for numbers in alike.values():
            together = [windows[number] for number in numbers]
            made.update(zip(numbers, self._signals(together, features=features), strict=True))
        return [made[number] for number in range(len(windows))]

    def _window(self, given: tuple[Tensor, ...], start: int) -> _Window:
        segment = self.inputs.segment
        length = self.inputs.length(given)
        if segment is None:
            return _Window(given, length, 0)
        start = self.inputs.fitting(start, length)
        size = min(length, segment + 2 * self.context)
        begin = min(max(0, start - self.context), length - size)
        return _Window(cut_inputs(given, self.inputs.specs, begin, size), size, start - begin)

    def _signals(self, windows: Sequence[_Window], *, features: bool) -> list[Signals]:
        together = tuple(torch.cat(parts) for parts in zip(*(each.inputs for each in windows), strict=True))
        output, found = self.run.run(together, features=features)
        segment = self.inputs.segment
        signals = [
            Signals(window.inputs, output[at], {name: value[at] for name, value in found.items()}, window.size)
            for at, window in enumerate(windows)
        ]
        if segment is None:
            return signals
        return [
            signal.segment(self.inputs.specs, window.start, segment)
            for signal, window in zip(signals, windows, strict=True)
        ]


@dataclass(frozen=True)
class Fit:
    """How near segments with a context come to the same segments of whole samples."""

    context: int
    difference: float
    """Largest, as a share of the largest value."""

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE


def fitting_context(run: TeacherRun, inputs: TrainingInputs, given: tuple[Tensor, ...], *, features: bool) -> Fit:
    """Return the smallest context with which segments of one sample come out as from the whole, or the best of all.

    This is found by trying: it is the teacher's receptive field as far as it matters, and where there is none, such as
    with a sine source whose phase depends on all that was before, no context fits.
    """
    length, segment = inputs.length(given), inputs.segment
    if segment is None:
        return Fit(0, 0.0)
    whole = run.whole(given, length, features=features)
    last = inputs.fitting(length, length)
    starts = [0, last // 2, last]
    wanted = [whole.segment(inputs.specs, start, segment) for start in starts]
    fits = []
    for context in CONTEXTS:
        pieces = OnTheFly(run, inputs, context).of([given] * len(starts), starts, features=features)
        worst = max(_difference(piece, one, whole) for piece, one in zip(pieces, wanted, strict=True))
        fits.append(Fit(context, worst))
        if fits[-1].equal:
            return fits[-1]
    return min(fits, key=lambda fit: fit.difference)


def _difference(found: Signals, wanted: Signals, whole: Signals) -> float:
    """Return the largest difference of output and features, each as a share of its largest value."""
    pairs = [(found.output, wanted.output, whole.output)]
    pairs += [(found.features[name], wanted.features[name], whole.features[name]) for name in whole.features]
    return max(
        float((one.cpu().float() - other.float()).abs().max() / scale.float().abs().max().clamp_min(1e-8))
        for one, other, scale in pairs
    )
