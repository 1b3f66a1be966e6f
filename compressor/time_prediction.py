"""How much time candidates save in onnxruntime on this machine: measured, for time does not follow arithmetic.

A sum of two separable convolutions has a third of the multiplications of a dense one and may take as long. So the
student is rehearsed with the same kind of change in all layers at once, as often as a layer has settings, and
onnxruntime's profile says what became of each layer. A candidate that changes several layers together, such as a width
that they share, is taken to save time in proportion to what it saves of those layers' multiplications.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from compressor.allocation import Choice, Choices
from compressor.budget import costs, limited
from compressor.calibration import layer_positions
from compressor.measuring import measure
from compressor.rehearsal import Rehearsal
from compressor.stage_running import Workbench
from compressor.strategy import Candidate

if TYPE_CHECKING:
    from torch.fx import GraphModule


class TimePrediction:
    """Adds to candidates what they save in the limited metrics that a clock measures."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.metrics = tuple(metric for metric in limited(bench.metrics, bench.limits) if metric.clocked)
        self.before: _Before | None = None

    @property
    def _clock(self) -> tuple[int, int]:
        """Threads and runs of the first such metric."""
        return int(getattr(self.metrics[0], "threads", 1)), int(getattr(self.metrics[0], "runs", 5))

    def added(self, candidates: Sequence[Candidate], stage: str, rehearsal: Rehearsal) -> Sequence[Candidate]:
        """Return the candidates of a stage, one of the rehearsal's, with the time that they save."""
        if not self.metrics or not candidates:
            return candidates
        if self.before is None or self.before.rehearsal.student is not rehearsal.student:
            self.before = _Before(rehearsal, self._clock)
        before = self.before
        self.bench.reporter.say(f"timing what {stage} could do")
        saved = _measured(before, stage, rehearsal, candidates)
        whole = costs(measure(before.finished, self.metrics), self.bench.limits)
        total = sum(before.seconds.values())
        return [
            replace(candidate, saving={**{name: value * seconds / total for name, value in whole.items()}, **known})
            for candidate in candidates
            for known in [candidate.saving]
            for seconds in [saved.get((candidate.layer, candidate.setting), before.proportional(candidate))]
        ]


class _Before:
    """The student at the end of the recipe without any choice, and how long its layers take."""

    def __init__(self, rehearsal: Rehearsal, clock: tuple[int, int]) -> None:
        self.rehearsal = rehearsal
        self.clock = clock
        self.finished = rehearsal.unchanged
        self.seconds = self.finished.time_by_layer(*clock)

    @cached_property
    def macs(self) -> dict[str, float]:
        """Multiply-accumulates by layer, in the unit of candidates."""
        student = self.rehearsal.student
        data = self.rehearsal.bench.data
        positions = layer_positions(student, data.sample_rate if data else None)
        return {layer: float(_weight(student, layer) * count) for layer, count in positions.items()}

    def proportional(self, candidate: Candidate) -> float:
        """Return the time of the layers that a candidate touches, times the share of their arithmetic that it saves."""
        layers = [layer for layer in candidate.touches or (candidate.layer,) if layer in self.macs]
        macs = sum(self.macs[layer] for layer in layers)
        return sum(_of_layers(self.seconds, layers).values()) * candidate.saving.get("macs", 0.0) / max(macs, 1.0)


def _measured(
    before: _Before, stage: str, rehearsal: Rehearsal, candidates: Sequence[Candidate]
) -> dict[tuple[str, Choice], float]:
    """Return the seconds saved by candidates that change one layer each, by layer and setting."""
    settings: dict[str, list[Choice]] = defaultdict(list)
    for candidate in candidates:
        if set(candidate.touches) <= {candidate.layer}:
            settings[candidate.layer].append(candidate.setting)
    dense = _of_layers(before.seconds, settings)
    saved: dict[tuple[str, Choice], float] = {}
    for turn in range(max(map(len, settings.values()), default=0)):
        tried = {layer: choices[turn] for layer, choices in settings.items() if turn < len(choices)}
        choices: Choices = {stage: tried}
        changed = rehearsal.finished(choices)
        seconds = _of_layers(changed.time_by_layer(*before.clock), settings)
        saved |= {(layer, setting): dense[layer] - seconds[layer] for layer, setting in tried.items()}
    return saved


def _of_layers(seconds: Mapping[str, float], layers: Collection[str]) -> dict[str, float]:
    """Return the seconds of each layer with what stages made of it, such as `conv_depthwise` of `conv`."""
    found = dict.fromkeys(layers, 0.0)
    for name, value in seconds.items():
        parents = [layer for layer in layers if name == layer or name.startswith(f"{layer}_")]
        if parents:
            found[max(parents, key=len)] += value
    return found


def _weight(student: GraphModule, layer: str) -> int:
    return sum(value.numel() for name, value in student.get_submodule(layer).named_parameters() if name == "weight")
