"""The plugin under `docs/plugins/example`, built and installed as a third party's is, and used by the command."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog
from tests.integration.installing import COMPRESS, install_into, run, write_small_model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "plugins" / "example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the plugin into a folder of its own; returns the environment in which it is found."""
    return install_into(tmp_path_factory.mktemp("site-packages"), EXAMPLE)


def test_its_classes_are_listed_with_their_distribution(installed: dict[str, str]) -> None:
    listed = json.loads(run("-c", COMPRESS, "plugins", "--json", environment=installed))
    origins = {entry["name"]: entry["from"] for entry in listed["plugins"]}
    assert listed["failures"] == []
    assert origins["weight-rounding"] == origins["max-abs-difference"] == "plugin 'example' (compressor-example 1.0.0)"


def test_a_recipe_plans_its_strategy(installed: dict[str, str], tmp_path: Path) -> None:
    write_small_model(tmp_path / "small.onnx")
    recipe = "teacher: small.onnx\nstages:\n  - weight-rounding: {mantissa_bits: 4}\nmetrics: [parameters, macs]\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    planned = run("-c", COMPRESS, "plan", "recipe.yaml", environment=installed, cwd=tmp_path)
    assert "weight-rounding" in planned
    assert "of its norm" in planned
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "small.onnx"]


def test_its_own_tests_pass(installed: dict[str, str], tmp_path: Path) -> None:
    # From another folder: what is tested is what was installed, not what lies beside the tests.
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    assert "passed" in run(*command, environment=installed, cwd=tmp_path)


def test_its_recipe_is_valid_with_the_plugin_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="there is no 'weight-rounding'"):
        load_plan(EXAMPLE / "recipe.yaml")
    monkeypatch.syspath_prepend(EXAMPLE)
    catalog = load_catalog([importlib.import_module("compressor_example.plugin")])
    plan = load_plan(EXAMPLE / "recipe.yaml", catalog=catalog)
    assert [stage.label for stage in plan.stages] == ["weight-rounding"]
