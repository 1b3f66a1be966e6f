"""The report as one HTML file that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from compressor import report_curve, report_view
from compressor.dataset import FloatArray
from compressor.errors import RunFolderError
from compressor.figures import NOTHING, duration_in_words, in_words
from compressor.report import ListeningSample, Report
from compressor.report_quality import quality_rows
from compressor.spectrogram import read_signal, spectrogram_png


@dataclass(frozen=True)
class Player:
    """One recording to listen to, as data URIs."""

    label: str
    audio: str
    picture: str
    seconds: str
    highest_khz: str


@dataclass(frozen=True)
class Listening:
    """One validation sample as teacher, student and others give it."""

    name: str
    players: tuple[Player, ...]


def render_report(report: Report, folder: Path) -> str:
    """Return the report as a self-contained HTML page.

    The wav files named in `report.samples` are read from `folder` and embedded, each with a spectrogram; the pictures
    of a sample share one scale, set by the recording, or by the teacher where there is none.

    Raises:
        RunFolderError: a wav file is missing, unreadable or outside `folder`.
    """
    template = _template_environment().from_string(_template_text())
    return template.render(
        report=report,
        verdict=report_view.verdict_line(report),
        judgements=report_view.judgements(report),
        headlines=report_view.headlines(report),
        quality=quality_rows(report),
        columns=report_view.columns(report),
        rows=report_view.rows(report),
        curve=report_curve.draw_curve(report.curve),
        axes=report_curve,
        listening=[_listening(sample, folder) for sample in report.samples],
    )


def _template_environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["nothing"] = NOTHING
    environment.filters["in_words"] = in_words
    environment.filters["duration"] = duration_in_words
    environment.filters["metric_label"] = report_view.label
    return environment


def _template_text() -> str:
    return resources.files("compressor").joinpath("report_template.html.j2").read_text(encoding="utf-8")


def _listening(sample: ListeningSample, folder: Path) -> Listening:
    reference, _ = read_signal(_inside(folder, sample.recording or sample.teacher))
    files = {
        "teacher": sample.teacher,
        "student": sample.student,
        "recording": sample.recording,
        "before training": sample.before_training,
    }
    players = (_player(label, _inside(folder, file), reference) for label, file in files.items() if file is not None)
    return Listening(sample.name, tuple(players))


def _player(label: str, path: Path, reference: FloatArray) -> Player:
    signal, sample_rate = read_signal(path)
    return Player(
        label=label,
        audio=_data_uri("audio/wav", path.read_bytes()),
        picture=_data_uri("image/png", spectrogram_png(signal, sample_rate, reference)),
        seconds=duration_in_words(signal.size / sample_rate),
        highest_khz=in_words(sample_rate / 2000),
    )


def _inside(folder: Path, file: str) -> Path:
    """Return the path of a listening sample; one outside the run folder would leak a stranger's file into the page."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RunFolderError(f"{file}: a listening sample has to lie inside the run folder {folder}")
    return path


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
