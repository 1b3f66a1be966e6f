"""What each part of a model costs, before and after, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.figures import in_words, share_in_words
from compressor.report import LayerRecord, Report

MOST_PARTS = 16
WIDTH, ROW, LABEL, TOP = 640, 26, 150, 6
BAR = 9
"""Height of one of a part's two bars."""

Cost = Literal["parameters", "macs"]


@dataclass(frozen=True)
class Part:
    """Layers whose names begin alike; widths in the units of the drawing."""

    name: str
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
    height: float


def cost_pictures(report: Report) -> tuple[CostPicture, ...]:
    """Return pictures of parameters and multiply-accumulates; none where the report has no layers."""
    before, after = report.teacher.layers, report.layers
    if not before or not after:
        return ()
    depth = part_depth([layer.layer for layer in before])
    costs: tuple[Cost, ...] = ("parameters", "macs")
    return tuple(_picture(cost, _summed(before, depth, cost), _summed(after, depth, cost)) for cost in costs)


def part_depth(names: Sequence[str]) -> int:
    """Return how many parts of a name tell parts of a model: the fewest that give the most, sixteen at the outside."""
    deepest = max(name.count("/") + 1 for name in names)
    counts = {depth: len({_part(name, depth) for name in names}) for depth in range(1, deepest + 1)}
    return max(counts, key=lambda depth: (counts[depth] if counts[depth] <= MOST_PARTS else 0, -depth))


def _part(name: str, depth: int) -> str:
    # The last part of a name is the operator, or a layer among its like.
    parts = name.split("/")
    return "/".join(parts[: min(depth, max(1, len(parts) - 1))])


def _summed(layers: Sequence[LayerRecord], depth: int, cost: Cost) -> dict[str, int]:
    sums: dict[str, int] = {}
    for layer in layers:
        part = _part(layer.layer, depth)
        sums[part] = sums.get(part, 0) + (layer.parameters if cost == "parameters" else layer.macs)
    return sums


def _picture(cost: Cost, before: dict[str, int], after: dict[str, int]) -> CostPicture:
    names = list(dict.fromkeys([*before, *after]))
    most = max([1, *before.values(), *after.values()])
    scale = (WIDTH - LABEL - 110) / most
    parts = tuple(
        Part(
            name=name,
            teacher=in_words(before.get(name, 0)),
            student=f"{in_words(after.get(name, 0))} ({share_in_words(after.get(name, 0), before.get(name, 0))})",
            teacher_width=before.get(name, 0) * scale,
            student_width=after.get(name, 0) * scale,
            top=TOP + at * ROW,
        )
        for at, name in enumerate(names)
    )
    return CostPicture(cost, parts, TOP + len(names) * ROW)
