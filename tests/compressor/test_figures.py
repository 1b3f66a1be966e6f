import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.figures import (
    NOTHING,
    TIMES,
    change_in_words,
    duration_in_words,
    in_full,
    in_words,
    ratio_in_words,
    share_in_words,
    with_interval,
)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (3_555_649, "", "3.56 M"),
        (1_070_000, "parameters", "1.07 M"),
        (6.6e9, "MAC", "6.6 GMAC"),
        (4_300_000, "B", "4.3 MB"),
        (812, "bytes", "812 B"),
        (999_999, "", "1 M"),
        (280, "", "280"),
        (0, "", "0"),
        (0.0738, "", "0.0738"),
        (3.1e-7, "", "3.1e-7"),
        (1.25e25, "", "1.25e10 P"),
        (31.04, "ms", "31 ms"),
        (1234.5, "ms", "1234 ms"),
        (9.996, "dB", "10 dB"),
        (-2.5, "dB", "-2.5 dB"),
        (30.06, "%", "30.1%"),
        (3.4, "x", f"3.4{TIMES}"),
        (90, "s", "1 min 30 s"),
        (math.inf, "", "inf"),
        (math.nan, "ms", "nan ms"),
    ],
)
def test_values_are_written_with_three_digits_and_their_unit(value: float, unit: str, words: str) -> None:
    assert in_words(value, unit) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (3.24, "3.24 s"), (59.6, "1 min"), (245, "4 min 5 s"), (3599.7, "1 h"), (7980, "2 h 13 min")],
)
def test_durations_are_written_in_the_two_largest_units(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(1_204_512.4, "1,204,512"), (1199, "1,199"), (90, "90"), (31.4159, "31.42"), (0.21249, "0.2125"), (0, "0")],
)
def test_values_in_full_tell_near_ones_apart(value: float, words: str) -> None:
    assert in_full(value) == words


def test_shares_and_ratios_of_nothing_are_a_dash() -> None:
    assert share_in_words(1.07, 3.56) == "30.1%"
    assert share_in_words(1, 0) == NOTHING
    assert ratio_in_words(212, 73.8) == f"2.87{TIMES}"
    assert ratio_in_words(1, 0) == NOTHING
    assert change_in_words(0, 1) == NOTHING


def test_changes_have_a_sign() -> None:
    assert [change_in_words(80, after) for after in (100, 80, 70, 0)] == ["+25%", "0%", "-12.5%", "-100%"]


@given(st.floats(min_value=1e-300, max_value=9e17))
def test_what_is_written_is_within_half_a_percent(value: float) -> None:
    number, _, prefix = in_words(value).partition(" ")
    assert float(number) * 1000.0 ** " kMGTP".index(prefix or " ") == pytest.approx(value, rel=5.1e-3)


def test_an_interval_stands_behind_its_figure() -> None:
    assert with_interval(0.8862, 0.8705, 0.9, "") == "0.886 (0.871 to 0.9)"
    assert with_interval(-1.5, -2.0, -1.0, "dB") == "-1.5 dB (-2 to -1)"
    assert with_interval(3.0, None, None, "dB") == "3 dB"
