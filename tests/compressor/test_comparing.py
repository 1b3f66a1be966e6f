from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from compressor.cli import main
from compressor.comparing import compare
from compressor.comparison import Comparison
from compressor.comparison_html import render_comparison
from compressor.report import GateVerdict, Measurement, Report
from compressor.run_reading import FinishedRun
from tests.compressor.report_example import SAMPLE_RATE, example_report
from tests.compressor.test_report_html import LINKING, parsed

NAMES = tuple(f"LJ001-{index:04}" for index in range(8))
SCORES = {
    "stoi": (0.80, 0.82, 0.84, 0.86, 0.81, 0.83, 0.85, 0.87),
    "mel-l1": (0.50, 0.52, 0.48, 0.51, 0.49, 0.53, 0.47, 0.50),
    "stoi/recording": (0.78, 0.80, 0.82, 0.84, 0.79, 0.81, 0.83, 0.85),
}
WOBBLE = (0.01, 0.012, 0.009, 0.011, 0.01, 0.013, 0.008, 0.01)
NONE: Mapping[str, tuple[float | None, ...]] = {}
RECIPE = """\
teacher: vocoder.onnx
budget: {macs: 30%}
data: {speech-folder: {path: recordings}}
stages: [fold-scales, {channel-pruning: {round_to: 8}}, distillation]
"""


def scored(metric: str, scores: tuple[float | None, ...]) -> Measurement:
    found = [score for score in scores if score is not None]
    better = "higher" if "stoi" in metric else "lower"
    mean = float(np.mean(found))
    return Measurement.model_validate(
        {"metric": metric, "value": mean, "low": min(found), "high": max(found), "scores": scores, "better": better}
    )


def measured(by: float = 0.0, changes: Mapping[str, tuple[float | None, ...]] = NONE) -> dict[str, Any]:
    """Return what a run was measured by: every score of the example raised by about as much."""
    scores = {metric: tuple(x + by * w for x, w in zip(row, WOBBLE, strict=True)) for metric, row in SCORES.items()}
    return {"finished": tuple(scored(metric, row) for metric, row in {**scores, **changes}.items())}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., FinishedRun]:
    def made(place: str, **changes: object) -> FinishedRun:
        folder = tmp_path / place
        folder.mkdir()
        plain = example_report(folder)
        known = {"validation_samples": NAMES, "recipe": RECIPE, "name": "student", **measured(), **changes}
        report = Report.model_validate(plain.model_copy(update=known).model_dump())
        (folder / "report.json").write_text(report.model_dump_json())
        (folder / "run.json").write_text('{"identity": "x", "finished": true}')
        return FinishedRun(folder, report)

    return made


def compress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def said(found: Comparison, metric: str) -> tuple[bool | None, str]:
    (figure,) = (each for each in found.quality if each.metric == metric)
    return (figure.difference.beyond_chance if figure.difference else None), figure.why_none


def test_differences_beyond_chance_are_told_from_others(made: Callable[..., FinishedRun]) -> None:
    luck = tuple(x + sign * 0.01 for x, sign in zip(SCORES["mel-l1"], (1, -1, 1, -1, 1, -1, 1, -1), strict=True))
    found = compare(made("a"), made("b", **measured(1.0, {"mel-l1": luck})))
    assert said(found, "stoi") == (True, "")
    assert said(found, "mel-l1") == (False, "")
    (stoi,) = (each.difference for each in found.quality if each.metric == "stoi")
    assert stoi is not None
    assert stoi.mean == pytest.approx(np.mean(WOBBLE))
    assert stoi.utterances == len(NAMES)


def test_scores_are_paired_by_name(made: Callable[..., FinishedRun]) -> None:
    turned = {metric: tuple(reversed(row)) for metric, row in SCORES.items()}
    found = compare(made("a"), made("b", validation_samples=tuple(reversed(NAMES)), **measured(changes=turned)))
    for figure in found.quality:
        assert figure.difference is not None
        assert (figure.difference.mean, figure.difference.beyond_chance) == (0.0, False)


def test_why_utterances_are_not_compared(made: Callable[..., FinishedRun]) -> None:
    first = made("a")
    old = compare(first, made("old", validation_samples=()))
    assert "older version" in said(old, "stoi")[1]
    others = compare(first, made("others", validation_samples=tuple(f"other {at}" for at in range(8))))
    assert said(others, "stoi") == (None, "no utterance is in both runs")
    assert "different utterances: 8 and 8, of which 0 are in both" in others.notes[0]
    few = compare(first, made("few", validation_samples=NAMES[:5], finished=(scored("stoi", SCORES["stoi"][:5]),)))
    assert said(few, "stoi") == (None, "utterances in both runs: 5; it takes 6")
    assert said(few, "mel-l1") == (None, "not measured in both runs")
    gaps = tuple(None if at < 3 else score for at, score in enumerate(SCORES["stoi"]))
    assert said(compare(first, made("gaps", **measured(changes={"stoi": gaps}))), "stoi")[1].endswith("5; it takes 6")


def test_utterances_of_one_name_may_be_others(made: Callable[..., FinishedRun]) -> None:
    first, second = made("a"), made("b")
    silence = np.zeros(round(0.4 * SAMPLE_RATE))
    soundfile.write(second.folder / second.report.samples[0].teacher, silence, SAMPLE_RATE)
    assert said(compare(first, second), "stoi") == (None, "utterances of one name are different recordings")


def test_different_teachers_are_told_and_not_compared(made: Callable[..., FinishedRun]) -> None:
    first = made("a")
    teacher = first.report.teacher.model_copy(update={"sha256": "0" * 64, "source": "another.onnx"})
    second = made("b", teacher=teacher)
    found = compare(first, second)
    assert "another.onnx): figures against the teacher do not compare" in found.notes[0]
    assert said(found, "stoi") == (None, "their teachers differ")
    assert said(found, "stoi/recording") == (False, "")
    compared = {each.metric: each.compares for each in found.costs}
    assert (compared["parameters"], compared["latency"], compared["speedup"]) == (True, True, False)
    page = parsed(render_comparison(found, first, second))
    assert [audio["aria-label"] for audio in page.attributes("audio")][:5] == [
        f"LJ001-0000: {who}" for who in ("recording", "teacher of A", "teacher of B", "A", "B")
    ]


def test_recipes_differ_by_option(made: Callable[..., FinishedRun]) -> None:
    first = made("a")
    *others, last = first.report.stages
    trained = last.model_copy(
        update={"options": {"minutes": 30, "losses": [{"mel-l1": {"weight": 2.0}}, {"stft": {}}]}}
    )
    before = others[-1].model_copy(update={"options": {"importance": "taylor", "round_to": 4}})
    recipe = RECIPE.replace("30%", "25%, parameters: 9").replace("recordings", "wavs").replace("[fold-scales, ", "[")
    second = made("b", stages=(before, trained), recipe=f"{recipe}seed: 3\nout: elsewhere\n")
    labels = {stage.stage for stage in second.report.stages}
    assert labels == {"prune", "distillation"}
    found = {each.key: (each.a, each.b) for each in compare(first, second).options}
    assert found == {
        "budget.macs": ("30%", "25%"),
        "budget.parameters": (None, "9"),
        "seed": ("0", "3"),
        "data.path": ("recordings", "wavs"),
        "fuse": ("with its defaults", None),
        "prune.round_to": ("8", "4"),
        "distillation.minutes": ("60", "30"),
        "distillation.losses.mel-l1.weight": (None, "2.0"),
        "distillation.losses.stft": (None, "{}"),
    }


def test_stages_in_another_order_are_told(made: Callable[..., FinishedRun]) -> None:
    first = made("a")
    second = made("b", stages=tuple(reversed(first.report.stages)))
    (order,) = compare(first, second).options
    assert (order.key, order.a, order.b) == (
        "stages", "fuse → prune → distillation", "distillation → prune → fuse",
    )  # fmt: skip


def test_times_differ_by_their_shares_of_the_teachers(made: Callable[..., FinishedRun]) -> None:
    """The second run's machine was twice as slow, for teacher and student."""
    first = made("a")
    slow = [
        entry.model_copy(update={"value": 2 * entry.value}) if entry.unit == "ms" and entry.value else entry
        for entry in first.report.teacher.measurements
    ]
    last = first.report.stages[-1]
    own = [
        entry.model_copy(update={"value": 2 * entry.value}) if entry.unit == "ms" and entry.value else entry
        for entry in last.measurements
    ]
    teacher = first.report.teacher.model_copy(update={"measurements": tuple(slow)})
    second = made("b", teacher=teacher, stages=(last.model_copy(update={"measurements": tuple(own)}),))
    line = next(line for line in compress(first.folder, second.folder).output.splitlines() if line[:7] == "latency")
    assert line.split() == ["latency", "212", "ms", "/", "424", "ms", "73.8", "ms", "148", "ms", "0%"]


def test_the_terminal_shows_everything(made: Callable[..., FinishedRun]) -> None:
    gate = GateVerdict(metric="stoi", threshold=0.9, better="higher", student=0.83, met=False)
    first, second = made("a", gates=(gate,)), made("b", **measured(-1.0), verdicts=())
    shown = compress(first.folder, second.folder)
    assert shown.exit_code == 0, shown.output
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.output.splitlines() if line}
    assert lines["parameters"] == "parameters 3.56 M 1.07 M 1.07 M 0%"
    assert lines["stoi"].endswith("B is worse")
    assert lines["mel-l1"].endswith("B is better")
    plain = " ".join(shown.output.split())
    assert "budget: latency 73.8 ms, at most 70 ms: MISSED" in plain
    assert "gate: stoi 0.83, at least 0.9: MISSED" in plain
    assert "the recipes are the same" in shown.output


def test_json_is_the_comparison(made: Callable[..., FinishedRun]) -> None:
    first, second = made("a"), made("b", **measured(1.0))
    shown = compress(first.folder, second.folder, "--json")
    assert Comparison.model_validate_json(shown.output) == compare(first, second)


def test_the_page_needs_nothing_else_and_has_both_runs(made: Callable[..., FinishedRun], tmp_path: Path) -> None:
    first, second = made("a"), made("b", **measured(1.0))
    done = compress(first.folder, second.folder, "-o", tmp_path / "pages" / "compare.html")
    assert done.exit_code == 0, done.output
    page = parsed((tmp_path / "pages" / "compare.html").read_text(encoding="utf-8"))
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in LINKING]
    assert links
    assert all(link is not None and link.startswith("data:") for link in links)
    assert [audio["aria-label"] for audio in page.attributes("audio")] == [
        f"{name}: {who}" for name in NAMES[:2] for who in ("recording", "teacher", "A", "B")
    ]
    charts = [str(svg["aria-label"]) for svg in page.attributes("svg") if "aria-label" in svg]
    assert len(charts) == 4
    assert all(": A: " in chart and "; B: " in chart for chart in charts)
    assert [line["class"] for line in page.attributes("polyline")].count("curve run-1") == 4
    assert "STOI higher is better" in page.text
    assert "▲ B is better" in page.text
    assert "▼ B is worse" in page.text


def test_a_run_beside_itself_has_no_difference(made: Callable[..., FinishedRun]) -> None:
    run = made("a")
    found = compare(run, run)
    assert (found.notes, found.options) == ((), ())
    assert {(each.difference.mean, each.difference.low) for each in found.quality if each.difference} == {(0.0, 0.0)}


def broken(folder: Path, how: str) -> None:
    report = folder / "report.json"
    content = json.loads(report.read_text())
    if how == "unfinished":
        (folder / "run.json").write_text('{"identity": "x", "finished": false}')
    elif how == "no report":
        report.unlink()
    elif how == "damaged":
        report.write_text(report.read_text()[:500])
    elif how == "of another version":
        report.write_text(json.dumps({**content, "format": 2, "novelty": 1}))
    elif how == "recipe":
        report.write_text(json.dumps({**content, "recipe": "teacher: [1"}))


@pytest.mark.parametrize(
    ("how", "expected", "remedy"),
    [
        ("unfinished", "is not finished", "it resumes"),
        ("no report", "holds no report.json", "name the folder"),
        ("damaged", "report.json is damaged", "--resume"),
        ("of another version", "format: Input should be 1, and 1 more", "--resume"),
        ("recipe", "holds a recipe that cannot be read", "not valid YAML"),
    ],
)
def test_folders_that_hold_no_finished_run(
    made: Callable[..., FinishedRun], tmp_path: Path, how: str, expected: str, remedy: str
) -> None:
    first, second = made("a"), made("b")
    broken(second.folder, how)
    refused = compress(first.folder, second.folder, "-o", tmp_path / "page.html")
    assert refused.exit_code == 2
    assert str(second.folder) in refused.output
    assert expected in refused.output
    assert remedy in refused.output
    assert not (tmp_path / "page.html").exists()


def test_both_folders_and_the_page_are_checked(made: Callable[..., FinishedRun], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = compress(tmp_path / "nowhere", tmp_path / "file")
    assert refused.exit_code == 2
    assert f"{tmp_path / 'nowhere'} does not exist" in refused.output
    assert f"{tmp_path / 'file'} is a file" in refused.output
    run = made("a").folder
    unfit = compress(run, run, "-o", tmp_path / "page.pdf")
    assert (unfit.exit_code, "expected a name that ends in .html" in unfit.output) == (2, True)


def test_names_are_text_and_never_markup(made: Callable[..., FinishedRun]) -> None:
    hostile = "<script>alert(1)</script>"
    first = made("a", name=hostile, data=hostile)
    second = made("b", recipe=RECIPE.replace("recordings", f"'{hostile}'"))
    page = parsed(render_comparison(compare(first, second), first, second))
    assert len(page.attributes("script")) == 1
    assert page.words.count(hostile) >= 1
