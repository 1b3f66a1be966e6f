from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import compressor
from compressor.errors import RecipeError

RECIPE = "teacher: teacher.onnx\nstages:\n  - transposed-to-standard-conv\n"


def test_what_is_public_is_sorted_and_there() -> None:
    assert compressor.__all__ == sorted(compressor.__all__)
    for name in compressor.__all__:
        assert getattr(compressor, name).__name__ == name


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'compressor' has no attribute 'compress'"):
        compressor.compress  # noqa: B018


@pytest.mark.parametrize("module", ["compressor", "compressor.cli", "compressor_hifigan"])
def test_importing_does_not_import_torch(module: str) -> None:
    script = (
        f"import sys, {module}; print([name for name in ('torch', 'onnxruntime', 'librosa') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("teacher", ["other.onnx", Path("other.onnx")])
def test_a_plan_from_a_file(teacher: Path | str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    planned = compressor.load_plan(path, teacher=teacher, overrides=["seed=4"])
    assert [stage.label for stage in planned.stages] == ["transposed-to-standard-conv"]
    assert (planned.recipe.teacher.onnx, planned.recipe.seed) == ("other.onnx", 4)


def test_another_teacher_has_another_licence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"licence: CC0\n{RECIPE}")
    assert compressor.load_plan(path).recipe.licence == "CC0"
    assert compressor.load_plan(path, teacher="other.onnx").recipe.licence == ""


@pytest.mark.parametrize("folder", ["my recordings", Path("my recordings")])
def test_a_folder_of_recordings_replaces_the_data(folder: Path | str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}data:\n  piper-speech: {{sentences: 5, mel: {{hop_length: 128}}}}\n")
    data = compressor.load_plan(path, data=folder).recipe.data
    assert data is not None
    assert data.name == "speech-folder"
    assert data.options == {"mel": {"hop_length": 128}, "path": "my recordings"}


def test_mistakes_are_told_before_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}  - distilation\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:4: stages\.2: there is no 'distilation'.*did you mean"):
        compressor.load_plan(path)
