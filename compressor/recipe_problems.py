"""Where the mistakes of a recipe stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from compressor.errors import RecipeError, RecipeProblem

Location = tuple[str | int, ...]
"""The way to a value inside a recipe: keys, and positions counted from zero."""


@dataclass(frozen=True)
class Place:
    """Where a value was written: a line of a file (from one), or a `--set` of the command line, which has none."""

    source: str
    line: int | None = None


Places = Mapping[Location, Place]
NOWHERE: Places = MappingProxyType({})


def dotted(location: Location) -> str:
    """Return the path as the user reads it: positions are counted from one."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in location)


def nearest(places: Places, location: Location) -> Place | None:
    """Return where `location` was written, or else what encloses it."""
    for length in range(len(location), -1, -1):
        if location[:length] in places:
            return places[location[:length]]
    return None


@dataclass
class ProblemCollector:
    """Gathers problems so that the user hears of all of them at once."""

    places: Places
    problems: list[RecipeProblem] = field(default_factory=list)

    def add(self, location: Location, message: str) -> None:
        """Note what is wrong at `location`."""
        place = nearest(self.places, location)
        self.problems.append(
            RecipeProblem(message, dotted(location), place.source if place else None, place.line if place else None)
        )

    def add_all(self, found: Iterable[tuple[Location, str]], prefix: Location = ()) -> None:
        """Note several; `prefix` opens each location."""
        for location, message in found:
            self.add(prefix + location, message)

    def raise_any(self) -> None:
        """Raise a `RecipeError` with all problems in the order of their lines, if there are any."""
        if self.problems:
            raise RecipeError(sorted(self.problems, key=lambda problem: problem.line or 0))
