"""Singing vocoders with a sine source inside: NSF-HiFiGAN and PC-NSF-HiFiGAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner

import compressor
from compressor.cli import main
from compressor.graph_editing import feed, parameter_count
from compressor.onnx_export import export_onnx
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings
from compressor.randomness import draws
from compressor.shared_draws import RANDOM_OPERATORS, recorded_draws, taking_draws
from compressor.stored_model import StoredModel, onnx_session
from compressor.teacher_loading import Teacher, load_teacher
from tests.nsf_vocoder import NSF, PC_NSF, TINY, TINY_PC, Size, nsf_onnx, nsf_vocoder

SIZES = {"nsf": TINY, "pc-nsf": TINY_PC}
STRUCTURE: list[Any] = [
    {"channel-importance-pruning": {"round_to": 4}},
    "depthwise-separable-conv",
    "transposed-to-standard-conv",
    "conv1d-to-conv2d",
]


def sung(size: Size, frames: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return a mel, and a pitch with an unvoiced middle."""
    generator = np.random.default_rng(seed)
    f0 = np.linspace(110.0, 440.0, frames, dtype=np.float32)
    f0[frames // 3 : frames // 2] = 0.0
    mel = generator.standard_normal((1, frames, size.n_mels)).astype(np.float32) * np.float32(0.3)
    return {"mel": mel, "f0": f0[None]}


def values(arrays: dict[str, np.ndarray[Any, Any]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays.values())


def apart(teacher: Teacher, content: bytes, arrays: dict[str, Any], *, by_name: bool) -> float:
    """Return how far torch is from a file of it with the same draws, at most."""
    with recorded_draws(teacher.graph) as drawn:
        (found, *_) = feed(teacher.graph, values(arrays))
    taking, taken = taking_draws(StoredModel.of(content), drawn, by_name=by_name)
    (wanted, *_) = onnx_session(taking).run(None, {**arrays, **taken})
    return float(np.abs(found.numpy() - wanted).max())


@pytest.fixture(params=SIZES)
def vocoder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Size]:
    path = tmp_path / "nsf_hifigan.onnx"
    path.write_bytes(nsf_onnx(SIZES[request.param]))
    return path, SIZES[request.param]


@pytest.mark.parametrize(("size", "parameters"), [(NSF, 14_168_523), (PC_NSF, 14_132_801)])
def test_the_real_architectures_have_their_parameters(size: Size, parameters: int) -> None:
    assert sum(each.numel() for each in nsf_vocoder(size).parameters()) == parameters


def test_with_the_same_draws_torch_and_onnxruntime_are_equal_over_a_long_song(vocoder: tuple[Path, Size]) -> None:
    """Apart by the noise that each draws for itself, it is 1e-3 of the signal: that was never a rounding error."""
    path, size = vocoder
    teacher = load_teacher(path, load_catalog().converters)
    arrays = sung(size, 800)
    assert apart(teacher, teacher.content, arrays, by_name=True) < 1e-5
    session = onnx_session(teacher.content)
    once, again = (session.run(None, arrays)[0] for _ in range(2))
    assert np.abs(once - again).max() > 1e-4


def test_the_whole_model_is_compressed_within_its_budget(vocoder: tuple[Path, Size], tmp_path: Path) -> None:
    path, size = vocoder
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"teacher": str(path), "budget": {"parameters": "40%"}, "stages": STRUCTURE}), encoding="utf-8"
    )
    # A run compares what it writes with the torch student, on the same draws.
    result = compressor.run(compressor.load_plan(recipe), RunSettings(out=tmp_path / "run"))
    teacher = load_teacher(path, load_catalog().converters)
    assert parameter_count(result.student) <= 0.4 * parameter_count(teacher.graph)
    random = [node.op_type for node in onnx.load(tmp_path / "run/student.onnx").graph.node]
    kept = [node.op_type for node in onnx.load(path).graph.node]
    assert [kind for kind in random if kind in RANDOM_OPERATORS] == [kind for kind in kept if kind in RANDOM_OPERATORS]
    (waveform,) = onnx_session((tmp_path / "run/student.onnx").read_bytes()).run(None, sung(size, 60))
    assert waveform.shape == (1, 60 * 64)


def test_draws_are_shared_by_teacher_and_written_student(vocoder: tuple[Path, Size]) -> None:
    path, size = vocoder
    teacher = load_teacher(path, load_catalog().converters)
    with draws(7):
        assert apart(teacher, export_onnx(teacher.graph), sung(size, 40), by_name=False) < 1e-5


def test_what_follows_the_source_is_distilled_and_the_vocoder_dropped_in(
    vocoder: tuple[Path, Size], tmp_path: Path
) -> None:
    path, size = vocoder
    (tmp_path / "vocoder.yaml").write_text("name: mine\nmodel: nsf_hifigan.onnx\nhop_size: 64\n", encoding="utf-8")
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(3):
        turns = 2 * np.pi * np.cumsum(np.geomspace(150, 200 + 50 * number, 8000)) / size.sample_rate
        song = 0.1 * sum(np.sin(turns * at) / at for at in range(1, 9))
        soundfile.write(folder / f"{number}.wav", song, size.sample_rate)
    mel = {
        "sample_rate": size.sample_rate,
        "n_fft": 512,
        "win_length": 512,
        "hop_length": 64,
        "n_mels": 8,
        "fmax": 4000,
    }
    training = {"losses": ["mel-l1"], "block_wise": {"steps": 0}, "end_to_end": {"steps": 2}, "segment": 24}
    document = {
        "teacher": {
            "onnx": str(path),
            "region": {"inputs": ["mel", "/generator/Transpose_output_0"], "outputs": ["waveform"]},
        },
        "budget": {"parameters": "40%"},
        "data": {"speech-folder": {"path": str(folder), "mel": mel, "f0_shifts": [0, 5], "min_seconds": 0.5}},
        "stages": [*STRUCTURE, {"distillation": training}],
        "metrics": ["parameters"],
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document), encoding="utf-8")
    ran = CliRunner().invoke(main, ["run", str(recipe), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "run/vocoder.yaml").read_text(
        encoding="utf-8"
    ) == "name: mine\nmodel: student.onnx\nhop_size: 64\n"
    session = onnx_session((tmp_path / "run/student.onnx").read_bytes())
    assert [value.name for value in session.get_inputs()] == ["mel", "f0"]
    (waveform,) = session.run(["waveform"], sung(size, 50))
    assert waveform.shape == (1, 50 * 64)
    assert np.isfinite(waveform).all()
