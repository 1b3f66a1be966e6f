"""What the report prints at its end makes the same student again, where the run was made."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.cli import main
from tests.integration.tiny_recipe import write_tiny_recipe


def test_the_printed_command_makes_the_same_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, work = tmp_path / "published", tmp_path / "work"
    published.mkdir()
    work.mkdir()
    write_tiny_recipe(published, ["channel-importance-pruning"], budget={"parameters": "80%"})
    (published / "tiny.onnx").rename(work / "my_vocoder.onnx")
    (published / "wavs").rename(work / "recordings")
    monkeypatch.chdir(work)
    replaced = ["--teacher", "my_vocoder.onnx", "--data", "recordings/", "--set", "seed=3"]
    first = CliRunner().invoke(main, ["run", "../published/recipe.yaml", *replaced, "--out", "runs/my own/"])
    assert first.exit_code == 0, first.output
    page = (work / "runs/my own/report.html").read_text(encoding="utf-8")
    (printed,) = re.findall(r"in the folder where it was run before: <code>(.*?)</code>", page)
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", html.unescape(printed)],
        env={**os.environ, "PATH": commands}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    once, again = work / "runs/my own", work / "runs/my own-again"
    assert (again / "student.onnx").read_bytes() == (once / "student.onnx").read_bytes()
    assert (again / "recipe.yaml").read_bytes() == (once / "recipe.yaml").read_bytes()
