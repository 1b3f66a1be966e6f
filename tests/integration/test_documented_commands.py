"""The documentation's commands, run page by page, where all that they name is there and tiny.

Recipes have the stages that they have; teachers, data, steps and trials are small. What a page makes is there for its
later commands, as it is for a reader who follows it.
"""

from __future__ import annotations

import copy
import io
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner
from compressor_audio.piper_speech import all_sentences
from compressor_audio.piper_voice import PiperVoice, Scales
from torch import nn

from compressor.cli import main
from compressor.testing.tiny_vocoder import tiny_vocoder, vocoder_onnx
from tests.integration.documented import DOCUMENTS, ROOT, commands_of, snippets_of, told_to_compress
from tests.nsf_vocoder import TINY, nsf_onnx
from tests.piper_voice import write_piper_voice

RATE = 16000
MEL = {"sample_rate": RATE, "n_fft": 64, "win_length": 64, "hop_length": 8, "n_mels": 8, "fmin": 0.0, "fmax": 8000.0}
SUNG = {"sample_rate": 8000, "n_fft": 512, "win_length": 512, "hop_length": 64, "n_mels": 8, "fmax": 4000}
RUN_ELSEWHERE = {
    "docs/how-to/write-a-plugin.md": "tests/integration/test_new_plugin.py",
    "docs/plugins/example/README.md": "tests/integration/test_example_plugin.py",
    "CONTRIBUTING.md": "what CI itself runs",
}
PAGES = [
    page
    for page in DOCUMENTS
    if page.relative_to(ROOT).as_posix() not in RUN_ELSEWHERE
    and any(told_to_compress(words) is not None for words in commands_of(page))
]
REFERENCE = ROOT / "docs/reference/commands.md"
"""Its examples stand for themselves: none follows another."""
MAKES = {"run": "runs/hifigan_student", "sweep": "runs/hifigan_student_sweep", "new-plugin": "compressor-tucker-conv"}


class Classifier(nn.Module):
    """Images (1, 3, 16, 16) to the logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image)
        return logits


def classifier_onnx() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Classifier().eval(), (torch.zeros(1, 3, 16, 16),), buffer,  # type: ignore[arg-type]
            dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
        )  # fmt: skip
    return buffer.getvalue()


def shrunk(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with a small teacher, little data and two steps, and all else as it is."""
    small = copy.deepcopy(recipe)
    data = recipe.get("data", {})
    if "piper-phonemes" in data:
        small["teacher"]["onnx"] = "my_voice.onnx"
        small["data"] = {"piper-phonemes": {"sentences": 3, "validation_sentences": 1}}
    elif "array-folder" not in data:
        sung = isinstance(recipe["teacher"], dict)
        if not sung:
            small["teacher"] = "my_vocoder.onnx"
        path, mel = ("songs", SUNG) if sung else ("recordings", MEL)
        small["data"] = {"speech-folder": {"path": path, "validation_files": 1, "min_seconds": 0.2, "mel": mel}}
    if "array-folder" not in data:
        small.setdefault("metrics", ["parameters", "macs", "output-drift", "stoi"])
    if "budget" in recipe:
        small["budget"] = {cost: eased(limit) for cost, limit in recipe["budget"].items() if cost != "latency"}
    for stage in small["stages"]:
        for name, options in stage.items() if isinstance(stage, dict) else ():
            if name == "channel-importance-pruning":
                options["round_to"] = 2
            if name == "distillation":
                options |= {"batch_size": 2, "segment": 24, "block_wise": {"steps": 1}}
                options["end_to_end"] = {**options.get("end_to_end", {}), "steps": 2}
                options["losses"] = [loss if "kl-divergence" in loss else "mse" for loss in options["losses"]]
    return small


def eased(limit: str) -> str:
    """Return a limit that a tiny model can meet: it has little to spare."""
    return re.sub(r"(\d+)%", lambda found: f"{min(95, int(found[1]) + 40)}%", limit)


def tone(path: Path, rate: int, seconds: float, pitch: float) -> None:
    path.parent.mkdir(exist_ok=True)
    turns = 2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate
    soundfile.write(path, 0.1 * sum(np.sin(turns * at) / at for at in range(1, 6)), rate)


@pytest.fixture(scope="module")
def models() -> dict[str, Callable[[], bytes] | bytes]:
    vocoder = vocoder_onnx(tiny_vocoder("1"))
    names = ("my_vocoder", "voice", "my_model")
    return {**dict.fromkeys(names, vocoder), "nsf_hifigan": nsf_onnx(TINY), "my_classifier": classifier_onnx()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, bytes]) -> Path:
    """Return a folder, which is the current one, with the files that pages name."""
    monkeypatch.chdir(tmp_path)
    for name, content in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
    write_piper_voice(tmp_path / "my_voice.onnx")
    for number in range(3):
        for folder in ("recordings", "wavs"):
            tone(tmp_path / folder / f"{number}.wav", RATE, 0.5, 200 + 40 * number)
        tone(tmp_path / "songs" / f"{number}.wav", 8000, 0.6, 150 + 40 * number)
    tone(tmp_path / "speech.wav", RATE, 0.5, 180)
    (tmp_path / "recipes").mkdir()
    for path in (ROOT / "recipes").glob("*.yaml"):
        write(tmp_path / "recipes" / path.name, yaml.safe_load(path.read_text(encoding="utf-8")))
    return tmp_path


def write(path: Path, recipe: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(shrunk(recipe)), encoding="utf-8")


def write_own_recipe(page: Path, name: str) -> None:
    """Write the recipe that a page tells its reader to: the first whole one in it."""
    recipes = [yaml.safe_load(each.code) for each in snippets_of(page) if each.language == "yaml"]
    write(Path(name), next(recipe for recipe in recipes if isinstance(recipe, dict) and "teacher" in recipe))


def in_small(told: list[str], page: Path) -> list[str]:
    """Return a command with few steps and trials, on the processor that there is."""
    recipe = "recipes/hifigan_student.yaml"
    words = [eased(re.sub(r"steps=\d+$", "steps=3", recipe if word == "RECIPE" else word)) for word in told]
    if "--device" in words and not torch.cuda.is_available():
        at = words.index("--device")
        del words[at : at + 2]
    if words[0] == "sweep":
        words = [word for word in words if word not in ("--executor", "ray", "--workers", "8", "--trials", "20")]
        words = ["stoi" if word == "pesq-wb" else word for word in [*words, "--trials", "2"]]
    if page == REFERENCE and words[0] in MAKES and "--out" not in words:
        shutil.rmtree(MAKES[words[0]], ignore_errors=True)
    return words


def run(words: list[str]) -> None:
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    # A student of two steps may miss what a page's gates ask.
    assert done.exit_code == 0 or (done.exit_code == 3 and words[0] == "run"), f"{' '.join(words)}\n{done.output}"


def run_snippets(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for snippet in snippets_of(page):
        if snippet.language == "python" and snippet.to_run:
            module = ModuleType("snippet")
            monkeypatch.setitem(sys.modules, "snippet", module)
            exec(compile(snippet.code, str(snippet), "exec"), vars(module))  # noqa: S102 - our own documentation


def check_voice() -> None:
    """Check that what the page of Piper voices makes is a voice again, which speaks."""
    voice = PiperVoice.read(Path("runs/voice/student.onnx"))
    (audio,) = voice.speak([all_sentences()[0].phonemes], Scales(0.667, 1.0, 0.8), seed=0)
    assert len(audio) > RATE / 4
    assert 0.02 < np.sqrt(np.mean(audio**2)) < 1.0


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_s_commands_run_one_after_the_other(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_snippets(page, monkeypatch)
    if page == REFERENCE:
        for options in ([], ["--out", "runs/4000_steps"]):
            run(["run", "recipes/hifigan_student.yaml", *options])
    done: list[list[str]] = []
    for told in filter(None, map(told_to_compress, commands_of(page))):
        if told in done:
            continue
        done.append(told)
        own = next((word for word in told if word in ("my_recipe.yaml", "my_classifier.yaml")), None)
        if own and not Path(own).exists():
            write_own_recipe(page, own)
        run(in_small(told, page))
    if page.stem == "piper-voice":
        check_voice()


def test_there_is_something_to_run() -> None:
    assert len(PAGES) > 10
    assert RUN_ELSEWHERE.keys() <= {page.relative_to(ROOT).as_posix() for page in DOCUMENTS}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_stand_in_fences(page: Path) -> None:
    """What is merely indented would not be run."""
    assert re.findall(r"^ {4}.*\bcompress (?:run|plan|doctor|sweep)\b.*$", page.read_text(encoding="utf-8"), re.M) == []
