"""The command among other commands: in pipes, in logs, completed by shells, interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.cli import main
from compressor.report import Report
from compressor.sweep.results import Results
from tests.integration.installing import COMPRESS, write_small_model
from tests.integration.tiny_recipe import write_tiny_recipe

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


SWEEP = ["sweep", "recipe.yaml", "--vary", "seed=1,2", "--metric", "macs", "--out", "swept"]


def test_a_sweep_is_silent_too_and_its_results_are_all_of_the_output(folder: Path) -> None:
    told = done_in_a_process(*SWEEP, "--json")
    silent = done_in_a_process(*SWEEP, "--json", "--quiet", "--workers", "2", "--out", "silent")
    assert "trials to run: 2" in told.stderr
    assert "swept/sweep.html" in told.stderr
    assert silent.stderr == ""
    for done, out in ((told, "swept"), (silent, "silent")):
        found = Results.model_validate_json(done.stdout)
        assert found == Results.model_validate_json((folder / out / "sweep.json").read_bytes())
        assert [trial.state for trial in found.trials] == ["finished", "finished"]
        assert (folder / out / "sweep.html").is_file()


def done_in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command where what libraries write past Python's streams is seen as well."""
    command = [sys.executable, "-c", COMPRESS, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_what_keeps_a_silent_sweep_from_its_results_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pruning = {"channel-importance-pruning": {"importance": "magnitude"}}
    write_tiny_recipe(tmp_path, [pruning], budget={"parameters": "1%"}, metrics=["parameters", "macs"])
    missed = CliRunner().invoke(main, [*SWEEP, "-q", "--json"])
    assert missed.exit_code == 2
    assert [trial.state for trial in Results.model_validate_json(missed.stdout).trials] == ["pruned", "pruned"]
    assert missed.stderr.startswith("error: no trial came to an end")


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


@pytest.mark.parametrize(
    ("words", "resumed"),
    [
        (["run"], "goes on from the last checkpoint"),
        (["sweep", "--vary", "seed=1,2,3", "--metric", "macs"], "goes on with the rest"),
    ],
    ids=["run", "sweep"],
)
def test_what_is_interrupted_says_how_it_goes_on(words: list[str], resumed: str, folder: Path) -> None:
    recipe = RECIPE.replace("[fold]", "[fastest-exact-form]")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-c", CTRL_C + COMPRESS, *words, "recipe.yaml", "--out", "stopped"]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert stopped.returncode == 130, stopped.stderr
    assert "[1/1] fastest-exact-form" in stopped.stderr
    assert f"interrupted; the same command {resumed}\n" in stopped.stderr
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
        ("compress sweep --js", 2, "--json"),
    ],
)
def test_what_the_script_asks_for_is_completed(words: str, at: int, offered: str) -> None:
    assert f"plain,{offered}" in completed(words, at)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("run", "file"),
        ("plan", "file"),
        ("sweep", "file"),
        ("inspect", "file"),
        ("doctor", "file"),
        ("synth", "file"),
        ("synth student.onnx", "file"),
        ("synth student.onnx in.wav --recipe", "file"),
        ("synth student.onnx in.wav --output", "file"),
        ("compare", "dir"),
        ("compare runs/a", "dir"),
        ("compare runs/a runs/b --output", "file"),
        ("new-plugin mine --to", "dir"),
        ("recipes copy exact_speedup --to", "file"),
        *(
            (f"{command} recipe.yaml {option}", kind)
            for command in ("run", "plan", "sweep")
            for option, kind in (("--teacher", "file"), ("--data", "dir"), ("--out", "dir"))
            if (command, option) != ("plan", "--out")
        ),
    ],
)
def test_names_of_files_and_folders_are_left_to_the_shell(words: str, kind: str) -> None:
    line = f"compress {words} my_v"
    assert completed(line, len(line.split()) - 1) == [f"{kind},my_v"]


def completed(words: str, at: int) -> list[str]:
    """Return what a shell is told when it asks how a line goes on."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(at), "_COMPRESS_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", COMPRESS], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


REGISTERED = {
    "bash": ["bash", "--norc", "-c", "source ./script && complete -p compress"],
    "zsh": ["zsh", "-f", "-c", "autoload -U compinit && compinit -u -D && source ./script && print $_comps[compress]"],
    "fish": ["fish", "--no-config", "-c", "source ./script && complete --command compress"],
}


@pytest.mark.parametrize("shell", REGISTERED)
def test_a_real_shell_takes_the_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(CliRunner().invoke(main, ["completion", shell]).output, encoding="utf-8")
    told = subprocess.run(REGISTERED[shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert "_compress_completion" in told.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_line(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(CliRunner().invoke(main, ["completion", "bash"]).output, encoding="utf-8")
    command = tmp_path / "compress"
    command.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -c "{COMPRESS}" "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    asked = "COMP_WORDS=(compress recipes copy exact); COMP_CWORD=3; _compress_completion ./compress; echo $COMPREPLY"
    told = subprocess.run(
        ["bash", "--norc", "-c", f"source ./script; {asked}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (told.stdout, told.stderr) == ("exact_speedup\n", "")
