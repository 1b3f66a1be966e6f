from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compressor.errors import DataError, TeacherError
from compressor.package_files import resolve_package_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "shipped_models"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the package was executed')")
    (folder / "data" / "model.onnx").write_bytes(b"model")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_finds_a_file_without_importing_its_package(package: str) -> None:
    assert resolve_package_path(f"package://{package}/data/model.onnx").read_bytes() == b"model"
    assert package not in sys.modules


def test_leaves_a_path_as_it_is() -> None:
    assert resolve_package_path("some/model.onnx") == Path("some/model.onnx")


def test_says_what_is_missing(package: str) -> None:
    with pytest.raises(TeacherError, match="'shipped_models' is installed, but holds no such file"):
        resolve_package_path(f"package://{package}/data/other.onnx")
    with pytest.raises(DataError, match=r"no package 'absent_models' is installed.*pip install"):
        resolve_package_path("package://absent_models/model.onnx", DataError)


@pytest.mark.parametrize(
    "uri", ["package://", "package://name", "package://a.b/c", "package://name/../x", "package:///x"]
)
def test_refuses_another_form(uri: str) -> None:
    with pytest.raises(TeacherError, match="expected package://IMPORT_NAME/PATH"):
        resolve_package_path(uri)
