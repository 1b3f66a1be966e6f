from __future__ import annotations

from pathlib import Path

import pytest

from compressor.plan_loading import load_plan

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipes_that_ship_can_be_planned(recipe: Path) -> None:
    plan = load_plan(recipe)
    assert plan.stages
    # The first lines say how to run it.
    assert f"compress run recipes/{recipe.name}" in recipe.read_text(encoding="utf-8")


def test_the_main_job_ships() -> None:
    assert {"hifigan_student", "exact_speedup", "hifigan_joint_budget"} <= {recipe.stem for recipe in RECIPES}
