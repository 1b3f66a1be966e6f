from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compressor_hifigan import HiFiGANStudent2D
from torch import nn

import compressor
from compressor.errors import BudgetError, DataError, SelectionError, StageError, VerificationError
from compressor.graph_editing import module_nodes, parameter_count
from compressor.pipeline import RunResult
from compressor.plugin_catalog import Catalog
from compressor.recipe import Recipe
from compressor.report import Report
from compressor.stored_model import onnx_session
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_vocoder import mel
from tests.compressor.tiny_runs import (
    FILES,
    METRICS,
    QUICK,
    STRUCTURAL,
    TRAINING,
    Runs,
    initializers,
)


def test_a_run_leaves_its_files_and_nothing_else(finished: RunResult) -> None:
    top = {path.name for path in finished.folder.iterdir() if path.is_file()}
    assert top == FILES
    assert {path.name for path in finished.folder.iterdir() if path.is_dir()} == {"samples", "stages"}
    samples = {path.name for path in (finished.folder / "samples").iterdir()}
    roles = ("teacher", "student", "recording", "before_training")
    assert samples == {f"{n}_mel_{n + 5}_{role}.wav" for n in (1, 2) for role in roles}
    assert json.loads((finished.folder / "run.json").read_text())["finished"] is True


def test_the_budget_is_met_and_not_wasted(finished: RunResult, tiny_teacher: Teacher) -> None:
    assert finished.budget_met
    (verdict,) = finished.report.verdicts
    limit = 0.3 * parameter_count(tiny_teacher.graph)
    assert verdict.limit == pytest.approx(limit)
    assert 0.9 * limit < verdict.student <= limit
    assert verdict.student == parameter_count(finished.student) == finished.report.stages[-1].measurements[0].value
    # The file holds a few numbers more: shapes, and one divisor a fusion.
    stored = sum(array.size for array in initializers(finished.folder / "student.onnx").values())
    assert verdict.student <= stored < verdict.student + 40


def test_stages_in_the_report(finished: RunResult) -> None:
    labels = [stage.stage for stage in finished.report.stages]
    assert labels == [
        "mrf-simplification",
        "depthwise-separable-conv",
        "channel-importance-pruning",
        "transposed-to-standard-conv",
        "conv1d-to-conv2d",
        "distillation",
        "readable-hifigan",
    ]
    proven = [stage.stage for stage in finished.report.stages if stage.proof]
    assert proven == [labels[3], labels[4], labels[6]]
    assert all(stage.proof.startswith("equal at sizes") for stage in finished.report.stages if stage.proof)
    assert all([entry.metric for entry in stage.measurements] == METRICS for stage in finished.report.stages)
    assert all(stage.findings for stage in finished.report.stages)
    assert len({stage.fingerprint for stage in finished.report.stages}) == len(labels)
    assert {point.phase for point in finished.report.curve} == {"start", "block-wise", "end-to-end"}


def test_the_report_says_where_the_student_comes_from(finished: RunResult, tiny_teacher: Teacher) -> None:
    teacher = finished.report.teacher
    assert (teacher.sha256, teacher.opset, teacher.licence) == (tiny_teacher.sha256, 17, "CC0")
    assert teacher.parameters == parameter_count(tiny_teacher.graph)
    assert finished.report.data == "8 tiny mels"
    assert finished.report.data_findings == ("one file was too short",)
    assert finished.report.environment["torch"] == torch.__version__.split("+")[0]
    assert finished.report.environment["device"] == "cpu"
    assert Report.model_validate_json((finished.folder / "report.json").read_bytes()) == finished.report
    metadata = {entry.key: entry.value for entry in onnx.load(finished.folder / "student.onnx").metadata_props}
    assert metadata["derived_from_sha256"] == tiny_teacher.sha256
    assert metadata["teacher_licence"] == "CC0"


def test_the_student_drops_into_the_teacher_s_place(finished: RunResult, tiny_teacher: Teacher) -> None:
    student = onnx_session((finished.folder / "student.onnx").read_bytes())
    teacher = onnx_session(tiny_teacher.content)
    for before, after in zip(
        (*teacher.get_inputs(), *teacher.get_outputs()), (*student.get_inputs(), *student.get_outputs()), strict=True
    ):
        assert (before.name, before.shape, before.type) == (after.name, after.shape, after.type)
    assert student.run(None, {"mel": mel(11, 0)})[0].shape == (1, 1, 88)
    assert [check.size for check in finished.report.export_checks] == [5, 16, 47, 100, 256]


def test_the_module_and_the_state_dict_are_the_file_s(finished: RunResult) -> None:
    model = HiFiGANStudent2D.from_run(finished.folder)
    model.load_state_dict(torch.load(finished.folder / "student_model.pt", weights_only=True))
    value = mel(30, 2)
    wanted = onnx_session((finished.folder / "student.onnx").read_bytes()).run(None, {"mel": value})[0]
    with torch.no_grad():
        found = model(torch.from_numpy(value)[:, None])
    np.testing.assert_allclose(found.numpy().reshape(-1), wanted.reshape(-1), atol=1e-4)


def test_the_recipe_as_run_can_be_run_again(finished: RunResult, tiny_catalog: Catalog) -> None:
    again = compressor.plan(compressor.read_recipe(finished.folder / "recipe.yaml"), tiny_catalog)
    assert again.recipe == Recipe.model_validate(again.recipe.model_dump(mode="json"))
    assert [stage.label for stage in again.stages] == [stage.stage for stage in finished.report.stages]


def test_every_stage_is_announced(runs: Runs, tmp_path: Path) -> None:
    result = runs.run(tmp_path / "run", stages=STRUCTURAL[-2:], budget={}, data=None)
    assert runs.records == list(result.report.stages)
    assert result.report.samples == ()
    assert result.report.sample_rate is None
    assert result.report.verdicts == ()
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": {"parameters": "2%"}}, BudgetError, "no choice meets the budget:\n  parameters: limit 227.8"),
        ({"stages": [{"faulty": {"kind": "bug"}}]}, StageError, "stage 'faulty': ZeroDivisionError: division by zero"),
        ({"stages": [{"faulty": {"kind": "pattern"}}]}, SelectionError, "the pattern 'x' matches no layer"),
        ({"stages": ["conv1d-to-conv2d", "not-exact"]}, VerificationError, "stage 'not-exact' should keep the output"),
        ({"teacher": "none.onnx"}, compressor.CompressorError, "none.onnx does not exist"),
    ],
)  # fmt: skip
def test_what_fails_writes_nothing(
    changes: Mapping[str, object], error: type[Exception], message: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        runs.run(tmp_path / "run", **{**QUICK, **changes})
    assert not (tmp_path / "run").exists()


def test_references_of_another_length_are_refused(runs: Runs, tmp_path: Path) -> None:
    data = {"tiny-mels": {"vocoder": str(runs.teacher), "reference_offset": 40}}
    with pytest.raises(DataError, match=r"the teacher puts out .* works at another hop length"):
        runs.run(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_data_that_validates_nothing_is_refused(runs: Runs, tmp_path: Path) -> None:
    data = {"tiny-mels": {"vocoder": str(runs.teacher), "validation": 0}}
    with pytest.raises(DataError, match=r"the data has no validation samples \(6 tiny mels\)"):
        runs.run(tmp_path / "run", data=data)


def test_a_limit_that_nothing_works_for_is_judged_all_the_same(runs: Runs, tmp_path: Path) -> None:
    result = runs.run(tmp_path / "run", stages=STRUCTURAL[-2:], budget={"parameters": "50%"}, data=None, **QUICK)
    assert not result.budget_met
    assert result.report.verdicts[0].student > result.report.verdicts[0].limit


def test_two_budgets_at_once_over_three_stages(runs: Runs, tmp_path: Path) -> None:
    stages = ["mrf-simplification", STRUCTURAL[2], "depthwise-separable-conv", STRUCTURAL[3]]
    result = runs.run(tmp_path / "run", stages=stages, budget={"parameters": "35%", "macs": "25%"}, metrics=METRICS[:2])
    parameters, macs = result.report.verdicts
    assert parameters.student == parameter_count(result.student) <= parameters.limit
    assert macs.student <= macs.limit
    # One of the two is what decides, and that is used up.
    assert max(parameters.student / parameters.limit, macs.student / macs.limit) > 0.9


def test_the_report_says_what_the_budget_was_spent_on(finished: RunResult) -> None:
    allocation = finished.report.allocation
    assert {entry.stage for entry in allocation} <= {"depthwise-separable-conv", "channel-importance-pruning"}
    assert allocation
    for entry in allocation:
        (stage,) = (stage for stage in finished.report.stages if stage.stage == entry.stage)
        (finding,) = (finding for finding in stage.findings if finding.layer == entry.layer)
        assert entry.setting in (finding.values.get("rank"), finding.values.get("width"))
        assert entry.saving["parameters"] > 0
        assert entry.error > 0
        assert entry.output_error > 0


def test_a_budget_of_bytes(runs: Runs, tmp_path: Path, tiny_teacher: Teacher) -> None:
    stages = ["mrf-simplification", STRUCTURAL[2], *STRUCTURAL[-2:]]
    result = runs.run(tmp_path / "run", stages=stages, budget={"bytes": "50%"}, metrics=["parameters", "bytes"])
    (verdict,) = result.report.verdicts
    assert verdict.limit == 0.5 * len(tiny_teacher.content)
    assert verdict.student <= verdict.limit
    # The file itself is a little larger: it says where it comes from.
    size = (tmp_path / "run" / "student.onnx").stat().st_size
    assert 0.9 * verdict.limit < verdict.student <= size < verdict.student + 500


def test_a_budget_of_bytes_needs_what_bytes_follow(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="a limit of 'bytes' needs 'parameters' among the recipe's metrics"):
        runs.run(tmp_path / "run", stages=[STRUCTURAL[2]], budget={"bytes": "50%"}, metrics=["bytes"])


def test_the_image_form_may_be_written(runs: Runs, tmp_path: Path) -> None:
    stages = [STRUCTURAL[3], {"conv1d-to-conv2d": {"input_shape": "image"}}, TRAINING, "readable-hifigan"]
    result = runs.run(tmp_path / "run", stages=stages, budget={}, **QUICK)
    session = onnx_session((tmp_path / "run" / "student.onnx").read_bytes())
    assert session.get_inputs()[0].shape == [1, 1, 8, "frames"]
    assert session.get_outputs()[0].shape == [1, 1, 1, "samples"]
    assert not list(module_nodes(result.student, nn.Conv1d, nn.ConvTranspose1d))


def test_a_result_without_verdicts_has_met_them(finished: RunResult) -> None:
    assert replace(finished, report=finished.report.model_copy(update={"verdicts": ()})).budget_met
