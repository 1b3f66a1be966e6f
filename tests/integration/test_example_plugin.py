"""The plugin under `docs/plugins/example`, built and installed as a third party's is, and used by the command."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import RecipeError
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "plugins" / "example"
COMPRESS = "from compressor.cli import main; main(prog_name='compress')"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the plugin into a folder of its own; returns the environment in which it is found."""
    target = tmp_path_factory.mktemp("site-packages")
    run("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), EXAMPLE)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}


def run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_small_model(path: Path) -> None:
    """Write a convolution over (1, 2, time): a model that is no vocoder."""
    weight = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[3], pads=[1, 1])
    graph = helper.make_graph(
        [node],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "time"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


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
