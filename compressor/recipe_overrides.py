"""Options given on the command line: `--set low-rank.rank=4`, `--set budget.parameters=25%`, `--set seed=3`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressor.errors import RecipeError, RecipeProblem
from compressor.named_options import did_you_mean, split_name
from compressor.recipe import Recipe
from compressor.recipe_problems import Location, Place, ProblemCollector
from compressor.recipe_yaml import parse_yaml
from compressor.validation_messages import shown


@dataclass(frozen=True)
class _Set:
    """A value inside the recipe changed: what now stands there, and where that is."""

    data: Any
    location: Location


def apply_overrides(
    data: dict[str, Any], overrides: Sequence[str], problems: ProblemCollector
) -> tuple[dict[str, Any], dict[Location, Place]]:
    """Return the recipe's raw values with each `PATH=VALUE` put in, and where the new values come from.

    PATH opens with a stage (its label such as `prune-2`, or its number from one) or with a key of the recipe; VALUE is
    YAML. What cannot be applied is added to `problems`.
    """
    places: dict[Location, Place] = {}
    for override in overrides:
        source = f"--set {override}"
        try:
            done = _apply(data, override, source)
        except RecipeError as error:
            # A line within the value says nothing: it stands on one command line.
            problems.problems.extend(replace(problem, line=None) for problem in error.problems)
        except ValueError as error:
            problems.problems.append(RecipeProblem(str(error), file=source))
        else:
            data = done.data
            places = {at: place for at, place in places.items() if at[: len(done.location)] != done.location}
            places[done.location] = Place(source)
    return data, places


def _apply(data: dict[str, Any], override: str, source: str) -> _Set:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError("expected STAGE.OPTION=VALUE, such as low-rank.rank=4 or budget.parameters=25%")
    parsed = parse_yaml(text, source)
    if parsed.problems:
        raise RecipeError(parsed.problems)
    return _put(data, _full_path(keys, data), parsed.data)


def _full_path(keys: list[str], data: dict[str, Any]) -> list[str]:
    """Return the way from the recipe's top: `prune.rank` becomes `stages.1.prune.rank`, `data.path` gets its name."""
    if keys[0] == "data" and len(keys) > 1:
        if data.get("data") is None:
            raise ValueError("the recipe names no data; give a source with its options: data={SOURCE: {OPTION: VALUE}}")
        return ["data", *_with_name(keys[1:], data.get("data"))]
    if keys[0] in Recipe.model_fields:
        return keys
    stages = data.get("stages")
    if not isinstance(stages, list):
        raise ValueError("the recipe has no list of stages to set an option of")
    if len(keys) == 1:
        raise ValueError(f"expected an option of a stage, such as {keys[0]}.OPTION=VALUE, or a key of the recipe")
    position = _stage_position(keys[0], stages)
    return ["stages", str(position + 1), *_with_name(keys[1:], stages[position])]


def _with_name(keys: list[str], named: object) -> list[str]:
    name, _ = split_name(named)
    return keys if keys[0] == name and len(keys) > 1 else [name, *keys]


def _stage_position(key: str, stages: list[Any]) -> int:
    if key.isdecimal() and 0 < int(key) <= len(stages):
        return int(key) - 1
    labels = unique_labels([_name(stage) for stage in stages])
    if key in labels:
        return labels.index(key)
    raise ValueError(f"there is no stage '{key}'{did_you_mean(key, [*labels, *Recipe.model_fields])}")


def unique_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, with `-2`, `-3` and so on appended to those that came before."""
    labels: list[str] = []
    for name in names:
        label, count = name, 1
        while label in labels:
            count += 1
            label = f"{name}-{count}"
        labels.append(label)
    return tuple(labels)


def _name(stage: object) -> str:
    try:
        return split_name(stage)[0]
    except ValueError:
        # The stage is malformed, which validation reports with its line; it only has no label to go by.
        return ""


def _put(here: object, keys: Sequence[str], value: object) -> _Set:
    """Return a copy of `here` with `value` at `keys`; what YAML aliases share is changed in this one place only."""
    if not keys:
        return _Set(value, ())
    key, rest = keys[0], keys[1:]
    if isinstance(here, list):
        return _put_in_list(here, key, rest, value)
    if here == key:
        here = {key: None}
    if not isinstance(here, dict | None):
        raise ValueError(f"'{key}' cannot be set inside {shown(here)}, which has no options")
    content = dict(here or {})
    done = _put(content.get(key), rest, value)
    return _Set({**content, key: done.data}, (key, *done.location))


def _put_in_list(here: list[Any], key: str, rest: Sequence[str], value: object) -> _Set:
    names = [_name(item) for item in here]
    if key in names:
        position, rest = names.index(key), [key, *rest]
    elif key.isdecimal() and 0 < int(key) <= len(here):
        position = int(key) - 1
    else:
        known = [*filter(None, names), *(str(number + 1) for number in range(len(here)))]
        raise ValueError(f"there is no '{key}' in the list{did_you_mean(key, known)}")
    done = _put(here[position], rest, value)
    return _Set([*here[:position], done.data, *here[position + 1 :]], (position, *done.location))
