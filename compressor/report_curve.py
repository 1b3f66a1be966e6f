"""Training curves as geometry: one small panel per loss or validation metric, on a shared time axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
class Line:
    """One run's way through a panel; `pieces`, one for each phase, hold `x,y` pairs as SVG polylines want them."""

    run: int
    """Its position among the runs that are drawn together."""
    pieces: tuple[str, ...]
    end: tuple[float, float]
    first: str
    last: str


@dataclass(frozen=True)
class Panel:
    """One series, as each run that has it went through it."""

    kind: str
    name: str
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    logarithmic: bool


@dataclass(frozen=True)
class Curve:
    """All panels, the phases behind them, and the time at the right end of the axis."""

    panels: tuple[Panel, ...]
    phases: tuple[Phase, ...]
    """Of a single run: those of several would lie over each other."""
    duration: str


class _Timed(NamedTuple):
    """A point, and when it was on a clock that never starts again."""

    seconds: float
    point: CurvePoint


_Stretch = Sequence[_Timed]
"""The points of one phase of one training."""


def draw_curve(*runs: Sequence[CurvePoint]) -> Curve:
    """Return the panels for the points of a run's training, oldest first, or of several runs' on the same axes.

    Values that are not finite are left out.
    """
    timed = [_timed(points) for points in runs]
    ends = [points[-1].seconds for points in timed if points]
    if not ends:
        return Curve((), (), "")
    # A training of one point at zero still needs an axis.
    total = max(ends) or 1.0
    stretches = [[list(group) for _, group in groupby(points, key=_phase_of)] for points in timed]
    panels = (_panel(kind, name, stretches, total) for kind, name in _series(point for run in runs for point in run))
    phases = _phases(stretches[0], total) if len(runs) == 1 else ()
    return Curve(tuple(panel for panel in panels if panel), phases, duration_in_words(total))


def _timed(points: Sequence[CurvePoint]) -> list[_Timed]:
    """Return the points with times that never fall: where a clock starts again it goes on where the last one ended."""
    if not points:
        return []
    times = [points[0].seconds]
    for before, point in pairwise(points):
        passed = point.seconds - before.seconds
        goes_on = point.stage == before.stage and passed >= 0
        times.append(times[-1] + (passed if goes_on else point.seconds))
    return list(map(_Timed, times, points))


def _phase_of(timed: _Timed) -> tuple[str, str]:
    return timed.point.stage, timed.point.phase


def _series(points: Iterable[CurvePoint]) -> list[tuple[str, str]]:
    """Return kind and name of every series, losses first, each in the order found."""
    losses: dict[tuple[str, str], None] = {}
    validation: dict[tuple[str, str], None] = {}
    for point in points:
        losses |= dict.fromkeys(("loss", name) for name in point.losses)
        validation |= dict.fromkeys(("validation", name) for name in point.validation)
    return [*losses, *validation]


def _panel(kind: str, name: str, runs: Sequence[Sequence[_Stretch]], total: float) -> Panel | None:
    drawn = [_pieces(run, kind, name) for run in runs]
    heights = [each.value for run in drawn for piece in run for each in piece]
    if not heights:
        return None
    scale = _Scale(min(heights), max(heights), total)
    lines = tuple(_line(run, pieces, scale) for run, pieces in enumerate(drawn) if pieces)
    return Panel(kind, name, lines, scale.ticks(), scale.logarithmic)


def _pieces(run: Sequence[_Stretch], kind: str, name: str) -> list[list[Value]]:
    """Return the values by phase; one by itself, such as the start's, makes no line and is joined to its neighbours."""
    pieces: list[list[Value]] = []
    stage = None
    for stretch in run:
        values = _values(stretch, kind, name)
        if not values:
            continue
        if pieces and stage == stretch[0].point.stage and 1 in (len(values), len(pieces[-1])):
            values = [*pieces.pop(), *values]
        pieces.append(values)
        stage = stretch[0].point.stage
    return pieces


def _line(run: int, pieces: Sequence[Sequence[Value]], scale: _Scale) -> Line:
    placed = [[scale.place(each) for each in piece] for piece in pieces]
    return Line(
        run=run,
        pieces=tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in piece) for piece in placed),
        end=placed[-1][-1],
        first=in_words(pieces[0][0].value),
        last=in_words(pieces[-1][-1].value),
    )


def _values(stretch: _Stretch, kind: str, name: str) -> list[Value]:
    found = [Value(at, number) for at, point in stretch for number in _number(point, kind, name)]
    return _thinned(found)


def _number(point: CurvePoint, kind: str, name: str) -> list[float]:
    number = (point.losses if kind == "loss" else point.validation).get(name)
    return [number] if number is not None and math.isfinite(number) else []


def _thinned(line: Sequence[Value]) -> list[Value]:
    """Return at most `_LINE_POINTS` points, each the mean of its neighbours."""
    size = math.ceil(len(line) / _LINE_POINTS)
    return [_mean(line[start : start + size]) for start in range(0, len(line), size or 1)]


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


def _phases(stretches: Sequence[_Stretch], total: float) -> tuple[Phase, ...]:
    """Return each phase from its first point to the next one's; the first begins at zero."""
    stages = {stretch[0].point.stage for stretch in stretches}
    names = [_phase_name(stretch[0].point, one_of_many=len(stages) > 1) for stretch in stretches]
    shades = list(dict.fromkeys(names))
    starts = [stretch[0].seconds if index else 0.0 for index, stretch in enumerate(stretches)]
    ends = [*starts[1:], total]
    return tuple(
        Phase(
            name=name,
            shade=shades.index(name),
            left=_across(start, total),
            width=_across(end, total) - _across(start, total),
            span=f"{duration_in_words(start)} to {duration_in_words(end)}",
        )
        for name, start, end in zip(names, starts, ends, strict=True)
    )


def _phase_name(point: CurvePoint, *, one_of_many: bool) -> str:
    return f"{point.stage}, {point.phase}" if one_of_many else point.phase
