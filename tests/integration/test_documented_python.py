"""The documentation's Python, run page by page as it stands, where the files that it names are there and tiny."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import compressor
from compressor.testing import as_onnx, tiny_vocoder, vocoder_onnx
from tests.integration.documented import DOCUMENTS, ROOT, Snippet, snippets_of
from tests.integration.tiny_recipe import MEL, write_tiny_recipe

REFERENCE = ROOT / "docs/reference"
"""Its Python is the signatures of hooks, taken from the code."""
PAGES = {
    page: python
    for page in DOCUMENTS
    if not page.is_relative_to(REFERENCE)
    and (python := [snippet for snippet in snippets_of(page) if snippet.language == "python"])
}
MELS = 80
"""As many as the pages' students take; `tiny_vocoder` has eight."""
TRAINING = {
    "losses": ["l1"],
    "block_wise": {"steps": 0},
    "end_to_end": {"steps": 2},
    "batch_size": 2,
    "segment": 24,
}
STAGES = [
    {"channel-importance-pruning": {"pruning_ratio": 0.1, "round_to": 2}},
    "transposed-to-standard-conv",
    {"conv1d-to-conv2d": {"input_shape": "teacher"}},
    {"distillation": TRAINING},
    "readable-hifigan",
]
PLUGIN = """\
from compressor.hookspecs import hookimpl

@hookimpl
def compressor_strategies():
    from compressor_example.weight_rounding import WeightRounding
    return [WeightRounding]
"""
RUN_FOLDER = re.compile(r'out=Path\("(?P<folder>[^"]+)"\)')


def vocoder() -> bytes:
    """Return a tiny vocoder that takes as many bands as real ones."""
    model = tiny_vocoder()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.conv_pre = nn.Conv1d(MELS, model.conv_pre.out_channels, 7, padding=3)
    return as_onnx(model, torch.zeros(1, MELS, 24), ("mel", {2: "frames"}), ("audio", {2: "samples"}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the pages' Python names, a finished run among it."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "my_model.onnx").write_bytes(vocoder_onnx(tiny_vocoder("1")))
    (folder / "my_vocoder.onnx").write_bytes(vocoder())
    (folder / "my_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "my_recipe.yaml").write_text("teacher: my_model.onnx\nstages: [weight-rounding]\n", encoding="utf-8")
    mel = {**MEL, "n_fft": 256, "win_length": 256, "n_mels": MELS}
    data = {"speech-folder": {"path": "wavs", "validation_files": 1, "mel": mel}}
    recipe = write_tiny_recipe(folder, STAGES, teacher="my_vocoder.onnx", data=data)
    (folder / "recipes").mkdir()
    recipe.rename(folder / "recipes/hifigan_student.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = compressor.load_plan("recipes/hifigan_student.yaml")
        compressor.run(plan, compressor.RunSettings(out=Path("runs/hifigan_student")))
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which is the current one and has modules to import, as a reader's has."""
    folder = tmp_path / "place"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(ROOT / "docs/plugins/example")
    return folder


def executed(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # Classes of a snippet look up the names of its own module.
    module = ModuleType("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)
    exec(compile(snippet.code, str(snippet), "exec"), vars(module))  # noqa: S102 - the project's own documentation
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_s_python_runs_as_it_stands(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for snippet in PAGES[page]:
        module = executed(snippet, monkeypatch)
        for out in RUN_FOLDER.finditer(snippet.code):
            assert (place / out["folder"] / "student.onnx").is_file()
        if any(name.startswith("compressor_") for name in vars(module)):
            # Hooks that fail when they are called offer nothing.
            assert "snippet" in {origin.plugin for origin in compressor.load_catalog([module]).origins.values()}


def test_there_is_something_to_run() -> None:
    assert len(PAGES) >= 8
    assert sum(len(RUN_FOLDER.findall(snippet.code)) for python in PAGES.values() for snippet in python) >= 3
