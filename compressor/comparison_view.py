"""A comparison in words: the rows that the terminal and the page show alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressor.comparison import ComparedFigure, Comparison
from compressor.figures import NOTHING, change_in_words, in_words, with_interval
from compressor.report import GateVerdict, Measurement, Verdict
from compressor.report_quality import figure
from compressor.report_view import is_cost, is_time, label

Mark = Literal["better", "worse", ""]


@dataclass(frozen=True)
class OptionRow:
    """An option of both recipes; a dash where one has nothing there."""

    key: str
    a: str
    b: str


@dataclass(frozen=True)
class FigureRow:
    """A metric: what teacher, A and B have, and how B's differs from A's."""

    metric: str
    label: str
    better: str
    teacher: str
    a: str
    b: str
    difference: str
    verdict: str
    """Whether B is better or worse beyond chance, or why nothing is said."""
    mark: Mark
    """What B is beyond chance."""


@dataclass(frozen=True)
class LimitRow:
    """A limit of the budget or a gate, and what each run came to."""

    name: str
    a: str
    b: str
    a_met: bool | None
    b_met: bool | None


def option_rows(comparison: Comparison) -> tuple[OptionRow, ...]:
    """Return a row for each option that differs."""
    return tuple(OptionRow(each.key, each.a or NOTHING, each.b or NOTHING) for each in comparison.options)


def cost_rows(comparison: Comparison) -> tuple[FigureRow, ...]:
    """Return a row for each metric without scores; differences in percent of A's.

    Times of one teacher's students differ by their shares of the teacher's, which each run measured beside its student:
    that takes out how busy the machine was.
    """
    return tuple(
        _row(each, _change(each, comparison.one_teacher), "" if each.compares else "teachers differ", "")
        for each in comparison.costs
    )


def quality_rows(comparison: Comparison) -> tuple[FigureRow, ...]:
    """Return a row for each metric with scores, with intervals."""
    return tuple(_quality_row(each) for each in comparison.quality)


def limit_rows(comparison: Comparison) -> tuple[LimitRow, ...]:
    """Return a row for each limit and gate of either recipe."""
    units = {each.metric: each.unit for each in (*comparison.costs, *comparison.quality)}
    return tuple(
        LimitRow(
            name=f"{each.kind}: {each.metric}",
            a=_judged(each.a, units.get(each.metric, "")),
            b=_judged(each.b, units.get(each.metric, "")),
            a_met=each.a.met if each.a else None,
            b_met=each.b.met if each.b else None,
        )
        for each in comparison.limits
    )


def _quality_row(each: ComparedFigure) -> FigureRow:
    found = each.difference
    if found is None:
        return _row(each, "", each.why_none, "")
    told = with_interval(found.mean, found.low, found.high, each.unit)
    if not found.beyond_chance:
        return _row(each, told, "within chance", "")
    mark: Mark = "better" if (found.mean > 0) == (each.better == "higher") else "worse"
    return _row(each, told, f"B is {mark}", mark)


def _row(each: ComparedFigure, difference: str, verdict: str, mark: Mark) -> FigureRow:
    teachers = list(dict.fromkeys(figure(entry) for entry in (each.teacher_a, each.teacher_b) if entry))
    return FigureRow(
        metric=each.metric,
        label=label(each.metric),
        better=each.better,
        teacher=" / ".join(teachers) or NOTHING,
        a=figure(each.a),
        b=figure(each.b),
        difference=difference,
        verdict=verdict,
        mark=mark,
    )


def _change(each: ComparedFigure, one_teacher: bool) -> str:
    a, b = _value(each.a), _value(each.b)
    known = each.a or each.b
    if a is None or b is None or known is None or not is_cost(known):
        return ""
    beside = _value(each.teacher_a), _value(each.teacher_b)
    if one_teacher and is_time(known) and beside[0] and beside[1]:
        a, b = a / beside[0], b / beside[1]
    return change_in_words(a, b)


def _value(entry: Measurement | None) -> float | None:
    return entry.value if entry else None


def _judged(verdict: Verdict | GateVerdict | None, unit: str) -> str:
    if verdict is None:
        return NOTHING
    if isinstance(verdict, GateVerdict):
        asked = f"{verdict.bound} {in_words(verdict.threshold, unit)}"
    else:
        asked = f"at most {in_words(verdict.limit, unit)}"
    found = "not measured" if verdict.student is None else in_words(verdict.student, unit)
    return f"{found}, {asked}: {'met' if verdict.met else 'MISSED'}"
