from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.errors import RunFolderError
from compressor.run_folder import RunFolder, write_atomically


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(path: Path, identity: str = "mine") -> Path:
    with RunFolder(path, identity, resume=False) as folder:
        folder.write("student.onnx", b"weights")
        folder.finish()
    return path


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "c.txt", b"there")
    assert files(tmp_path) == {"a/b/c.txt": b"there"}
    assert (tmp_path / "a" / "b" / "c.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace", "os.rename", "os.fdopen"])
def test_on_a_full_disk_the_old_file_stays_whole(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.onnx"
    write_atomically(path, b"old and whole")
    monkeypatch.setattr(failing, full_disk)
    if failing in ("os.replace", "os.rename"):
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(RunFolderError, match=r"student\.onnx cannot be written: No space left.*run the same command"):
        write_atomically(path, b"new and half-written")
    assert files(tmp_path) == {"student.onnx": b"old and whole"}


def test_a_folder_that_may_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunFolderError, match="cannot be written: "):
        write_atomically(tmp_path / "file" / "student.onnx", b"")


def test_looking_writes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "mine", resume=False)
    assert not (tmp_path / "run").exists()
    assert not folder.resuming


def test_a_run_leaves_its_state_and_no_lock(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"identity": "mine", "finished": True}
    assert set(files(tmp_path / "run")) == {"run.json", "student.onnx"}


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    finished(tmp_path)
    assert "student.onnx" in files(tmp_path)


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file; expected a folder"):
        RunFolder(tmp_path / "run", "mine", resume=False)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds files that are no run of this tool"):
        RunFolder(tmp_path, "mine", resume=True)
    assert files(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_another_identity_is_refused(resume: bool, tmp_path: Path) -> None:
    finished(tmp_path / "run", "other")
    before = files(tmp_path)
    with pytest.raises(RunFolderError, match="holds a run of another recipe, teacher or seed"):
        RunFolder(tmp_path / "run", "mine", resume=resume)
    assert files(tmp_path) == before


def test_a_finished_run_is_only_taken_up_when_asked(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"holds this very run, finished\. Look at .*report\.html.*--resume"):
        RunFolder(tmp_path / "run", "mine", resume=False)
    assert RunFolder(tmp_path / "run", "mine", resume=True).resuming


def test_an_unfinished_run_is_taken_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run", "mine", resume=False):
        raise KeyboardInterrupt
    assert RunFolder(tmp_path / "run", "mine", resume=False).resuming


@pytest.mark.parametrize("content", ["{half", "", "[]", "3", '{"finished": true}'])
def test_a_damaged_state_is_refused(content: str, tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"is damaged|another recipe"):
        RunFolder(tmp_path / "run", "mine", resume=True)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", "mine", resume=False)
    second = RunFolder(tmp_path / "run", "mine", resume=False)
    with first:
        first.write("student.onnx", b"first")
        with pytest.raises(RunFolderError, match="is being written by another process"), second:
            pass
        assert (tmp_path / "run" / "student.onnx").read_bytes() == b"first"
    with second:
        pass


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path / "run"), "mine", resume=True)
    assert folder.read("student.onnx") == b"weights"
    assert folder.read("none") is None


@pytest.fixture
def weights() -> dict[str, Tensor]:
    # Not contiguous, and shared: neither may be written as it is.
    base = torch.arange(12.0).reshape(3, 4)
    return {"a.weight": base.T, "b.weight": base[:2], "c.count": torch.tensor(3)}


def test_weights_go_there_and_back(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with RunFolder(tmp_path / "run", "mine", resume=False) as folder:
        folder.save_weights("distillation", "print", weights)
        loaded = folder.saved_weights("distillation", "print")
        assert loaded is not None
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)
        assert folder.saved_weights("distillation", "another") is None
        assert folder.saved_weights("distillation-2", "print") is None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_damaged_weights_are_as_good_as_none(share: float, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with RunFolder(tmp_path / "run", "mine", resume=False) as folder:
        folder.save_weights("distillation", "print", weights)
        path = tmp_path / "run" / "stages" / "distillation.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        assert folder.saved_weights("distillation", "print") is None
