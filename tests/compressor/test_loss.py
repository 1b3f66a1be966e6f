from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compressor.errors import RecipeError
from compressor.loss import Loss
from compressor.named_options import build
from compressor.plan_loading import load_plan
from compressor.planning import Plan
from compressor.recipe import Recipe
from compressor.recipe_file import write_recipe
from compressor.validation_messages import explain
from tests.compressor.fake_plugins import Distill, MelL1, fake_catalog

shares = st.floats(0.0, 1.0)
factors = st.floats(0.0, 1e6)
schedules = st.dictionaries(shares, factors, min_size=1, max_size=6)


def weighted(weight: object) -> Loss:
    return build(MelL1, {"weight": weight})


def problems(weight: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        weighted(weight)
    return [message for _, message in explain(caught.value, {"weight": weight})]


@given(factors, st.floats(-1.0, 2.0))
def test_a_number_holds_at_any_time(weight: float, done: float) -> None:
    assert weighted(weight).weight == weight
    assert weighted(weight).weight_at(done) == weight


@given(schedules)
def test_a_schedule_passes_its_points_and_is_constant_outside(schedule: dict[float, float]) -> None:
    loss = weighted(schedule)
    assert {share: loss.weight_at(share) for share in schedule} == schedule
    assert loss.weight_at(-1.0) == schedule[min(schedule)]
    assert loss.weight_at(1.5) == schedule[max(schedule)]


@given(schedules, shares)
def test_between_points_it_lies_between_their_factors(schedule: dict[float, float], done: float) -> None:
    before = [share for share in schedule if share <= done] or [min(schedule)]
    after = [share for share in schedule if share >= done] or [max(schedule)]
    ends = sorted((schedule[max(before)], schedule[min(after)]))
    assert ends[0] - 1e-9 <= weighted(schedule).weight_at(done) <= ends[1] * (1 + 1e-12)


def test_it_goes_straight_from_point_to_point() -> None:
    loss = weighted({0.75: 1.0, 0.25: 3.0})
    assert [loss.weight_at(done) for done in (0.0, 0.25, 0.5, 0.625, 0.75, 1.0)] == [3.0, 3.0, 2.0, 1.5, 1.0, 1.0]


@given(factors | schedules)
def test_it_serialises_to_what_was_written(weight: float | dict[float, float]) -> None:
    loss = weighted(weight)
    assert loss.model_dump() == {"weight": weight, "n_mels": 80}
    assert MelL1.model_validate_json(loss.model_dump_json()) == loss


@given(factors | schedules)
def test_a_strategys_options_name_their_losses(weight: float | dict[float, float]) -> None:
    context = {"losses": {MelL1.name: MelL1}}
    options = {"schedule": {"steps": 1}, "losses": ["mel-l1", {"mel-l1": {"weight": weight}}]}
    strategy = build(Distill, options, context)
    written = strategy.model_dump(mode="json")
    assert [list(loss) for loss in written["losses"]] == [["mel-l1"], ["mel-l1"]]
    assert build(Distill, json.loads(json.dumps(written)), context) == strategy


@given(schedules)
def test_a_recipe_written_and_read_has_the_same_schedule(schedule: dict[float, float]) -> None:
    recipe = Recipe.model_validate({"teacher": "t", "stages": [{"distill": {"weight": schedule}}]})
    read = Recipe.model_validate(yaml.safe_load(write_recipe(recipe)))
    assert read == recipe
    assert weighted(read.stages[0].options["weight"]) == weighted(schedule)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (-1, ["must be >= 0.0, found -1"]),
        (float("nan"), ["must be a finite number, found nan"]),
        ("much", ["must be a number, found 'much'"]),
        ([0, 1], ["expected a number, or numbers by share of a phase such as {0: 0.0, 0.5: 1.0}, found [0, 1]"]),
        ({}, ["must have at least 1 item, found {}"]),
        ({"half": 1.0}, ["must be a number, found 'half'"]),
        ({0.5: float("inf")}, ["must be a finite number, found inf"]),
    ],
)
def test_what_is_no_weight(weight: object, expected: list[str]) -> None:
    assert problems(weight) == expected


def test_all_of_a_schedule_s_problems_are_told() -> None:
    share, factor = problems({50: 1.0, 1: -2.0})
    assert share.endswith("from 0 (its start) to 1 (its end); found 50")
    assert factor == "must be >= 0.0, found -2.0"


RECIPE = """\
teacher: vocoder.onnx
data:
  folder: {path: speech}
stages:
  - distill:
      schedule: {steps: 100}
      losses:
        - mel-l1:
            weight:
              0: 0.0
              0.5: 45
"""


@pytest.fixture
def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Plan]:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    path = tmp_path / "recipe.yaml"

    def plan_of(text: str) -> Plan:
        path.write_text(text, encoding="utf-8")
        return load_plan(path, catalog=fake_catalog())

    return plan_of


def test_a_recipe_file_may_hold_a_schedule(plan_of: Callable[[str], Plan]) -> None:
    strategy = plan_of(RECIPE).stages[0].strategy
    assert isinstance(strategy, Distill)
    assert [loss.weight for loss in strategy.losses] == [{0.0: 0.0, 0.5: 45.0}]


def test_problems_of_a_schedule_come_with_their_lines(plan_of: Callable[[str], Plan]) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(RECIPE.replace("0: 0.0", "0: -2").replace("0.5", "50"))
    share, factor = sorted(caught.value.problems, key=lambda problem: problem.line or 0, reverse=True)
    assert (share.line, share.path) == (11, "stages.1.distill.losses.1.mel-l1.weight.50")
    assert (factor.line, factor.path) == (10, "stages.1.distill.losses.1.mel-l1.weight.0")


def schema() -> dict[str, Any]:
    number, mapping = MelL1.model_json_schema()["properties"]["weight"]["oneOf"]
    assert number == {"type": "number", "minimum": 0.0}
    return dict(mapping)


def test_the_schema_has_both_forms() -> None:
    mapping = schema()
    assert (mapping["type"], mapping["minProperties"]) == ("object", 1)
    assert mapping["additionalProperties"] == {"type": "number", "minimum": 0.0}


@given(shares | st.sampled_from([0, 1]))
def test_the_schema_allows_shares_as_yaml_and_json_write_them(share: float) -> None:
    pattern = schema()["propertyNames"]["pattern"]
    assert re.search(pattern, str(share))
    assert re.search(pattern, yaml.safe_dump({share: 0}).partition(":")[0])


@given(st.floats(allow_nan=False).filter(lambda value: not 0.0 <= value <= 1.0) | st.text("0123456789.eE-", max_size=5))
def test_the_schema_allows_no_other_keys(key: float | str) -> None:
    if re.search(schema()["propertyNames"]["pattern"], str(key)):
        assert 0.0 <= float(key) <= 1.0
