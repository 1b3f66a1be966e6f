from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.report import CurvePoint
from compressor.report_curve import BOTTOM, LEFT, RIGHT, TOP, draw_curve


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True)),
        max_size=400,
    )
)
def test_curves_stay_inside_their_panel(points: list[tuple[str, float, float]]) -> None:
    curve = draw_curve(
        [CurvePoint(phase=phase, step=0, seconds=at, losses={"loss": value}) for phase, at, value in points]
    )
    for panel in curve.panels:
        places = [pair.split(",") for line in panel.lines for piece in line.pieces for pair in piece.split()]
        assert all(LEFT - 0.1 <= float(x) <= RIGHT + 0.1 and TOP - 0.1 <= float(y) <= BOTTOM + 0.1 for x, y in places)
        assert [float(x) for x, _ in places] == sorted(float(x) for x, _ in places)
    assert sum(phase.width for phase in curve.phases) == pytest.approx(RIGHT - LEFT if points else 0)


def test_a_clock_that_starts_again_goes_on() -> None:
    first = [CurvePoint(phase="block-wise", step=i, seconds=float(i), losses={"a": 1.0}) for i in range(11)]
    second = [CurvePoint(phase="end-to-end", step=i, seconds=float(i), losses={"b": 2.0}) for i in range(31)]
    curve = draw_curve([*first, *second])
    assert curve.duration == "40 s"
    assert [phase.span for phase in curve.phases] == ["0 s to 10 s", "10 s to 40 s"]


def test_trainings_of_several_stages_are_told_apart() -> None:
    points = [
        CurvePoint(stage=stage, phase="end-to-end", step=at, seconds=at + late, losses={"a": 1.0})
        # The clock of the second training starts again, and does not look like it.
        for stage, late in (("distillation", 0.0), ("distillation-2", 10.0))
        for at in range(11)
    ]
    curve = draw_curve(points)
    assert [(phase.name, phase.span) for phase in curve.phases] == [
        ("distillation, end-to-end", "0 s to 20 s"),
        ("distillation-2, end-to-end", "20 s to 30 s"),
    ]
    assert [phase.shade for phase in curve.phases] == [0, 1]
    assert [len(line.pieces) for panel in curve.panels for line in panel.lines] == [2]


def test_several_runs_share_their_axes() -> None:
    short = [CurvePoint(phase="a", step=i, seconds=float(i), losses={"x": 1.0 + i}) for i in range(11)]
    long = [CurvePoint(phase="b", step=i, seconds=2.0 * i, losses={"x": 3.0}, validation={"y": 1.0}) for i in range(21)]
    curve = draw_curve(short, long)
    assert curve.duration == "40 s"
    assert curve.phases == ()
    both, alone = curve.panels
    assert [(line.run, line.first, line.last) for line in both.lines] == [(0, "1", "11"), (1, "3", "3")]
    assert [line.end for line in both.lines] == [
        (LEFT + (RIGHT - LEFT) / 4, TOP),
        (RIGHT, pytest.approx(BOTTOM - (BOTTOM - TOP) / 5)),
    ]
    assert [line.run for line in alone.lines] == [1]


def test_a_lone_value_begins_the_line_that_follows_it() -> None:
    points = [
        CurvePoint(stage=stage, phase=phase, step=0, seconds=seconds, losses={}, validation={"mel-l1": value})
        for stage, phase, seconds, value in (
            ("first", "start", 0.0, 4.0), ("first", "end-to-end", 10.0, 2.0), ("first", "end-to-end", 20.0, 1.0),
            ("second", "start", 0.0, 3.0), ("second", "end-to-end", 10.0, 2.0), ("second", "adversarial", 20.0, 1.0),
        )
    ]  # fmt: skip
    (panel,) = draw_curve(points).panels
    # Of the second training's three phases each has one value.
    assert [len(piece.split()) for piece in panel.lines[0].pieces] == [3, 3]
    assert panel.lines[0].pieces[0].startswith("48.0,12.0 ")
