"""The report as one HTML file that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor import report_curve, report_layers, report_view
from compressor.dataset import FloatArray
from compressor.errors import RunFolderError
from compressor.figures import NOTHING, duration_in_words, in_words
from compressor.report import ListeningSample, Report
from compressor.report_quality import quality_rows
from compressor.spectrogram import difference_png, read_signal, spectrogram_png


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
    difference: str = ""
    """A picture of where the student is louder or softer than its teacher; empty where there is none."""


def render_report(report: Report, folder: Path) -> str:
    """Return the report as a self-contained HTML page.

    The wav files named in `report.samples` are read from `folder` and embedded, each with a spectrogram; the pictures
    of a sample share one scale, set by the recording, or by the teacher where there is none.

    Raises:
        RunFolderError: a wav file is missing, unreadable or outside `folder`.
    """
    return render_page(
        "report_template.html.j2",
        report=report,
        verdict=report_view.verdict_line(report),
        judgements=report_view.judgements(report),
        headlines=report_view.headlines(report),
        quality=quality_rows(report),
        columns=report_view.columns(report),
        rows=report_view.rows(report),
        curve=report_curve.draw_curve(report.curve),
        costs=report_layers.cost_pictures(report),
        drawn=report_layers,
        again=report_view.rerun_command(report),
        listening=[_listening(sample, folder) for sample in report.samples],
    )


def render_page(template: str, **content: Any) -> str:
    """Return a page of this package's layout, made from one of its templates."""
    environment = Environment(
        loader=PackageLoader("compressor", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(nothing=NOTHING, axes=report_curve)
    environment.filters["in_words"] = in_words
    environment.filters["duration"] = duration_in_words
    environment.filters["metric_label"] = report_view.label
    return environment.get_template(template).render(content)


def _listening(sample: ListeningSample, folder: Path) -> Listening:
    files = {
        "teacher": sample.teacher,
        "student": sample.student,
        "recording": sample.recording,
        "before training": sample.before_training,
    }
    paths = {label: sample_path(folder, file) for label, file in files.items() if file is not None}
    heard = listen(sample.name, paths, paths.get("recording", paths["teacher"]))
    (student, rate), (teacher, _) = read_signal(paths["student"]), read_signal(paths["teacher"])
    return replace(heard, difference=_data_uri("image/png", difference_png(student, rate, teacher)))


def listen(name: str, paths: Mapping[str, Path], loudest: Path) -> Listening:
    """Return players for wav files by label; the file `loudest` sets the scale of all pictures.

    Raises:
        RunFolderError: a file is missing or is no sound file.
    """
    reference, _ = read_signal(loudest)
    return Listening(name, tuple(_player(label, path, reference) for label, path in paths.items()))


def _player(label: str, path: Path, reference: FloatArray) -> Player:
    signal, sample_rate = read_signal(path)
    return Player(
        label=label,
        audio=_data_uri("audio/wav", path.read_bytes()),
        picture=_data_uri("image/png", spectrogram_png(signal, sample_rate, reference)),
        seconds=duration_in_words(signal.size / sample_rate),
        highest_khz=in_words(sample_rate / 2000),
    )


def sample_path(folder: Path, file: str) -> Path:
    """Return the path of a listening sample.

    Raises:
        RunFolderError: it is outside the run folder: the page would leak a stranger's file.
    """
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RunFolderError(f"{file}: a listening sample has to lie inside the run folder {folder}")
    return path


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
