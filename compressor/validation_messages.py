"""What pydantic finds wrong, in the words of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compressor.recipe_problems import Location

_BOUNDS: Final = MappingProxyType(
    {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
)
_NOUNS: Final = MappingProxyType(
    {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "path": "a path",
        "list": "a list",
        "tuple": "a list",
        "dict": "a mapping",
        "model": "a mapping",
    }
)
_LONGEST_VALUE = 60


def explain(error: ValidationError, data: object) -> list[tuple[Location, str]]:
    """Return where in `data`, which failed to validate, something is wrong, and what.

    The alternatives of a union are told as one: `must be a whole number or 'auto', found 'x'`.
    """
    expectations: dict[tuple[Location, str], list[str]] = {}
    messages: list[tuple[Location, str]] = []
    for detail in error.errors(include_url=False):
        if _follows_from_others(detail):
            continue
        location = _location(detail, data)
        expected = _expected(detail)
        if expected is None:
            messages.append((location, _statement(detail)))
        else:
            expectations.setdefault((location, shown(detail["input"])), []).append(expected)
    return messages + [
        (location, f"must be {' or '.join(dict.fromkeys(expected))}, found {found}")
        for (location, found), expected in expectations.items()
    ]


def shown(value: object) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _expected(detail: ErrorDetails) -> str | None:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        return f"{_BOUNDS[kind]} {next(iter(context.values()))}"
    noun = _NOUNS.get(kind.split("_")[0])
    if noun and kind.endswith(("_type", "_parsing", "_from_float")):
        return noun
    prefix = "Input should be "
    return detail["msg"].removeprefix(prefix) if detail["msg"].startswith(prefix) else None


def _follows_from_others(detail: ErrorDetails) -> bool:
    """Tell a list that is too short only because pydantic does not count its invalid items."""
    return detail["type"] == "too_short" and len(detail["input"]) > detail["ctx"]["actual_length"]


def _statement(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"'{detail['loc'][-1]}' is missing"
    if detail["type"] in ("value_error", "assertion_error") and "error" in detail.get("ctx", {}):
        return str(detail["ctx"]["error"])
    if detail["type"] == "unknown_option":
        return detail["msg"]
    wish = re.match(r"\w+ should (.*?)( after validation.*|, not .*)?$", detail["msg"])
    return f"{f'must {wish[1]}' if wish else detail['msg']}, found {shown(detail['input'])}"


def _location(detail: ErrorDetails, data: object) -> Location:
    """Return the error's place in the data: pydantic's own path has the names of union members in it as well."""
    location: list[str | int] = []
    here = data
    for part in detail["loc"]:
        if isinstance(here, Mapping) and part in here:
            location.append(str(part))
            here = here[part]
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            location.append(part)
            here = here[part]
    return tuple(location)
