"""What each part of a model costs, before and after, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.figures import NOTHING, in_words, share_in_words
from compressor.report import LayerRecord, Report

MOST_PARTS = 20
SIZE = 32
"""Size of the dynamic axes of the input that `LayerRecord.macs` are of."""
WIDTH, ROW, TOP = 560, 26, 6
BAR = 9
"""Height of one of a part's two bars."""
LONGEST = 32
"""Letters of a part's name that are shown."""
_LETTER, _GAP, _FIGURES = 7, 8, 150
"""Room for a letter of a wide typeface, between a name and its bars, and for what is written behind them."""

Cost = Literal["parameters", "macs"]


@dataclass(frozen=True)
class Part:
    """Layers whose names begin alike; widths in the units of the drawing."""

    name: str
    shown: str
    """The name, cut short where it is long."""
    teacher: str
    student: str
    teacher_width: float
    student_width: float
    top: float


@dataclass(frozen=True)
class CostPicture:
    """One cost, part by part."""

    cost: str
    parts: tuple[Part, ...]
    left: float
    """Where the bars begin."""
    height: float


def cost_pictures(report: Report) -> tuple[CostPicture, ...]:
    """Return pictures of parameters and multiply-accumulates; none where the report has no layers."""
    before, after = report.teacher.layers, report.layers
    if not before or not after:
        return ()
    costs: tuple[Cost, ...] = ("parameters", "macs")
    return tuple(_picture(cost, _summed(before, cost), _summed(after, cost)) for cost in costs)


def part_depth(names: Sequence[str]) -> int:
    """Return how many parts of a name tell parts of a model: the fewest that give the most, twenty at the outside."""
    deepest = max(len(_split(name)) for name in names)
    counts = {depth: len({_part(name, depth) for name in names}) for depth in range(1, deepest + 1)}
    return max(counts, key=lambda depth: (counts[depth] if counts[depth] <= MOST_PARTS else 0, -depth))


def shortened(name: str) -> str:
    """Return a part's name with the middle of its long words left out, so that it fits; numbers stay."""
    for most in range(LONGEST, 4, -1):
        words = "/".join(_cut(word, most) for word in name.split("/"))
        if len(words) <= LONGEST:
            return words
    return _cut(name, LONGEST)


def _cut(word: str, most: int) -> str:
    if len(word) <= most:
        return word
    end = (most - 1) // 2
    return f"{word[: most - 1 - end]}…{word[-end:]}"


def _part(name: str, depth: int) -> str:
    # The last part of a name is the operator, or a layer among its like.
    parts = _split(name)
    return "/".join(parts[: min(depth, max(1, len(parts) - 1))])


def _split(name: str) -> list[str]:
    """Return the parts of a name, in a file's form (`ups/0/Conv`) or in torch's (`ups.0.conv`)."""
    return name.replace(".", "/").split("/")


def _summed(layers: Sequence[LayerRecord], cost: Cost) -> dict[str, int]:
    """Return the parts' costs; a student whose layers have other names has parts of its own."""
    depth = part_depth([layer.layer for layer in layers])
    sums: dict[str, int] = {}
    for layer in layers:
        part = _part(layer.layer, depth)
        sums[part] = sums.get(part, 0) + (layer.parameters if cost == "parameters" else layer.macs)
    return sums


def _picture(cost: Cost, before: dict[str, int], after: dict[str, int]) -> CostPicture:
    names = list(dict.fromkeys([*before, *after]))
    left = _GAP + _LETTER * max(len(shortened(name)) for name in names)
    most = max([1, *before.values(), *after.values()])
    scale = (WIDTH - left - _FIGURES) / most
    parts = tuple(
        Part(
            name=name,
            shown=shortened(name),
            teacher=in_words(before[name]) if name in before else NOTHING,
            student=_student(name, before, after),
            teacher_width=before.get(name, 0) * scale,
            student_width=after.get(name, 0) * scale,
            top=TOP + at * ROW,
        )
        for at, name in enumerate(names)
    )
    return CostPicture(cost, parts, left, TOP + len(names) * ROW)


def _student(name: str, before: dict[str, int], after: dict[str, int]) -> str:
    """Return a part's cost in the student, with its share of the teacher's where both have it."""
    if name not in after:
        return NOTHING
    share = f" ({share_in_words(after[name], before[name])})" if name in before else ""
    return f"{in_words(after[name])}{share}"
