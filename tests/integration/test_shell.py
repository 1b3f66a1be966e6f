"""The command among other commands: in pipes, in logs, completed by shells, interrupted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.cli import main
from compressor.report import Report
from tests.integration.installing import COMPRESS, write_small_model

RECIPE = """\
teacher: small.onnx
stages: [fold]
metrics: [parameters, macs]
out: run
"""

# The process presses Ctrl-C itself, a moment after it says that the stage begins: whoever watches it from outside may
# be too late on a busy machine.
CTRL_C = """\
import signal, sys
write = sys.stderr.write
def watched(text):
    if "[1/1]" in text:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    return write(text)
sys.stderr.write = watched
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, which is the current one, with a small model and a recipe for it."""
    monkeypatch.chdir(tmp_path)
    write_small_model(tmp_path / "small.onnx")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_json_is_all_of_the_output_and_quiet_is_silence() -> None:
    told = CliRunner().invoke(main, ["run", "recipe.yaml", "--json"])
    assert told.exit_code == 0, told.output
    assert Report.model_validate_json(told.stdout).stages[0].strategy == "fold"
    assert "[1/1] fold" in told.stderr
    silent = CliRunner().invoke(main, ["run", "recipe.yaml", "--resume", "--quiet"])
    assert (silent.exit_code, silent.output) == (0, "")
    planned = CliRunner().invoke(main, ["plan", "recipe.yaml", "-q", "--json"])
    assert planned.stderr == ""
    found = json.loads(planned.stdout)
    assert found["stages"][0]["strategy"] == "fold"
    assert found["student"]["layers"][0]["parameters"] == 18


@pytest.mark.usefixtures("folder")
def test_errors_are_told_where_all_else_is_silent() -> None:
    refused = CliRunner().invoke(main, ["run", "recipe.yaml", "--quiet", "--set", "fold.no_such=1"])
    assert refused.exit_code == 2
    assert "no_such" in refused.stderr


@pytest.mark.usefixtures("folder")
def test_a_log_has_no_control_characters() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-c", COMPRESS, "run", "recipe.yaml", "--out", "logged"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"[^\n\x20-\x7e\u00a0-\uffff]", done.stdout + done.stderr) is None
    assert "done in" in done.stderr


def test_an_interrupted_run_says_how_it_goes_on(folder: Path) -> None:
    recipe = RECIPE.replace("[fold]", "[fastest-exact-form]")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-c", CTRL_C + COMPRESS, "run", "recipe.yaml", "--out", "stopped"]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert stopped.returncode == 130, stopped.stderr
    assert "[1/1] fastest-exact-form" in stopped.stderr
    assert "interrupted; the same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(shell: str) -> None:
    told = CliRunner().invoke(main, ["completion", shell])
    assert told.exit_code == 0
    assert "_COMPRESS_COMPLETE" in told.output


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [
        ("compress re", 1, "recipes"),
        ("compress run --qu", 2, "--quiet"),
        ("compress recipes copy exact", 3, "exact_speedup"),
    ],
)
def test_what_the_script_asks_for_is_completed(words: str, at: int, offered: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(at), "_COMPRESS_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", COMPRESS], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert f"plain,{offered}" in done.stdout.splitlines()
