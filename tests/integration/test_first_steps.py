"""The way in: the bare command, and where it leads without a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compressor.cli import main
from compressor.plan_loading import load_plan

RECIPES = Path(__file__).parents[2] / "recipes"


def compress(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_help_and_the_bare_command_import_no_torch() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from compressor.cli import main\n"
        "for words in ([], ['run', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(main, words).exit_code == 0\n"
        "print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_bare_command_shows_the_way_in() -> None:
    shown = compress()
    assert shown.exit_code == 0
    assert shown.output.endswith(
        "New here? Try:\n  compress recipes copy hifigan_student\n  compress plan hifigan_student.yaml\n"
    )


def test_the_way_in_leads_on_where_no_checkout_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for missing in ("hifigan_student.yaml", "recipes/hifigan_student.yaml"):
        lost = compress("plan", missing)
        assert lost.exit_code == 2
        assert f"{missing}: there is no such file" in lost.output
        assert "`compress recipes copy hifigan_student` writes" in lost.output
    assert "recipes copy" not in compress("plan", "of_my_own.yaml").output
    compress("recipes", "copy", "hifigan_student")
    assert load_plan("hifigan_student.yaml").stages == load_plan(RECIPES / "hifigan_student.yaml").stages
