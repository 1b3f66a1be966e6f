"""`compress plugins`: what loaded, with every option, and what did not, with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compressor.cli import main
from compressor.hookspecs import API_VERSION
from tests.integration.installing import write_small_model

Install = Callable[[str, str], None]

PLUGIN = '''
from typing import ClassVar

from pydantic import Field

from compressor.hookspecs import hookimpl
from compressor.strategy import Strategy

COMPRESSOR_API = {api!r}


class Thinning(Strategy):
    """Set small weights to zero."""

    name: ClassVar[str] = "thinning"
    share: float = Field(default=0.25, description="of the weights")
    layer: str = Field(description="whose weights")

    def apply(self, student, context): ...


@hookimpl
def compressor_strategies():
    return [Thinning]
'''
BROKEN = "def warm_up():\n    return 1 / 0\n\n\nwarm_up()\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one plugin module on the path, as pip does."""

    def put(name: str, source: str) -> None:
        # Modules stay imported from test to test; each has a name of its own.
        module = f"{name}_of_{re.sub(r'[^a-z0-9]', '_', tmp_path.name)}"
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{name}_dist-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[compressor]\n{name} = {module}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

    return put


def compress(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("api", "told"),
    [
        (API_VERSION + 1, f"made for version {API_VERSION + 1} .*here is {API_VERSION}; update onnx-student"),
        (API_VERSION - 1, f"made for version {API_VERSION - 1} .*here is {API_VERSION}; update the plugin"),
        ("1", f"COMPRESSOR_API is '1', expected a whole number such as {API_VERSION}"),
    ],
)
def test_a_plugin_for_another_version_is_refused(api: object, told: str, install: Install, tmp_path: Path) -> None:
    install("thin", PLUGIN.format(api=api))
    listed = compress("plugins")
    assert listed.exit_code == 0
    assert re.search(rf"^not loaded: plugin 'thin' \(thin-dist 1\.2\) did not load: .*{told}", listed.stderr, re.M)
    assert "thinning" not in listed.stdout
    assert "depthwise-separable-conv" in listed.stdout
    # A recipe that asks for it is told why it is missing.
    write_small_model(tmp_path / "small.onnx")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"teacher: {tmp_path / 'small.onnx'}\nstages: [{{thinning: {{layer: x}}}}]\n", encoding="utf-8")
    refused = compress("plan", str(recipe))
    assert refused.exit_code == 2
    assert re.search(f"there is no 'thinning'.*{told}", refused.stderr)


def test_every_option_is_told(install: Install) -> None:
    install("thin", PLUGIN.format(api=API_VERSION))
    listed = compress("plugins", "--verbose")
    assert (listed.exit_code, listed.stderr) == (0, "")
    (shown,) = [block for block in listed.stdout.split("\n\n") if block.startswith("thinning: ")]
    first, second, *options = shown.splitlines()
    assert first == "thinning: Set small weights to zero."
    assert re.fullmatch(r"  strategies, thin_of_\w+\.Thinning, from plugin 'thin' \(thin-dist 1\.2\)", second)
    assert "    share (0.25): of the weights" in options
    assert "    layer (required): whose weights" in options


def test_where_a_plugin_failed_is_told(install: Install) -> None:
    install("broken", BROKEN)
    briefly, fully = compress("plugins"), compress("plugins", "--verbose")
    reason = "not loaded: plugin 'broken' (broken-dist 1.2) did not load: ZeroDivisionError: division by zero\n"
    assert briefly.stderr == reason
    assert fully.stderr.startswith(f"{reason}Traceback")
    assert re.search(r'broken_of_\w+\.py", line 2, in warm_up', fully.stderr)
    assert fully.exit_code == 0
    assert "depthwise-separable-conv: " in fully.stdout
