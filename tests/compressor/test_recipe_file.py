from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compressor.errors import RecipeError
from compressor.recipe import Recipe
from compressor.recipe_file import read_recipe, stage_labels, write_recipe
from compressor.recipe_problems import Place

RECIPE = """\
teacher: vocoder.onnx
budget:
  parameters: 30%
data:
  folder:
    path: speech
stages:
  - prune
  - low-rank:
      rank: 4
  - prune:
      round_to: 16
  - distill:
      schedule: {steps: 100}
      losses:
        - mel-l1
        - mel-l1: {weight: 45}
"""


@pytest.fixture
def recipe_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("recipe.yaml")
    path.write_text(RECIPE, encoding="utf-8")
    return path


def options(path: Path, *overrides: str) -> list[dict[str, Any]]:
    return [stage.options for stage in read_recipe(path, overrides).recipe.stages]


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides)
    return str(caught.value)


def test_a_recipe_knows_where_its_values_stand(recipe_path: Path) -> None:
    document = read_recipe(recipe_path)
    assert document.recipe.teacher.onnx == "vocoder.onnx"
    assert stage_labels(document.recipe) == ("prune", "low-rank", "prune-2", "distill")
    assert document.places["budget", "parameters"] == Place("recipe.yaml", 3)
    assert document.places["stages", 1, "low-rank", "rank"] == Place("recipe.yaml", 10)
    assert document.places["stages", 3, "distill", "losses", 1, "mel-l1", "weight"] == Place("recipe.yaml", 17)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe\x00", "recipe.yaml: a recipe is UTF-8 text; byte 0 is none"),
        (b"", "recipe.yaml: a recipe is a mapping with at least 'teacher' and 'stages', found nothing"),
        (b"- a\n- b\n", "found ['a', 'b']"),
        (b"teacher: [\nstages: x", "recipe.yaml:2: not valid YAML: "),
        (b"teacher: a\x00b", "recipe.yaml: not valid YAML: "),
        (b"a: 1\n---\nb: 2", "recipe.yaml:2: not valid YAML: but found another document"),
        (b"seed: " + b"9" * 5000, "recipe.yaml: cannot be read as YAML: "),
        (b"a: " + b"[" * 3000, "recipe.yaml: cannot be read as YAML: "),
        (
            b"a: 1\nteacher: !!python/object/apply:os.system [ls]",
            "recipe.yaml:2: teacher: a value of YAML type '!!python",
        ),
        (b"teacher: 2024-01-01", "recipe.yaml:1: teacher: a value of YAML type '!!timestamp' has no place"),
        (b"? [a]\n: 1", "recipe.yaml:1: not valid YAML: "),
        (b"a: &a [*a]", "recipe.yaml: more than 20000 values or 100 levels"),
    ],
)
def test_files_that_are_no_recipe(recipe_path: Path, content: bytes, expected: str) -> None:
    recipe_path.write_bytes(content)
    assert expected in message(recipe_path)


def test_alias_bomb(recipe_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
    recipe_path.write_text("\n".join(lines))
    assert "once its aliases (*name) are written out" in message(recipe_path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert "there is no such file" in message(tmp_path / "none.yaml")
    assert "this is a folder" in message(tmp_path)


def test_a_byte_order_mark_is_allowed(recipe_path: Path) -> None:
    recipe_path.write_text(RECIPE, encoding="utf-8-sig")
    assert len(read_recipe(recipe_path).recipe.stages) == 4


def test_aliases_and_merge_keys_work(recipe_path: Path) -> None:
    recipe_path.write_text(
        "teacher: t\nstages:\n  - prune: &p {round_to: 4}\n  - prune: *p\n  - prune: {<<: *p, importance: l1}\n"
    )
    assert options(recipe_path) == [{"round_to": 4}, {"round_to": 4}, {"round_to": 4, "importance": "l1"}]
    assert options(recipe_path, "prune.round_to=2")[:2] == [{"round_to": 2}, {"round_to": 4}]


@pytest.mark.parametrize(
    ("override", "stage", "expected"),
    [
        ("prune.round_to=4", 0, {"round_to": 4}),
        ("prune.prune.round_to=4", 0, {"round_to": 4}),
        ("stages.1.prune.round_to=4", 0, {"round_to": 4}),
        ("prune-2.importance=l1", 2, {"round_to": 16, "importance": "l1"}),
        ("3.round_to=32", 2, {"round_to": 32}),
        ("low-rank.rank=auto", 1, {"rank": "auto"}),
        ("prune.targets=[conv_*, ups]", 0, {"targets": ["conv_*", "ups"]}),
        ("prune.nested.deep=1.5", 0, {"nested": {"deep": 1.5}}),
    ],
)
def test_overrides_of_stages(recipe_path: Path, override: str, stage: int, expected: dict[str, Any]) -> None:
    before = options(recipe_path)
    after = options(recipe_path, override)
    assert after[stage] == expected
    assert [each for at, each in enumerate(after) if at != stage] == [
        each for at, each in enumerate(before) if at != stage
    ]


@pytest.mark.parametrize("key", ["1.weight", "mel-l1.weight", "1.mel-l1.weight"])
def test_overrides_reach_into_lists_of_names(recipe_path: Path, key: str) -> None:
    if key == "1.weight":
        assert "'weight' cannot be set inside 'mel-l1'" in message(recipe_path, f"distill.losses.{key}=2")
    else:
        losses = options(recipe_path, f"distill.losses.{key}=2")[3]["losses"]
        assert losses == [{"mel-l1": {"weight": 2}}, {"mel-l1": {"weight": 45}}]


def test_overrides_outside_stages(recipe_path: Path) -> None:
    overrides = ["budget.macs=25%", "budget.parameters=1e6", "data.path=other", "seed=3", "out=runs/x", "seed=4"]
    recipe = read_recipe(recipe_path, overrides).recipe
    assert {metric: limit.text for metric, limit in recipe.budget.items()} == {"parameters": "1e6", "macs": "25%"}
    assert recipe.data is not None
    assert recipe.data.options == {"path": "other"}
    assert (recipe.seed, recipe.out) == (4, "runs/x")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("pruen.rank=1", "--set pruen.rank=1: there is no stage 'pruen' (did you mean 'prune'?)"),
        ("9.rank=1", "there is no stage '9'"),
        ("prune=1", "expected an option of a stage"),
        ("prune.rank", "--set prune.rank: expected STAGE.OPTION=VALUE"),
        ("prune..rank=1", "expected STAGE.OPTION=VALUE"),
        ("prune.rank=[", "--set prune.rank=[: not valid YAML"),
        ("prune.rank={a: 1, a: 2}", "'a' stands here a second time"),
        ("seed=-1", "--set seed=-1: seed: must be >= 0, found -1"),
        ("seed.x=1", "'x' cannot be set inside 0"),
        ("distill.losses.7=x", "there is no '7' in the list"),
    ],
)
def test_overrides_that_do_not_fit(recipe_path: Path, override: str, expected: str) -> None:
    recipe_path.write_text(f"{RECIPE}seed: 0\n")
    assert expected in message(recipe_path, override)


def test_overrides_of_data_that_is_not_there(recipe_path: Path) -> None:
    recipe_path.write_text("teacher: t\nstages: [prune]\n")
    assert "the recipe names no data" in message(recipe_path, "data.path=x")
    assert read_recipe(recipe_path, ["data={folder: {path: x}}"]).recipe.data is not None


def test_all_overrides_and_all_of_the_file_are_judged_at_once(recipe_path: Path) -> None:
    recipe_path.write_text(f"{RECIPE}sed: 1\nseed: x\n")
    text = message(recipe_path, "pruen.rank=1", "oops")
    assert text.startswith("4 problems in the recipe:")


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
named = st.text().flatmap(
    lambda name: st.just(name) | st.dictionaries(st.text(), yaml_values, max_size=3).map(lambda given: {name: given})
)
limits = st.floats(min_value=1e-9, max_value=1e12) | st.integers(1, 100).map(lambda percent: f"{percent}%")
recipes = st.builds(
    Recipe.model_validate,
    st.fixed_dictionaries(
        {"teacher": st.text(), "stages": st.lists(named, min_size=1, max_size=4)},
        optional={
            "licence": st.text(),
            "budget": st.dictionaries(st.text(), limits, max_size=3),
            "data": st.none() | named,
            "metrics": st.none() | st.lists(named, max_size=3),
            "gates": st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
            "seed": st.integers(0, 2**32 - 1),
            "out": st.none() | st.text(),
        },
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(recipe=recipes)
@example(
    recipe=Recipe.model_validate({"teacher": "a\u2028b\ufeff", "stages": ["\x85", {"\r\n": {"on": "1e3", "~": None}}]})
)
def test_written_and_read_again_a_recipe_is_the_same(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "written.yaml"
    path.write_text(write_recipe(recipe), encoding="utf-8", newline="")
    assert read_recipe(path).recipe == recipe


def test_a_written_recipe_is_short_and_in_order() -> None:
    shared = {"round_to": 4}
    recipe = Recipe.model_validate({"teacher": "t", "stages": ["a", {"b": shared}, {"c": shared}], "seed": 0})
    assert write_recipe(recipe) == "teacher: t\nstages:\n- a\n- b:\n    round_to: 4\n- c:\n    round_to: 4\n"


@given(st.lists(st.sampled_from(["a", "b", "a-2", "a-2-2"]), min_size=1, max_size=8))
def test_stage_labels_are_unique_and_open_with_the_strategy(names: list[str]) -> None:
    labels = stage_labels(Recipe.model_validate({"teacher": "t", "stages": names}))
    assert len(set(labels)) == len(names)
    assert all(label.startswith(name) for label, name in zip(labels, names, strict=True))
    assert all(labels[names.index(name)] == name for name in names if "-" not in name)
