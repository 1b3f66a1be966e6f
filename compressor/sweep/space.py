"""What a sweep varies: `PATH=1,2,3`, `PATH=1..8`, `PATH=log:1e-5..1e-3`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from compressor.errors import CompressorError

if TYPE_CHECKING:
    import optuna

RANGE = re.compile(r"[-+.\deE]*\d[.eE]*\.\.[-+.\deE]+")
"""Numbers on both sides of two dots; anything else with dots in it, such as `../model.onnx`, is a value."""
FORMS = "PATH=1,2,3 or PATH=1..8 or PATH=log:1e-5..1e-3, such as depthwise-separable-conv.rank=1,2,3"


@dataclass(frozen=True)
class Listed:
    """An option that takes one of several values."""

    path: str
    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        """How many values it takes."""
        return len(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that the recipe has to take, for all in between to be fine."""
        return self.values

    @property
    def grid(self) -> list[Any]:
        """Every value, as optuna keeps it."""
        return [written(value) for value in self.values]

    def suggested(self, trial: optuna.Trial) -> Any:
        """Return a trial's value; optuna keeps plain values only, so what is none goes by its text."""
        return self.values[self.grid.index(trial.suggest_categorical(self.path, self.grid))]


@dataclass(frozen=True)
class Ranged:
    """An option that takes numbers from one to another; whole ones where both ends are."""

    path: str
    low: float
    high: float
    logarithmic: bool = False

    @property
    def whole(self) -> bool:
        """Say whether it takes whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values it takes."""
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that the recipe has to take, for all in between to be fine."""
        return self.low, self.high

    @property
    def grid(self) -> Sequence[Any]:
        """Every value; only of whole numbers are there so few."""
        return range(int(self.low), int(self.high) + 1)

    def suggested(self, trial: optuna.Trial) -> float:
        """Return a trial's value."""
        if self.whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(self.path, self.low, self.high, log=self.logarithmic)


Varied = Listed | Ranged


def parse_varied(texts: Sequence[str]) -> tuple[Varied, ...]:
    """Return what `--vary` options ask for.

    Raises:
        CompressorError: every one that has none of the forms, or names a path twice.
    """
    found: list[Varied] = []
    problems = []
    for text in texts:
        try:
            varied = _parsed(text)
            if any(each.path == varied.path for each in found):
                raise ValueError(f"'{varied.path}' is varied twice")
            found.append(varied)
        except ValueError as error:
            problems.append(f"--vary {text}: {error}")
    if problems:
        raise CompressorError("\n  ".join(problems))
    return tuple(found)


def _parsed(text: str) -> Varied:
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise ValueError(f"expected {FORMS}")
    path = _path(path.strip())
    if values.startswith("log:") or RANGE.fullmatch(values.strip()):
        return _range(path, values)
    try:
        listed = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise ValueError(f"'{values}' is no list of values; expected {FORMS}") from error
    for value in listed:
        if not _is_plain(value):
            raise ValueError(f"'{value}' is a {type(value).__name__}; expected numbers, texts, true, false or null")
    if len(set(map(written, listed))) != len(listed):
        raise ValueError("a value is listed twice")
    return Listed(path, tuple(listed))


def _is_plain(value: Any) -> bool:
    try:
        written(value)
    except TypeError:
        return False
    return True


def _path(path: str) -> str:
    """Return a path as `--set` takes it; `stages.2.options.rank` is `2.rank`."""
    keys = path.split(".")
    if keys[0] == "stages" and len(keys) > 3 and keys[2] == "options":
        return ".".join([keys[1], *keys[3:]])
    return path


def _range(path: str, values: str) -> Ranged:
    logarithmic = values.startswith("log:")
    low, _, high = values.removeprefix("log:").partition("..")
    try:
        ends = [_number(low), _number(high)]
    except ValueError as error:
        raise ValueError(f"'{values}' is no range of numbers; expected {FORMS}") from error
    if not ends[0] < ends[1]:
        raise ValueError(f"the range ends at {high}, which is not above {low}")
    if logarithmic and ends[0] <= 0:
        raise ValueError("a logarithmic range begins above 0")
    return Ranged(path, ends[0], ends[1], logarithmic)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def written(value: Any) -> str:
    """Return a value as YAML on one line."""
    return json.dumps(value)


def overrides(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return values by path as `--set` takes them."""
    return tuple(f"{path}={written(value)}" for path, value in values.items())
