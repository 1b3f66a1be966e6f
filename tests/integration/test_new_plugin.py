"""What `compress new-plugin` writes: changed, installed, tested and used in a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from compressor.cli import main
from tests.integration.installing import COMPRESS, install_into, run, write_small_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins") / "mine"
    done = CliRunner().invoke(main, ["new-plugin", "weight-thinning", "--to", str(folder)])
    assert done.exit_code == 0, done.output
    # Changed, as its author would.
    strategy = folder / "compressor_weight_thinning" / "strategy.py"
    changed = strategy.read_text(encoding="utf-8").replace("Field(default=0.5", "Field(default=0.75")
    assert "default=0.75" in changed
    strategy.write_text(changed, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install_into(tmp_path_factory.mktemp("site-packages"), written)


def test_its_own_tests_pass(written: Path, installed: dict[str, str], tmp_path: Path) -> None:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(written / "tests")]
    assert "passed" in run(*command, environment=installed, cwd=tmp_path)


def test_it_is_listed_with_its_options(installed: dict[str, str]) -> None:
    listed = json.loads(run("-c", COMPRESS, "plugins", "--json", "--verbose", environment=installed))
    (mine,) = [offer for offer in listed["plugins"] if offer["name"] == "weight-thinning"]
    assert mine["from"] == "plugin 'weight-thinning' (compressor-weight-thinning 0.1.0)"
    assert {option["name"]: option["default"] for option in mine["options"]}["share"] == 0.75


def test_a_recipe_runs_it(installed: dict[str, str], tmp_path: Path) -> None:
    write_small_model(tmp_path / "small.onnx")
    recipe = "teacher: small.onnx\nstages: [weight-thinning]\nmetrics: [parameters]\nout: run\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    run("-c", COMPRESS, "run", "recipe.yaml", environment=installed, cwd=tmp_path)
    (weight,) = [numpy_helper.to_array(each) for each in onnx.load(tmp_path / "run/student.onnx").graph.initializer]
    assert int(np.count_nonzero(weight)) == weight.size - int(0.75 * weight.size)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Tucker", "expected small letters"),
        ("class", "cannot name a strategy"),
        ("fold", "there is a strategy 'fold' already"),
        ("conv", "is installed already"),
    ],
)
def test_names_that_cannot_be(name: str, told: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["new-plugin", name, "--to", str(tmp_path / "new")])
    assert refused.exit_code == 2
    assert told in refused.output
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    refused = CliRunner().invoke(main, ["new-plugin", "another", "--to", str(written)])
    assert refused.exit_code == 2
    assert re.search("holds something already", refused.output)
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before
