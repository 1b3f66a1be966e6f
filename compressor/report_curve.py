"""The training curve as geometry: one small panel per loss or validation metric, on a shared time axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from compressor.figures import duration_in_words, in_words
from compressor.report import CurvePoint

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 48, 350, 12, 154
_LINE_POINTS = 150
"""More are averaged together: a panel is a few hundred pixels wide."""
_LOGARITHMIC_FROM = 20.0
"""Ratio of largest to smallest value from which a linear axis would hide the end of the training."""


class Value(NamedTuple):
    """A loss or metric at a time in seconds."""

    seconds: float
    value: float


@dataclass(frozen=True)
class Phase:
    """A stretch of training: `left` and `width` in the units of the drawing; `shade` is the same for one name."""

    name: str
    shade: int
    left: float
    width: float
    span: str


@dataclass(frozen=True)
class Tick:
    """A mark on the vertical axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One series: `lines` hold `x,y` pairs as SVG polylines want them."""

    kind: str
    name: str
    lines: tuple[str, ...]
    end: tuple[float, float]
    first: str
    last: str
    ticks: tuple[Tick, ...]
    logarithmic: bool


@dataclass(frozen=True)
class Curve:
    """All panels, the phases behind them, and the time at the right end of the axis."""

    panels: tuple[Panel, ...]
    phases: tuple[Phase, ...]
    duration: str


def draw_curve(points: Sequence[CurvePoint]) -> Curve:
    """Return the panels for the points of a training, oldest first; values that are not finite are left out."""
    if not points:
        return Curve((), (), "")
    timed = list(zip(_running_seconds(points), points, strict=True))
    # A training of one point at zero still needs an axis.
    total = timed[-1][0] or 1.0
    phases = [list(group) for _, group in groupby(timed, key=lambda item: item[1].phase)]
    panels = (_panel(kind, name, phases, total) for kind, name in _series(points))
    return Curve(tuple(panel for panel in panels if panel), _phases(phases, total), duration_in_words(total))


def _running_seconds(points: Sequence[CurvePoint]) -> list[float]:
    """Return times that never fall: a phase whose clock starts again goes on where the one before ended."""
    times = [points[0].seconds]
    for before, point in pairwise(points):
        passed = point.seconds - before.seconds
        times.append(times[-1] + (passed if passed >= 0 else point.seconds))
    return times


def _series(points: Sequence[CurvePoint]) -> list[tuple[str, str]]:
    """Return kind and name of every series, losses first, each in the order found."""
    losses = dict.fromkeys(("loss", name) for point in points for name in point.losses)
    validation = dict.fromkeys(("validation", name) for point in points for name in point.validation)
    return [*losses, *validation]


def _panel(kind: str, name: str, phases: Sequence[Sequence[tuple[float, CurvePoint]]], total: float) -> Panel | None:
    values = [[Value(at, number) for at, point in phase for number in _number(point, kind, name)] for phase in phases]
    lines = [_thinned(line) for line in values if line]
    if not lines:
        return None
    drawn = [point.value for line in lines for point in line]
    scale = _Scale(min(drawn), max(drawn), total)
    placed = [[scale.place(point) for point in line] for line in lines]
    return Panel(
        kind=kind,
        name=name,
        lines=tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in line) for line in placed),
        end=placed[-1][-1],
        first=in_words(lines[0][0].value),
        last=in_words(lines[-1][-1].value),
        ticks=scale.ticks(),
        logarithmic=scale.logarithmic,
    )


def _number(point: CurvePoint, kind: str, name: str) -> list[float]:
    number = (point.losses if kind == "loss" else point.validation).get(name)
    return [number] if number is not None and math.isfinite(number) else []


def _thinned(line: Sequence[Value]) -> list[Value]:
    """Return at most `_LINE_POINTS` points, each the mean of its neighbours."""
    size = math.ceil(len(line) / _LINE_POINTS)
    return [_mean(line[start : start + size]) for start in range(0, len(line), size)]


def _mean(group: Sequence[Value]) -> Value:
    # Divided before it is summed: a loss that diverges may stand just below the largest float.
    return Value(*(math.fsum(number / len(group) for number in numbers) for numbers in zip(*group, strict=True)))


@dataclass(frozen=True)
class _Scale:
    """Where a value stands in the drawing."""

    low: float
    high: float
    total: float

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= _LOGARITHMIC_FROM

    def place(self, point: Value) -> tuple[float, float]:
        return _across(point.seconds, self.total), self._height(point.value)

    def ticks(self) -> tuple[Tick, ...]:
        middle = math.sqrt(self.low) * math.sqrt(self.high) if self.logarithmic else self.low / 2 + self.high / 2
        values = (self.low, middle, self.high) if self.high > self.low else (self.low,)
        return tuple(Tick(self._height(value), in_words(value)) for value in values)

    def _height(self, value: float) -> float:
        # Halved first: the span of values of both signs can exceed the largest float.
        span = self.high / 2 - self.low / 2
        if not span:
            share = 0.5
        elif self.logarithmic:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value / 2 - self.low / 2) / span
        return BOTTOM - share * (BOTTOM - TOP)


def _across(seconds: float, total: float) -> float:
    return LEFT + seconds / total * (RIGHT - LEFT)


def _phases(phases: Sequence[Sequence[tuple[float, CurvePoint]]], total: float) -> tuple[Phase, ...]:
    """Return each phase from its first point to the next one's; the first begins at zero."""
    names = list(dict.fromkeys(phase[0][1].phase for phase in phases))
    starts = [phase[0][0] if index else 0.0 for index, phase in enumerate(phases)]
    ends = [*starts[1:], total]
    return tuple(
        Phase(
            name=phase[0][1].phase,
            shade=names.index(phase[0][1].phase),
            left=_across(start, total),
            width=_across(end, total) - _across(start, total),
            span=f"{duration_in_words(start)} to {duration_in_words(end)}",
        )
        for phase, start, end in zip(phases, starts, ends, strict=True)
    )
