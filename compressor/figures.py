"""Numbers as people read them: `3.56 M` parameters, `4.3 MB`, `31 ms`, `30.1%`, `3.4×`."""

from __future__ import annotations

import math

NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_COUNTED = {"": "", "parameters": "", "MAC": "MAC", "bytes": "B", "B": "B"}
"""Units that take a prefix such as M or G, and how they are written."""
_JOINED = {"%": "%", "x": TIMES, TIMES: TIMES}
"""Units that follow the number without a space, and how they are written."""
_PREFIXES = ("", "k", "M", "G", "T", "P")


def in_words(value: float, unit: str = "") -> str:
    """Return `value` with three significant digits, a decimal prefix where it is a count, and its unit."""
    if unit in ("s", "seconds"):
        return duration_in_words(value)
    if unit in _COUNTED:
        return _counted(value, _COUNTED[unit])
    return f"{_digits(value)}{_JOINED.get(unit, f' {unit}')}"


def with_interval(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """Return `value` in words, and behind it the ends of its interval where there is one: `0.886 (0.871 to 0.9)`."""
    if low is None or high is None:
        return in_words(value, unit)
    return f"{in_words(value, unit)} ({_digits(low)} to {_digits(high)})"


def in_full(value: float) -> str:
    """Return `value` with every digit before the point, and at least four: `1,204,512`, `0.2125`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration_in_words(seconds: float) -> str:
    """Return `3.2 s`, `4 min 5 s`, `2 h 13 min` or `2 h`."""
    if not math.isfinite(seconds) or seconds < 59.5:
        return f"{_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    # Rounded to minutes first, so that 1 h 59 min 45 s reads as 2 h.
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def share_in_words(part: float, whole: float) -> str:
    """Return `part` as a percentage of `whole`, such as `30.1%`; a dash where there is no whole."""
    return f"{_digits(100 * part / whole)}%" if whole else NOTHING


def change_in_words(before: float, after: float) -> str:
    """Return by what share of `before` a number changed, such as `-12.3%` or `+4%`; a dash where there is no share."""
    if not before or not math.isfinite(before):
        return NOTHING
    share = _digits(100 * (after / before - 1))
    return f"{share if share.startswith('-') or share == '0' else f'+{share}'}%"


def ratio_in_words(numerator: float, denominator: float) -> str:
    """Return `numerator / denominator` as a multiple, such as `3.4×`; a dash where it is undefined."""
    return f"{_digits(numerator / denominator)}{TIMES}" if denominator else NOTHING


def _counted(value: float, symbol: str) -> str:
    power = _thousands(value)
    suffix = f"{_PREFIXES[power]}{symbol}"
    return f"{_digits(value / 1000**power)} {suffix}" if suffix else _digits(value)


def _thousands(value: float) -> int:
    """Return the power of 1000 after which `value` rounds to fewer than four digits before the point."""
    if not math.isfinite(value) or abs(value) < 1000:
        return 0
    exponent = int(f"{abs(value):.2e}".split("e")[1])
    return min(exponent // 3, len(_PREFIXES) - 1)


def _digits(value: float) -> str:
    """Return three significant digits without trailing zeros; plain digits from 0.001 up to a million."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    decimals = 2 - int(f"{value:.2e}".split("e")[1]) if value else 0
    return _trimmed(f"{value:.{max(decimals, 0)}f}")


def _trimmed(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
