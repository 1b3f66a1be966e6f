"""Recipes as YAML files: read with every mistake found at once, and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from compressor.errors import RecipeError, RecipeProblem
from compressor.named_options import build
from compressor.recipe import Recipe
from compressor.recipe_overrides import apply_overrides, unique_labels
from compressor.recipe_problems import Place, Places, ProblemCollector
from compressor.recipe_yaml import parse_yaml
from compressor.shipped_recipes import shipped_recipes
from compressor.validation_messages import explain, shown


@dataclass(frozen=True)
class RecipeDocument:
    """A recipe, the file it was read from, and the line on which each of its values stands."""

    recipe: Recipe
    path: Path
    places: Places
    problems: tuple[RecipeProblem, ...] = ()
    """What is wrong with the parts that `recipe` leaves out; only where it was read to hear of every mistake."""


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> RecipeDocument:
    """Read a recipe; `overrides` are `--set` values such as `low-rank.rank=4` or `budget.parameters=25%`.

    Raises:
        RecipeError: every mistake of the file and of the overrides, each with its line.
    """
    document = read_leniently(path, overrides)
    ProblemCollector(document.places, list(document.problems)).raise_any()
    return document


def read_leniently(path: Path | str, overrides: Sequence[str] = ()) -> RecipeDocument:
    """Read as much of a recipe as makes sense, and note what does not: planning can then add what is wrong with that.

    Raises:
        RecipeError: nothing can be made of it; every mistake found.
    """
    source = str(path)
    parsed = parse_yaml(_text(Path(path)), source)
    if not isinstance(parsed.data, dict):
        message = f"a recipe is a mapping with at least 'teacher' and 'stages', found {shown(parsed.data)}"
        raise RecipeError([*parsed.problems, RecipeProblem(message, file=source)])
    problems = ProblemCollector({(): Place(source), **parsed.places}, list(parsed.problems))
    data, overridden = apply_overrides(parsed.data, overrides, problems)
    problems.places = {**problems.places, **overridden}
    recipe = _validated(data, problems)
    return RecipeDocument(recipe, Path(path), problems.places, tuple(problems.problems))


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that reads back as the same recipe; what equals its default is left out."""
    data = recipe.model_dump(exclude_defaults=True)
    return yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)


def stage_labels(recipe: Recipe) -> tuple[str, ...]:
    """Return what each stage is called: its strategy's name, with `-2`, `-3` appended where that is repeated."""
    return unique_labels([stage.name for stage in recipe.stages])


class _PlainDumper(yaml.SafeDumper):
    """Writes values that occur twice twice, rather than as an anchor and an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        # PyYAML writes the rarer line breaks as they are, and reads them as a space; only double quotes escape them.
        rare_break = any(mark in value for mark in "\x85\u2028\u2029\ufeff")
        return super().represent_scalar(tag, value, '"' if rare_break else style)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"a recipe is UTF-8 text; byte {error.start} is none: is this really the recipe?"
    except FileNotFoundError:
        message = f"there is no such file{_remedy(path)}"
    except IsADirectoryError:
        message = "this is a folder; name the recipe's .yaml file"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    raise RecipeError([RecipeProblem(message, file=str(path))])


def _remedy(path: Path) -> str:
    """Return what writes a file that is missing, if a recipe of its name ships: only a checkout has `recipes/`."""
    if path.stem not in {recipe.name for recipe in shipped_recipes()}:
        return ""
    return f"; a recipe of this name ships: `compress recipes copy {path.stem}` writes {path.stem}.yaml"


def _validated(data: dict[str, Any], problems: ProblemCollector) -> Recipe:
    try:
        recipe = build(Recipe, data)
    except ValidationError as error:
        problems.add_all(explain(error, data))
        return _sound_part(data, error, problems)
    return recipe


def _sound_part(data: dict[str, Any], error: ValidationError, problems: ProblemCollector) -> Recipe:
    """Return the recipe without the values that are wrong, or without what they stand in, if the rest is one."""
    wrong = [entry["loc"] for entry in error.errors() if entry["loc"]]
    for depth in (2, 1):
        try:
            return build(Recipe, _without(data, {location[:depth] for location in wrong}))
        except ValidationError:
            continue
    problems.raise_any()
    raise error


def _without(data: dict[str, Any], wrong: set[tuple[int | str, ...]]) -> dict[str, Any]:
    """Return a mapping without the entries at these locations; what is no mapping goes as a whole."""
    left: dict[str, Any] = {}
    for key, value in data.items():
        inside = {location[1:] for location in wrong if location[0] == key}
        if not inside:
            left[key] = value
        elif isinstance(value, dict) and () not in inside:
            left[key] = {name: each for name, each in value.items() if (name,) not in inside}
    return left
