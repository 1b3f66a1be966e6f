from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.errors import CompressorError
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import DISTRIBUTION, load_catalog
from compressor.shipped_recipes import MODELINE, SCHEMA, copy_recipe, schema_text, shipped_recipes

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipes_that_ship_can_be_planned(recipe: Path) -> None:
    plan = load_plan(recipe)
    assert plan.stages
    text = recipe.read_text(encoding="utf-8")
    # The first lines tell editors where the schema is, and people how to run it.
    assert text.startswith(f"{MODELINE}\n")
    assert f"compress run recipes/{recipe.name}" in text


def test_the_main_job_ships() -> None:
    assert {"hifigan_student", "exact_speedup", "hifigan_joint_budget"} <= {recipe.stem for recipe in RECIPES}


def test_each_recipe_is_listed_with_a_sentence() -> None:
    listed = shipped_recipes()
    assert [recipe.path for recipe in listed] == RECIPES
    assert all(recipe.summary.endswith(".") and "yaml-language-server" not in recipe.summary for recipe in listed)


def test_the_published_schema_is_current() -> None:
    # Make it anew with: compress schema > recipes/recipe.schema.json
    assert (FOLDER / SCHEMA).read_text(encoding="utf-8") == schema_text(load_catalog().only(DISTRIBUTION))


def test_a_copy_can_be_planned_and_has_the_schema_beside_it(tmp_path: Path) -> None:
    recipe, schema = copy_recipe("exact_speedup", tmp_path / "mine.yaml", load_catalog())
    assert load_plan(recipe).stages == load_plan(FOLDER / "exact_speedup.yaml").stages
    assert f"compress run {recipe.as_posix()}" in recipe.read_text(encoding="utf-8")
    assert json.loads(schema.read_text(encoding="utf-8"))["title"] == "Recipe"
    with pytest.raises(CompressorError, match="nothing was overwritten"):
        copy_recipe("exact_speedup", recipe, load_catalog())
    into_folder, _ = copy_recipe("exact_speedup.yaml", tmp_path, load_catalog())
    assert into_folder == tmp_path / "exact_speedup.yaml"


def test_a_misspelt_name_is_told_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="did you mean 'exact_speedup'"):
        copy_recipe("exact_spedup", tmp_path, load_catalog())
    assert not list(tmp_path.iterdir())
