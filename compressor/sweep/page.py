"""A sweep's results as a page: the front as pictures, every trial as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath

from compressor.figures import in_words
from compressor.report_html import render_page
from compressor.sweep.results import Results, Tried

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 240, 58, 345, 14, 200
LABEL_WIDTH, LABEL_HEIGHT = 14, 9
"""Room that a number takes beside a dot."""
COSTS = ("parameters", "macs", "latency")
"""Costs that are drawn and listed besides what trials are compared by, where they were measured."""
ACROSS = (*COSTS, "bytes", "rtf", "speedup")
"""What is drawn across, where trials are compared by it, and anything else up."""


@dataclass(frozen=True)
class Dot:
    """A trial in a picture."""

    number: int
    x: float
    y: float
    kind: str
    """`front`, `beaten` or `missed`."""
    label: str
    """Its number, with those of later trials that would be written over it; empty where an earlier one says it."""


@dataclass(frozen=True)
class Picture:
    """All finished trials by two figures."""

    across: str
    up: str
    dots: tuple[Dot, ...]
    left: str
    right: str
    low: str
    high: str


def render_sweep(results: Results) -> str:
    """Return the page."""
    shown = columns(results)
    return render_page(
        "sweep_template.html.j2",
        results=results,
        name=PurePath(results.recipe).name,
        paths=list(dict.fromkeys(path for trial in results.trials for path in trial.values)),
        columns=shown,
        rows=[(trial, [cell(trial, name) for name in shown]) for trial in results.trials],
        pictures=pictures(results),
        drawn={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def columns(results: Results) -> list[str]:
    """Return the figures that are shown of each trial: what they are compared by, and costs."""
    measured = {entry.metric for trial in results.trials for entry in trial.measurements}
    return [*results.objectives, *(name for name in COSTS if name in measured and name not in results.objectives)]


def cell(trial: Tried, metric: str) -> str:
    """Return a trial's figure in words; empty where it has none."""
    entry = next((entry for entry in trial.measurements if entry.metric == metric), None)
    return "" if entry is None or entry.value is None else in_words(entry.value, entry.unit)


def pictures(results: Results) -> list[Picture]:
    """Return what trials are compared by, each against each; and its quality against each other cost."""
    return [picture for across, up in _pairs(results) if (picture := _picture(results, across, up)) is not None]


def _pairs(results: Results) -> list[tuple[str, str]]:
    """Return what goes across and what up, picture by picture."""
    compared = sorted(dict.fromkeys(results.objectives), key=lambda name: name not in ACROSS)
    qualities = compared if len(compared) == 1 else [name for name in compared if name not in ACROSS]
    others = [name for name in columns(results) if name not in compared]
    return [*combinations(compared, 2), *((cost, up) for up in qualities for cost in others)]


def _picture(results: Results, across: str, up: str) -> Picture | None:
    finished = [trial for trial in results.trials if trial.state == "finished"]
    points = [
        (trial, x, y)
        for trial in finished
        if (x := trial.value(across)) is not None and (y := trial.value(up)) is not None
    ]
    if not points:
        return None
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    places = {trial.number: (_at(x, xs, LEFT, RIGHT), _at(y, ys, BOTTOM, TOP)) for trial, x, y in points}
    labels = _labels(places)
    dots = tuple(
        Dot(trial.number, *places[trial.number], _kind(results, trial), labels.get(trial.number, ""))
        for trial, _, _ in points
    )
    entries = {entry.metric: entry for trial, _, _ in points for entry in trial.measurements}
    ends = [in_words(value, entries[across].unit) for value in (min(xs), max(xs))]
    ends += [in_words(value, entries[up].unit) for value in (min(ys), max(ys))]
    return Picture(across, up, dots, *ends)


def _labels(places: Mapping[int, tuple[float, float]]) -> dict[int, str]:
    """Return what is written beside dots: where several lie together, all their numbers beside the first of them."""
    together: dict[int, list[int]] = {}
    for number, (x, y) in places.items():
        first = next((one for one in together if _near(places[one], (x, y))), number)
        together.setdefault(first, []).append(number)
    return {first: ", ".join(map(str, numbers)) for first, numbers in together.items()}


def _near(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return abs(a[0] - b[0]) < LABEL_WIDTH and abs(a[1] - b[1]) < LABEL_HEIGHT


def _at(value: float, values: Sequence[float], first: float, last: float) -> float:
    low, high = min(values), max(values)
    share = (value - low) / (high - low) if high > low else 0.5
    # Dots at the ends stay inside.
    return first + (0.04 + 0.92 * share) * (last - first)


def _kind(results: Results, trial: Tried) -> str:
    if trial.number in results.front:
        return "front"
    return "beaten" if trial.met else "missed"
