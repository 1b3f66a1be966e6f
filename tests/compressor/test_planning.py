from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.errors import RecipeError
from compressor.planning import plan
from compressor.plugin_catalog import Catalog, Origin, PluginFailure
from compressor.recipe import Limit, Recipe
from compressor.recipe_file import read_leniently, read_recipe
from tests.compressor.fake_plugins import Distill, Folder, LowRank, MelL1, Prune, Stoi, fake_catalog

GOLDEN = Path(__file__).parent / "golden"
COMPLETE: dict[str, Any] = {
    "teacher": "t.onnx",
    "budget": {"parameters": "30%"},
    "data": {"folder": {"path": "speech"}},
    "stages": [
        "prune",
        {"low-rank": {"rank": 2}},
        {"prune": {"round_to": 4}},
        {"distill": {"schedule": {"steps": 3}, "losses": ["mel-l1", {"mel-l1": {"weight": 45}}]}},
    ],
}


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    return fake_catalog()


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({**COMPLETE, **changes})


def problems(source: Recipe, catalog: Catalog) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        plan(source, catalog)
    return [str(problem) for problem in caught.value.problems]


def test_a_plan_holds_everything_built(catalog: Catalog) -> None:
    planned = plan(recipe(), catalog)
    assert [stage.label for stage in planned.stages] == ["prune", "low-rank", "prune-2", "distill"]
    assert [stage.strategy for stage in planned.stages] == [
        Prune(),
        LowRank(rank=2),
        Prune(round_to=4),
        Distill.model_validate({"schedule": {"steps": 3}, "losses": (MelL1(), MelL1(weight=45))}),
    ]
    assert planned.stages[0].origin == "plugin 'FakePlugin' (given in code)"
    assert planned.data == Folder(path=Path("speech"))
    assert planned.limits == {"parameters": Limit(text="30%")}


def test_without_metrics_all_that_apply_are_measured(catalog: Catalog) -> None:
    assert [metric.name for metric in plan(recipe(), catalog).metrics] == ["parameters", "stoi"]
    alone = recipe(data=None, stages=["prune"])
    assert [metric.name for metric in plan(alone, catalog).metrics] == ["parameters"]


def test_metrics_of_the_budget_are_measured_though_not_listed(catalog: Catalog) -> None:
    planned = plan(recipe(metrics=[{"stoi": {"extended": True}}]), catalog)
    assert [metric.name for metric in planned.metrics] == ["stoi", "parameters"]
    assert planned.metrics[0] == Stoi(extended=True)


def test_stages_and_metrics_that_need_data(catalog: Catalog) -> None:
    found = problems(recipe(data=None, metrics=["stoi"]), catalog)
    assert found == [
        "stages.4: 'distill' needs data, and the recipe names none: add 'data:' with a data source (folder)",
        "metrics.1: 'stoi' needs data, and the recipe names none: add 'data:' with a data source (folder)",
    ]


def test_a_stage_that_can_spend_a_budget_needs_one_or_a_choice_of_its_own(catalog: Catalog) -> None:
    assert problems(recipe(budget={}, stages=["low-rank", {"low-rank": {"smallest": 2}}]), catalog) == [
        f"stages.{at}: 'low-rank' has neither a budget to spend nor 'rank': give one of them" for at in (1, 2)
    ]
    plan(recipe(budget={}, stages=[{"low-rank": {"rank": "auto"}}]), catalog)
    plan(recipe(stages=["low-rank"]), catalog)


def test_a_recipe_built_in_code_has_no_lines(catalog: Catalog) -> None:
    found = problems(recipe(stages=[{"prune": {"rnd_to": 1, "pruning_ratio": 1.5}}]), catalog)
    assert found == [
        "stages.1.prune.rnd_to: unknown option 'rnd_to' (did you mean 'round_to'?)",
        "stages.1.prune.pruning_ratio: must be < 1.0, found 1.5",
    ]


def test_where_a_plugin_is_broken_an_unknown_name_tells_of_it(catalog: Catalog) -> None:
    failure = PluginFailure(Origin("tucker", "tucker-dist", "1.0"), "ImportError: no tensorly")
    broken = Catalog(
        strategies=catalog.strategies, metrics=catalog.metrics, failures=(failure,), origins=catalog.origins
    )
    (found,) = problems(recipe(data=None, stages=["tucker"]), broken)
    assert found == (
        "stages.1: there is no 'tucker' among the strategies (known: distill, low-rank, prune)"
        "; plugin 'tucker' (tucker-dist 1.0) did not load: ImportError: no tensorly"
    )
    losses = [{"distill": {"schedule": {"steps": 1}, "losses": ["tucker-l1"]}}]
    assert any(
        "among the losses (none is known); plugin 'tucker'" in each
        for each in problems(recipe(data=None, stages=losses), broken)
    )


def test_overridden_options_are_blamed_on_the_command_line(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("teacher: t\nstages:\n  - prune:\n      round_to: 8\n")
    with pytest.raises(RecipeError) as caught:
        plan(read_recipe(path, ["prune.round_to=0"]), catalog)
    (problem,) = caught.value.problems
    assert str(problem) == "--set prune.round_to=0: stages.1.prune.round_to: must be >= 1, found 0"


def test_a_wrong_value_hides_no_wrong_name_beside_it(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "teacher: t\nstages: [prune]\nbudget: {parameters: 50%, mcas: 50%}\ngates: {stoy: 0.9, macs: high}\n"
    )
    with pytest.raises(RecipeError) as caught:
        plan(read_leniently(path), catalog)
    told = str(caught.value)
    assert all(name in told for name in ("'mcas'", "'stoy'", "'high'"))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_broken_recipes_are_told(path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    with pytest.raises(RecipeError) as caught:
        plan(read_recipe(path.name), catalog)
    assert f"{caught.value}\n" == path.with_suffix(".txt").read_text(encoding="utf-8")
