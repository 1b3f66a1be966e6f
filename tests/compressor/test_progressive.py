"""Pruning and training by turns: a little is pruned, trained, pruned again and trained again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from compressor.cli import main
from compressor.errors import SelectionError
from compressor.figures import in_words
from compressor.layer_costs import layer_costs
from compressor.pipeline import RunResult
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import Catalog
from compressor.progress import SilentReporter, SilentTask
from tests.compressor.tiny_runs import QUICK, TRAINING, Runs, initializers

PRUNED = {"channel-importance-pruning": {"pruning_ratio": 0.25, "round_to": 2}}
REST = {"channel-importance-pruning": {"round_to": 2}}
BY_TURNS = [PRUNED, TRAINING, PRUNED, TRAINING, "conv1d-to-conv2d"]
LABELS = [
    "channel-importance-pruning", "distillation", "channel-importance-pruning-2", "distillation-2", "conv1d-to-conv2d",
]  # fmt: skip


class Listener(SilentReporter):
    """Keeps what is said; presses Ctrl-C in the third end-to-end step of a training, the first or the second."""

    def __init__(self, training: int = 0) -> None:
        self.said: list[str] = []
        self.left = training

    def say(self, message: str) -> None:
        self.said.append(message)

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        self.left -= label == "end-to-end"
        interrupts = label == "end-to-end" and self.left == 0

        class Task(SilentTask):
            done = 0

            def advance(self, steps: int = 1, status: str = "") -> None:
                self.done += steps
                if interrupts and self.done == 3:
                    raise KeyboardInterrupt

        return Task()


@pytest.fixture(scope="module")
def by_turns(tiny_onnx: Path, tiny_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    runs = Runs(tiny_onnx, tiny_catalog)
    return runs.run(
        tmp_path_factory.mktemp("runs") / "by_turns", stages=BY_TURNS, budget={"parameters": "45%"}, **QUICK
    )


def parameters(result: RunResult) -> list[float | None]:
    return [entry.value for stage in result.report.stages for entry in stage.measurements]


def test_each_turn_prunes_and_each_training_keeps_the_widths(by_turns: RunResult) -> None:
    assert [stage.stage for stage in by_turns.report.stages] == LABELS
    first, trained, second, trained_again, _ = parameters(by_turns)
    assert first is not None
    assert second is not None
    assert (trained, trained_again) == (first, second)
    assert second < first < by_turns.report.teacher.parameters
    assert by_turns.budget_met


def test_both_trainings_start_where_the_pruning_before_ended(by_turns: RunResult) -> None:
    curve = by_turns.report.curve
    assert list(dict.fromkeys(point.stage for point in curve)) == ["distillation", "distillation-2"]
    notes = {stage.stage: [finding.message for finding in stage.findings] for stage in by_turns.report.stages}
    assert "(10 of 12 channels)" in notes["distillation"][0]
    assert "(8 of 12 channels)" in notes["distillation-2"][0]
    page = (by_turns.folder / "report.html").read_text()
    assert "distillation, end-to-end: " in page
    assert "distillation-2, end-to-end: " in page


def test_before_training_is_before_any_training(by_turns: RunResult, runs: Runs, tmp_path: Path) -> None:
    pruned = runs.run(tmp_path / "run", stages=[PRUNED], budget={}, **QUICK)
    for sample, untrained in zip(by_turns.report.samples, pruned.report.samples, strict=True):
        assert sample.before_training is not None
        before, _ = soundfile.read(by_turns.folder / sample.before_training)
        wanted, _ = soundfile.read(pruned.folder / untrained.student)
        np.testing.assert_allclose(before, wanted, atol=1e-4)


@pytest.mark.parametrize("training", [1, 2])
def test_an_interrupted_training_goes_on_to_the_same_student(
    training: int, by_turns: RunResult, runs: Runs, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {"stages": BY_TURNS, "budget": {"parameters": "45%"}, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Listener(training), **recipe)
    resumed = runs.run(tmp_path / "run", **recipe)
    restored = [stage.stage for stage in resumed.report.stages if stage.restored]
    assert restored == ["distillation"][: training - 1]
    assert [stage.fingerprint for stage in resumed.report.stages] == [
        stage.fingerprint for stage in by_turns.report.stages
    ]
    before, after = (initializers(folder / "student.onnx") for folder in (by_turns.folder, tmp_path / "run"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    again = runs.run(tmp_path / "run", resume=True, **recipe)
    assert [stage.stage for stage in again.report.stages if stage.restored] == ["distillation", "distillation-2"]
    assert [point.model_copy(update={"seconds": 0}) for point in again.report.curve] == [
        point.model_copy(update={"seconds": 0}) for point in by_turns.report.curve
    ]


def test_overrides_find_the_turn_that_they_name(tiny_onnx: Path, tiny_catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"teacher": str(tiny_onnx), "data": "tiny-mels", "stages": BY_TURNS}))
    overrides = [
        f"data.vocoder={tiny_onnx}",
        "channel-importance-pruning.pruning_ratio=0.1",
        "3.round_to=4",
        "distillation-2.end_to_end.steps=9",
    ]
    stages = load_plan(path, overrides=overrides, catalog=tiny_catalog).stages
    options = {stage.label: stage.strategy.model_dump() for stage in stages}
    assert list(options) == LABELS
    assert [options[label]["end_to_end"]["steps"] for label in LABELS if "end_to_end" in options[label]] == [4, 9]
    pruning = [(options[label]["pruning_ratio"], options[label]["round_to"]) for label in (LABELS[0], LABELS[2])]
    assert pruning == [(0.1, 2), (0.25, 4)]


def test_the_last_turn_may_spend_the_budget(runs: Runs, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"stages": [PRUNED, TRAINING, REST, TRAINING], "budget": {"parameters": "50%"}, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        runs.run(tmp_path / "run", reporter=Listener(2), **recipe)
    resumed = runs.run(tmp_path / "run", **recipe)
    assert resumed.budget_met
    (verdict,) = resumed.report.verdicts
    assert verdict.student > 0.95 * verdict.limit
    assert {entry.stage for entry in resumed.report.allocation} == {"channel-importance-pruning-2"}
    assert [stage.stage for stage in resumed.report.stages if stage.restored] == ["distillation"]


def test_what_follows_a_training_is_tried_out_before_it(runs: Runs, tmp_path: Path) -> None:
    listener = Listener()
    missed = runs.run(tmp_path / "run", reporter=listener, stages=BY_TURNS, budget={"parameters": "30%"}, **QUICK)
    (told,) = [at for at, line in enumerate(listener.said) if "misses the budget: parameters 4,675 of 3,417" in line]
    assert told < listener.said.index("[2/5] distillation")
    assert not missed.budget_met
    with pytest.raises(SelectionError, match="the pattern 'x'"):
        runs.run(tmp_path / "other", stages=[PRUNED, TRAINING, {"faulty": {"kind": "pattern"}}], budget={}, **QUICK)
    assert not (tmp_path / "other").exists()


def test_a_plan_shows_what_the_last_turn_has_to_spend_on(tiny_onnx: Path, runs: Runs, tmp_path: Path) -> None:
    """What layers have before the budget is spent is what the first turn left of them, and not the teacher's."""
    recipe: dict[str, Any] = {"budget": {"parameters": "50%"}, "stages": [PRUNED, REST], "data": None, **QUICK}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"teacher": str(tiny_onnx), **recipe}))
    shown = CliRunner().invoke(main, ["plan", str(path)])
    assert shown.exit_code == 0, shown.output
    whole = runs.run(tmp_path / "run", **recipe)
    first = runs.run(tmp_path / "first", **{**recipe, "budget": {}, "stages": [PRUNED]})
    costs = {layer.layer: layer.parameters for layer in layer_costs(first.student)}
    assert whole.report.allocation
    for entry in whole.report.allocation:
        now = sum(costs.get(layer, 0) for layer in entry.layers)
        then = now - entry.saving["parameters"]
        lines = [line for line in shown.output.splitlines() if line.startswith(f"{entry.stage} ")]
        (line,) = [line for line in lines if f" {entry.layer} " in line]
        assert f" {in_words(now)} → {in_words(then)} " in line
