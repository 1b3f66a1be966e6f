from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.cli.running import print_figures, print_verdicts
from compressor.report import GateVerdict, Measurement, Report
from compressor.report_html import render_report
from compressor.report_quality import quality_rows
from compressor.report_view import columns, judgements, verdict_line
from tests.compressor.report_example import example_report


def measured(metric: str, value: float, low: float, high: float, **more: object) -> Measurement:
    content = {"metric": metric, "value": value, "low": low, "high": high, "scores": (value, None), **more}
    return Measurement.model_validate(content)


BANDS = measured("band-energy", 1.5, 1.1, 1.8, unit="dB", parts={"0 to 1 kHz": -0.25, "1 to 2 kHz": 1.5})
FINISHED = (
    measured("f0-rmse", 41.0, 33.4, 50.0, unit="cents"),
    measured("stoi/recording", 0.85, 0.82, 0.88, better="higher"),
    Measurement(metric="band-energy/recording", value=None, note="no band"),
)
GATES = (
    GateVerdict(metric="stoi/recording", threshold=0.9, better="higher", student=0.85, met=False),
    GateVerdict(metric="band-energy", threshold=2.0, better="lower", student=1.5, met=True, unit="dB"),
    GateVerdict(metric="pesq-wb", threshold=1.6, better="higher", student=None, met=False, note="needs: pesq"),
)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    plain = example_report(tmp_path, sample_count=0)
    *others, last = plain.stages
    kept = [entry for entry in last.measurements if entry.metric != "stoi"]
    stoi = measured("stoi", 0.962, 0.95, 0.97, better="higher")
    teacher = (*plain.teacher.measurements, measured("stoi/recording", 0.91, 0.9, 0.92, better="higher"))
    return plain.model_copy(
        update={
            "stages": (*others, last.model_copy(update={"measurements": (*kept, stoi, BANDS)})),
            "teacher": plain.teacher.model_copy(update={"measurements": teacher}),
            "finished": FINISHED,
            "gates": GATES,
        }
    )


def test_each_metric_is_a_row_with_what_it_compares(report: Report) -> None:
    rows = [(row.metric, row.student, row.student_recording, row.teacher_recording) for row in quality_rows(report)]
    assert rows == [
        ("stoi", "0.962 (0.95 to 0.97)", "0.85 (0.82 to 0.88)", "0.91 (0.9 to 0.92)"),
        ("band-energy", "1.5 dB (1.1 to 1.8)", "not measured: no band", "–"),  # noqa: RUF001
        ("f0-rmse", "41 cents (33.4 to 50)", "–", "–"),  # noqa: RUF001
    ]
    assert quality_rows(report)[1].parts == (("0 to 1 kHz", "-0.25 dB"), ("1 to 2 kHz", "1.5 dB"))


def test_the_stage_table_has_no_columns_for_what_only_the_finished_student_has(report: Report) -> None:
    shown = {column.metric for column in columns(report)}
    assert {"stoi", "band-energy"} <= shown
    assert not shown & {entry.metric for entry in FINISHED}


def test_gates_are_told_like_the_budget(report: Report) -> None:
    assert verdict_line(report) == (
        "1 of 2 budget limits missed: latency. 2 of 3 quality gates missed: STOI against the recording, PESQ-WB."
    )
    assert [judgement.text for judgement in judgements(report)][2:] == [
        "STOI against the recording: 0.85; the gate asks for at least 0.9",
        "band energy: 1.5 dB; the gate asks for at most 2 dB",
        "PESQ-WB: not measured (needs: pesq); the gate asks for at least 1.6",
    ]
    passed = report.model_copy(update={"verdicts": (), "gates": GATES[1:2]})
    assert verdict_line(passed) == "The quality gate is passed."


def test_page_and_terminal_show_the_same(report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_figures(report)
    print_verdicts(report)
    terminal, page = capsys.readouterr().out, render_report(report, tmp_path)
    for row in quality_rows(report):
        for text in (row.student, row.student_recording, row.teacher_recording):
            assert text in terminal
            assert text in page
    for line in ("stoi/recording  at least 0.9  0.85", "pesq-wb         at least 1.6  needs: pesq"):
        assert line in terminal
    assert terminal.count("MISSED") == 3
    assert "-0.25 dB" in page


def test_reports_of_older_runs_load(report: Report) -> None:
    content = json.loads(report.model_dump_json())
    del content["finished"], content["gates"]
    for stage in [*content["stages"], content["teacher"]]:
        for entry in stage["measurements"]:
            for key in ("low", "high", "scores", "parts"):
                del entry[key]
    old = Report.model_validate_json(json.dumps(content))
    assert quality_rows(old) == ()
    assert [entry.value for entry in old.student] == [entry.value for entry in report.stages[-1].measurements]


def test_reports_are_written_and_read_the_same(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report
