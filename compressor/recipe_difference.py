"""In which options the recipes of two runs differ, keyed as `--set` has them: `distillation.end_to_end.steps`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from compressor.comparison import OptionDifference
from compressor.errors import RecipeError, RunFolderError
from compressor.named_options import split_name
from compressor.recipe import Named, Recipe
from compressor.recipe_file import stage_labels
from compressor.recipe_yaml import parse_yaml
from compressor.report import Report
from compressor.run_reading import REPORT, FinishedRun

DEFAULTS = "with its defaults"


def recipe_differences(first: FinishedRun, second: FinishedRun) -> tuple[OptionDifference, ...]:
    """Return what differs: first the recipes' own keys, then the stages' options, defaults among them.

    Raises:
        RunFolderError: a report holds a recipe that cannot be read.
    """
    recipes = [_recipe(run) for run in (first, second)]
    own = [dict(_flat(_outside_stages(recipe))) for recipe in recipes]
    staged = _stage_options(first.report, second.report, recipes)
    return (*_differing(*own), *_order(first.report, second.report), *_differing(*staged))


def _recipe(run: FinishedRun) -> Recipe:
    try:
        return Recipe.model_validate(parse_yaml(run.report.recipe, REPORT).data)
    except (RecipeError, ValidationError) as error:
        raise RunFolderError(f"{run.folder / REPORT} holds a recipe that cannot be read: {error}") from error


def _outside_stages(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's own keys, in the form that `--set` addresses: `data.path` without the source's name."""
    own: dict[str, Any] = recipe.model_dump(mode="json", exclude={"stages", "out", "teacher", "data", "metrics"})
    own["teacher"] = recipe.teacher.onnx
    own["teacher.region"] = recipe.teacher.region and recipe.teacher.region.model_dump(mode="json")
    own["metrics"] = recipe.metrics and _text([metric.model_dump(mode="json") for metric in recipe.metrics])
    if recipe.data is not None:
        own |= {"data": recipe.data.name, **{f"data.{key}": value for key, value in recipe.data.options.items()}}
    return {key: value for key, value in own.items() if value not in (None, {}, "")}


def _stage_options(first: Report, second: Report, recipes: list[Recipe]) -> tuple[dict[str, str], ...]:
    """Return every option of the stages that both runs have, and each other stage as it is written in its recipe."""
    stages = [{stage.stage: stage for stage in report.stages} for report in (first, second)]
    shared = stages[0].keys() & stages[1].keys()
    found: list[dict[str, str]] = []
    for own, recipe in zip(stages, recipes, strict=True):
        written = dict(zip(stage_labels(recipe), recipe.stages, strict=True))
        options: dict[str, str] = {}
        for label, stage in own.items():
            told = _flat(stage.options, label) if label in shared else [(label, _as_written(written.get(label)))]
            options.update(told)
        found.append(options)
    return tuple(found)


def _as_written(named: Named | None) -> str:
    return _text(named.options) if named and named.options else DEFAULTS


def _order(first: Report, second: Report) -> Iterator[OptionDifference]:
    """Tell the order of the stages where those that both runs have come in another one."""
    labels = [[stage.stage for stage in report.stages] for report in (first, second)]
    shared = set(labels[0]) & set(labels[1])
    if len({tuple(label for label in own if label in shared) for own in labels}) > 1:
        before, after = (" → ".join(own) for own in labels)
        yield OptionDifference(key="stages", a=before, b=after)


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[OptionDifference]:
    for key in dict.fromkeys((*first, *second)):
        if first.get(key) != second.get(key):
            yield OptionDifference(key=key, a=first.get(key), b=second.get(key))


def _flat(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Return every value inside `value` as text by its dotted key; lists of named things count by their names."""
    inner = _by_name(value) if isinstance(value, list) else value
    if isinstance(inner, dict) and (inner or not key):
        for name, content in inner.items():
            yield from _flat(content, f"{key}.{name}" if key else str(name))
    else:
        yield key, _text(value)


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """Return a list such as `[mel-l1: {weight: 2}, stft]` by name; None for a list of other things."""
    try:
        named = [split_name(item) for item in items]
    except ValueError:
        return None
    names = [name for name, _ in named]
    plain = all(isinstance(item, str) for item in items)
    return None if plain or len(set(names)) < len(names) else dict(named)


def _text(value: object) -> str:
    """Return a value as a recipe has it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
