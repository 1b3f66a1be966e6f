from __future__ import annotations

from pathlib import Path

import yaml

from compressor.sidecars import student_sidecars


def test_a_piper_voices_description_goes_along_unchanged(tmp_path: Path) -> None:
    (tmp_path / "voice.onnx.json").write_bytes(b'{"audio": {}}\r\n')
    assert student_sidecars(str(tmp_path / "voice.onnx"), "student.onnx") == {"student.onnx.json": b'{"audio": {}}\r\n'}


def test_a_vocoders_description_names_the_students_file_and_keeps_the_rest(tmp_path: Path) -> None:
    text = "# by openvpi\nname: nsf\nmodel: nsf_hifigan.onnx  # the file\nsample_rate: 44100\nmodel_type: x\n"
    (tmp_path / "vocoder.yaml").write_text(text, encoding="utf-8")
    (found,) = student_sidecars(str(tmp_path / "nsf_hifigan.onnx"), "student.onnx").values()
    assert found.decode() == text.replace("nsf_hifigan.onnx", "student.onnx")
    assert yaml.safe_load(found)["model"] == "student.onnx"


def test_a_model_by_itself_has_none(tmp_path: Path) -> None:
    assert student_sidecars(str(tmp_path / "model.onnx"), "student.onnx") == {}
