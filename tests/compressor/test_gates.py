from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import RecipeError
from compressor.gates import judge_gates, missed_beforehand
from compressor.hookspecs import hookimpl
from compressor.metric import Metric, Subject
from compressor.planning import plan
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.progress import SilentReporter
from compressor.recipe import Recipe
from compressor.recipe_file import read_recipe
from compressor.report import Measurement
from compressor.signal_metric import Signal, SignalMetric
from compressor.testing.tiny_runs import TinyPlugin
from tests.compressor.tiny_runs import QUICK, STRUCTURAL, Faulty, NotExact, Runs


class Nearness(SignalMetric):
    """One less the difference's share of the wanted signal's energy."""

    name: ClassVar[str] = "nearness"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    unit: ClassVar[str] = "pt"

    def score(self, output: Signal, wanted: Signal) -> float:
        return float(1 - np.square(output.samples - wanted.samples).sum() / np.square(wanted.samples).sum())


class Slow(Metric):
    """Counts the validation samples, and says that this takes long."""

    name: ClassVar[str] = "slow"
    needs_data: ClassVar[bool] = True
    finished_only: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        return float(len(subject.outputs))


class GatePlugin(TinyPlugin):
    """The tiny plugin, and metrics to judge by."""

    @hookimpl
    def compressor_metrics(self) -> list[type[Metric]]:
        return [Nearness, Slow]


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(extra_plugins=[GatePlugin(Faulty, NotExact)])


@given(value=st.floats(-1e3, 1e3), threshold=st.floats(-1e3, 1e3))
def test_the_metric_says_on_which_side_to_be(value: float, threshold: float) -> None:
    student = [Measurement(metric="nearness", value=value), Measurement(metric="slow", value=value)]
    gates = {"nearness": threshold, "slow": threshold}
    high, low = judge_gates(gates, (Nearness(), Slow()), student)
    assert (high.met, high.bound, high.unit) == (value >= threshold, "at least", "pt")
    assert (low.met, low.bound, low.student) == (value <= threshold, "at most", value)


def test_what_has_no_figure_is_missed_and_says_why() -> None:
    lacking = Measurement(metric="slow", value=None, note="needs: pip install patience")
    gates = {"slow": 1.0, "nearness": 0.5, "nearness/recording": 0.5}
    verdicts = judge_gates(gates, (Nearness(), Slow()), [lacking])
    assert [(verdict.met, verdict.student) for verdict in verdicts] == [(False, None)] * 3
    assert [verdict.note for verdict in verdicts] == [
        "needs: pip install patience",
        "it needs data, with outputs that are a signal of known sample rate",
        "the data holds no recordings",
    ]
    (warning,) = missed_beforehand(gates, [lacking, Measurement(metric="nearness", value=1.0)])
    assert warning == "the gate 'slow' will be missed, for it cannot be measured here: needs: pip install patience"


def test_a_run_is_judged_when_it_is_done(catalog: Catalog, tiny_onnx: Path, tmp_path: Path) -> None:
    gates = {"nearness": 0.1, "nearness/recording": 2.0, "slow": 2, "parameters": 1e9}
    runs = Runs(tiny_onnx, catalog)
    result = runs.run(tmp_path / "run", **{**QUICK, "stages": STRUCTURAL[-2:], "budget": {}, "gates": gates})
    assert [gate.met for gate in result.report.gates] == [True, False, True, True]
    assert result.budget_met
    assert not result.gates_passed
    # Exact stages: the student is the teacher, and the tiny data's references are what the teacher makes of them.
    after_stages = [[entry.metric for entry in stage.measurements] for stage in result.report.stages]
    assert after_stages == [["parameters", "nearness"]] * 2
    finished = {entry.metric: entry for entry in result.report.finished}
    assert list(finished) == ["slow", "nearness/recording"]
    assert finished["slow"].value == 2
    assert finished["nearness/recording"].value == pytest.approx(1.0, abs=1e-4)
    assert len(finished["nearness/recording"].scores) == 2
    of_teacher = {entry.metric: entry.value for entry in result.report.teacher.measurements}
    assert of_teacher.keys() == {"parameters", "nearness", *finished}
    (page, recipe) = ((result.folder / name).read_text() for name in ("report.html", "recipe.yaml"))
    assert "1 of 4 quality gates missed: nearness against the recording." in page
    assert "nearness/recording: 2.0" in recipe
    assert {stage.stage for stage in runs.records} == {stage.stage for stage in result.report.stages}


def test_a_finished_run_can_be_judged_anew(catalog: Catalog, tiny_onnx: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {**QUICK, "stages": STRUCTURAL[-1:], "budget": {}}
    runs = Runs(tiny_onnx, catalog)
    assert not runs.run(tmp_path / "run", **changes, gates={"nearness": 2.0}).gates_passed
    assert runs.run(tmp_path / "run", **changes, gates={"nearness": 0.5}, resume=True).gates_passed


def problems(catalog: Catalog, **changes: object) -> list[str]:
    content = {"teacher": "t.onnx", "stages": ["conv1d-to-conv2d"], "metrics": [], **changes}
    with pytest.raises(RecipeError) as caught:
        plan(Recipe.model_validate(content), catalog)
    return [str(problem) for problem in caught.value.problems]


def test_gates_that_cannot_be_are_problems_of_the_recipe(catalog: Catalog) -> None:
    data = {"tiny-mels": {"vocoder": "t.onnx"}}
    assert problems(catalog, data=data, gates={"nearnes": 1, "sloww/recording": 1, "parameters/recording": 1}) == [
        "gates.parameters/recording: 'parameters' compares nothing with recordings; a gate on it is 'parameters'",
        "gates.nearnes: there is no 'nearnes' among the metrics (did you mean 'nearness'?)",
        "gates.sloww/recording: there is no 'sloww' among the metrics (did you mean 'slow'?)",
    ]
    (lacking,) = problems(catalog, gates={"slow": 3})
    assert lacking.startswith("gates.slow: 'slow' needs data, and the recipe names none: add 'data:'")


@pytest.mark.parametrize(
    ("value", "message"),
    [("true", "must be a number, found true"), ("high", "must be a number, found 'high'"), (".inf", "found inf")],
)
def test_thresholds_are_numbers(value: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"teacher: t.onnx\nstages: [conv1d-to-conv2d]\ngates:\n  parameters: 5\n  slow: {value}\n")
    with pytest.raises(RecipeError, match=r"gates\.slow") as caught:
        read_recipe(file)
    assert "recipe.yaml:5: gates.slow" in str(caught.value)
    assert message in str(caught.value)


def test_the_command_line_sets_gates(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("teacher: t.onnx\nstages: [conv1d-to-conv2d]\ngates: {slow: 5, pesq-wb: 1.5}\n")
    recipe = read_recipe(file, ["gates.slow=1e-3", "gates.nearness/recording=0.5"]).recipe
    assert recipe.gates == {"slow": 0.001, "pesq-wb": 1.5, "nearness/recording": 0.5}
