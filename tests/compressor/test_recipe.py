from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compressor.recipe import Limit, Named, Recipe


@pytest.mark.parametrize(
    ("text", "teacher", "limit"),
    [
        ("30%", 200.0, 60.0),
        ("12.5 %", 80.0, 10.0),
        ("4_250_577", 1.0, 4250577.0),
        ("1e6", 1.0, 1e6),
        ("2.5E-1", 9.0, 0.25),
    ],
)
def test_a_limit_is_a_share_or_a_number(text: str, teacher: float, limit: float) -> None:
    assert Limit(text=text).value(teacher) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["0%", "101%", "-3", "", "30 percent", "nan", "inf", "0"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValidationError, match="expected a percentage of the teacher such as '30%'"):
        Limit(text=text)


@given(st.floats(min_value=1e-30, max_value=1e30), st.floats(min_value=1e-3, max_value=1e12))
def test_a_number_limits_to_itself(number: float, teacher: float) -> None:
    recipe = Recipe.model_validate({"teacher": "t", "stages": ["prune"], "budget": {"macs": number}})
    assert recipe.budget["macs"].value(teacher) == number


@pytest.mark.parametrize("limit", [True, None, [1], {}])
def test_limits_of_a_wrong_type(limit: object) -> None:
    with pytest.raises(ValidationError, match="expected a percentage"):
        Recipe.model_validate({"teacher": "t", "stages": ["prune"], "budget": {"macs": limit}})


def test_options_built_in_code_become_plain_values() -> None:
    named = Named(name="folder", options={"path": Path("speech"), "splits": (1, 2)})
    assert named.options == {"path": "speech", "splits": [1, 2]}


def test_a_recipe_takes_all_forms_of_a_stage() -> None:
    recipe = Recipe.model_validate({"teacher": "t", "stages": ["a", {"a": None}, {"a": {}}, Named(name="a")]})
    assert {stage.name for stage in recipe.stages} == {"a"}
    assert all(stage == Named(name="a") for stage in recipe.stages)


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.0, "1"])
def test_a_seed_is_a_32_bit_number(seed: object) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({"teacher": "t", "stages": ["prune"], "seed": seed})
