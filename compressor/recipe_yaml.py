"""YAML with line numbers, and without what a recipe has no use for: tags, repeated keys, exploding aliases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from compressor.errors import RecipeError, RecipeProblem
from compressor.recipe_problems import Location, Place, dotted

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")
)
_MOST_VALUES = 20_000
_DEEPEST = 100


@dataclass(frozen=True)
class ParsedYaml:
    """A YAML text as plain values, where each was written, and mistakes that did not keep it from being read."""

    data: Any
    places: dict[Location, Place]
    problems: tuple[RecipeProblem, ...]


@dataclass(frozen=True)
class _Spot:
    node: yaml.Node
    location: Location
    line: int


def parse_yaml(text: str, source: str) -> ParsedYaml:
    """Read one YAML document; `source` is what problems name as their file.

    Raises:
        RecipeError: the text is no YAML, or holds tags or more values than a recipe can have.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return ParsedYaml(None, {}, ())
        spots = _spots(root, source)
        _refuse_tags(spots, source)
        data = _construct(root)
    except yaml.YAMLError as error:
        raise RecipeError([_syntax_problem(error, source)]) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError([RecipeProblem(f"cannot be read as YAML: {error}", file=source)]) from error
    places = {spot.location: Place(source, spot.line) for spot in spots}
    return ParsedYaml(data, places, tuple(_repeated_keys(spots, source)))


def _construct(root: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _spots(root: yaml.Node, source: str) -> list[_Spot]:
    """Return every value in the order of the text; an alias counts as often as it is used."""
    found: list[_Spot] = []
    waiting = [_Spot(root, (), root.start_mark.line + 1)]
    while waiting:
        spot = waiting.pop()
        found.append(spot)
        if len(found) > _MOST_VALUES or len(spot.location) > _DEEPEST:
            message = f"more than {_MOST_VALUES} values or {_DEEPEST} levels once its aliases (*name) are written out"
            raise RecipeError([RecipeProblem(message, file=source)])
        waiting.extend(reversed(list(_children(spot))))
    return found


def _children(spot: _Spot) -> Iterator[_Spot]:
    if isinstance(spot.node, yaml.MappingNode):
        for key, value in spot.node.value:
            yield _Spot(value, (*spot.location, str(key.value)), key.start_mark.line + 1)
    elif isinstance(spot.node, yaml.SequenceNode):
        for position, item in enumerate(spot.node.value):
            yield _Spot(item, (*spot.location, position), item.start_mark.line + 1)


def _refuse_tags(spots: list[_Spot], source: str) -> None:
    problems = [
        RecipeProblem(
            f"a value of YAML type '{spot.node.tag.replace('tag:yaml.org,2002:', '!!')}' has no place in a recipe: "
            "write text (in quotes), a number, a list or a mapping",
            dotted(spot.location),
            source,
            spot.line,
        )
        for spot in spots
        if spot.node.tag not in _PLAIN_TAGS
    ]
    if problems:
        raise RecipeError(problems)


def _repeated_keys(spots: list[_Spot], source: str) -> Iterator[RecipeProblem]:
    for spot in spots:
        first: dict[tuple[str, str], int] = {}
        for key, _ in spot.node.value if isinstance(spot.node, yaml.MappingNode) else ():
            identity, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if identity in first:
                message = f"'{key.value}' stands here a second time; the first is on line {first[identity]}"
                yield RecipeProblem(message, dotted((*spot.location, str(key.value))), source, line)
            first.setdefault(identity, line)


def _syntax_problem(error: yaml.YAMLError, source: str) -> RecipeProblem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        opened = (
            error.context_mark and error.context and f"{error.context} that opens on line {error.context_mark.line + 1}"
        )
        message = ", ".join(part for part in (error.problem, opened) if part)
        return RecipeProblem(f"not valid YAML: {message}", file=source, line=mark.line + 1 if mark else None)
    return RecipeProblem(f"not valid YAML: {' '.join(str(error).split())}", file=source)
