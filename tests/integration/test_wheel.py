"""The built wheel, installed where no checkout is, lists its recipes, copies one and runs it."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from compressor.stored_model import onnx_session

ROOT = Path(__file__).parents[2]


def done(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `compress` of an environment that has the wheel, and finds what it needs among what is here."""
    wheels, home = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("environment")
    pip = [sys.executable, "-m", "pip"]
    done(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, ROOT)
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = wheels.glob("*.whl")
    done(*pip, "--python", scripts / "python", "install", "-q", "--no-deps", "--no-index", wheel)
    own = Path(done(scripts / "python", "-c", "import site; print(site.getsitepackages()[0])").strip())
    # A plain path: what makes the checkout importable there, a .pth file of its own, is not read.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return scripts / "compress"


def test_recipes_are_inside_and_run_from_anywhere(installed: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    listed = json.loads(done(installed, "recipes", "--json", cwd=tmp_path, environment=environment))["recipes"]
    assert {recipe["name"] for recipe in listed} == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert not any(Path(recipe["file"]).is_relative_to(ROOT) for recipe in listed)
    done(installed, "recipes", "copy", "exact_speedup", cwd=tmp_path, environment=environment)
    options: list[str | Path] = ["--teacher", tiny_onnx, "--set", "metrics=[parameters, macs]", "--out", "run"]
    done(installed, "run", "exact_speedup.yaml", *options, cwd=tmp_path, environment=environment)
    before, after = (onnx_session(path.read_bytes()) for path in (tiny_onnx, tmp_path / "run/student.onnx"))
    assert [spec.shape for spec in after.get_inputs()] == [spec.shape for spec in before.get_inputs()]
