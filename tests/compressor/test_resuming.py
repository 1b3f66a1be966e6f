from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from compressor.errors import RunFolderError
from compressor.pipeline import RunResult
from compressor.progress import SilentReporter, SilentTask
from compressor.spending import FILE, Spending
from tests.compressor.tiny_runs import (
    QUICK,
    STRUCTURAL,
    Runs,
    initializers,
    written,
)


class Interrupting(SilentReporter):
    """Presses Ctrl-C in the third step of a phase."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        phase, behind = self.phase, done

        class Task(SilentTask):
            done = behind

            def advance(self, steps: int = 1, status: str = "") -> None:
                self.done += steps
                if label == phase and self.done >= 3:
                    raise KeyboardInterrupt

        return Task()


@pytest.mark.parametrize("phase", ["block-wise", "end-to-end"])
def test_an_interrupted_run_goes_on_to_the_same_student(
    phase: str, runs: Runs, finished: RunResult, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Interrupting(phase), **QUICK)
    assert not (tmp_path / "run" / "student.onnx").exists()
    resumed = runs.run(tmp_path / "run", **QUICK)
    assert resumed.budget_met
    before, after = (initializers(folder / "student.onnx") for folder in (finished.folder, tmp_path / "run"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_training_that_was_finished_is_not_done_again(
    runs: Runs, finished: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("compressor.pipeline.check_export", fail)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "run", **QUICK)
    resumed = runs.run(tmp_path / "run", **QUICK)
    assert [stage.stage for stage in resumed.report.stages if stage.restored] == ["distillation"]
    trained = next(stage for stage in resumed.report.stages if stage.restored)
    known = next(stage for stage in finished.report.stages if stage.stage == "distillation")
    assert trained.findings == known.findings
    assert [point.validation for point in resumed.report.curve] == [point.validation for point in finished.report.curve]
    before, after = (initializers(folder / "student.onnx") for folder in (finished.folder, tmp_path / "run"))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_what_the_budget_was_spent_on_is_taken_up_again(
    runs: Runs, finished: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Interrupting("end-to-end"), **QUICK)

    def otherwise(*_: object) -> None:
        raise AssertionError("a clock could say otherwise now")

    with monkeypatch.context() as patched:
        patched.setattr("compressor.stage_line.spend_budget", otherwise)
        resumed = runs.run(tmp_path / "run", **QUICK)
        again = runs.run(tmp_path / "run", resume=True, **QUICK)
    for result in (resumed, again):
        assert result.report.allocation == finished.report.allocation != ()
    before, after = (initializers(folder / "student.onnx") for folder in (finished.folder, tmp_path / "run"))
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"choices": {"stage": 1}, "allocation": []}', b"\xff"])
def test_a_damaged_note_of_the_budget_is_made_anew(damage: bytes, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Interrupting("block-wise"), **QUICK)
    (tmp_path / "run" / FILE).write_bytes(damage)
    assert runs.run(tmp_path / "run", **QUICK).budget_met
    assert json.loads((tmp_path / "run" / FILE).read_bytes())["choices"]


def test_another_choice_is_another_stage(runs: Runs, tmp_path: Path) -> None:
    """Weights that were trained after one choice are not loaded into what another made."""
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Interrupting("block-wise"), **QUICK)
    note = Spending.model_validate_json((tmp_path / "run" / FILE).read_bytes())
    stage, choices = next((stage, dict(choices)) for stage, choices in note.choices.items() if len(choices) > 1)
    choices.popitem()
    other = note.model_copy(update={"choices": {**note.choices, stage: choices}})
    prints = []
    for spending in (note, other):
        (tmp_path / "run" / FILE).write_text(spending.model_dump_json())
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "run", reporter=Interrupting("block-wise"), **QUICK)
        prints.append({record.stage: record.fingerprint for record in runs.records})
    assert prints[0].keys() == prints[1].keys()
    assert prints[0][stage] != prints[1][stage]


def test_a_finished_folder_is_refused(runs: Runs, finished: RunResult) -> None:
    before = written(finished.folder)
    with pytest.raises(RunFolderError, match="holds this very run, finished"):
        runs.run(finished.folder)
    with pytest.raises(RunFolderError, match="another recipe"):
        runs.run(finished.folder, seed=1, resume=True)
    assert written(finished.folder) == before


def test_a_full_disk_leaves_no_half_written_student(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(RunFolderError, match="No space left on device"):
            runs.run(tmp_path / "run", stages=STRUCTURAL[-2:], budget={}, data=None, **QUICK)
    assert written(tmp_path / "run") == {}
    assert runs.run(tmp_path / "run", stages=STRUCTURAL[-2:], budget={}, data=None, **QUICK).report.stages
