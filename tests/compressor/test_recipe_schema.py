from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from compressor.plugin_catalog import Catalog
from compressor.recipe import Recipe
from compressor.recipe_schema import recipe_schema
from tests.compressor.fake_plugins import MelL1, Prune, Schedule, fake_catalog


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    return recipe_schema(fake_catalog())


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def test_it_is_json_of_the_dialect(schema: dict[str, Any]) -> None:
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    found = set(references(schema))
    assert found
    assert {reference.removeprefix("#/$defs/") for reference in found} <= set(schema["$defs"])


def test_the_top_is_the_recipe(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["required"] == ["teacher", "stages"]
    assert schema["additionalProperties"] is False
    assert all(part.get("description") for part in schema["properties"].values())


def test_options_are_those_of_the_classes(schema: dict[str, Any]) -> None:
    assert schema["$defs"]["strategies.prune"] == Prune.model_json_schema()
    assert schema["$defs"]["losses.mel-l1"] == MelL1.model_json_schema()
    assert schema["$defs"]["strategies.distill.Schedule"] == Schedule.model_json_schema()


def test_a_name_stands_bare_only_where_no_option_is_required(schema: dict[str, Any]) -> None:
    forms = schema["$defs"]["strategies"]["oneOf"]
    assert [form["const"] for form in forms if "const" in form] == ["low-rank", "prune"]
    assert [form["required"] for form in forms if "properties" in form] == [["distill"], ["low-rank"], ["prune"]]


def test_losses_inside_options_are_any_loss_by_name(schema: dict[str, Any]) -> None:
    items = schema["$defs"]["strategies.distill"]["properties"]["losses"]["items"]
    assert schema["$defs"][items["$ref"].removeprefix("#/$defs/")] == {"$ref": "#/$defs/losses"}


def test_budgets_are_of_installed_metrics(schema: dict[str, Any]) -> None:
    budget = schema["properties"]["budget"]
    assert budget["propertyNames"] == {"enum": ["energy", "nearness", "parameters", "stoi"]}
    assert budget["additionalProperties"] == {"$ref": "#/$defs/limit"}


def test_gates_are_numbers_for_installed_metrics_and_for_recordings_too(schema: dict[str, Any]) -> None:
    gates = schema["properties"]["gates"]
    assert gates["propertyNames"] == {"enum": ["energy", "nearness", "nearness/recording", "parameters", "stoi"]}
    assert gates["additionalProperties"] == {"type": "number"}


def test_without_plugins_no_stage_is_valid() -> None:
    assert recipe_schema(Catalog())["$defs"]["strategies"] is False
