import base64
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.calibration import PROBE_SIZE
from compressor.errors import RunFolderError
from compressor.report import CurvePoint, FindingRecord, ListeningSample, Measurement, Report, StageRecord
from compressor.report_html import render_report
from compressor.report_layers import SIZE
from tests.compressor.report_example import PESQ_NOTE, RECIPE, example_report

VOID = {"meta", "img", "br", "link", "input", "source"}
LINKING = ("src", "href", "srcset", "poster", "data", "action", "xlink:href")


@dataclass
class Page(HTMLParser):
    """A parsed page: its elements, its text outside scripts, and the elements left open."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return example_report(folder)


@pytest.fixture(scope="module")
def page(report: Report, folder: Path) -> Page:
    return parsed(render_report(report, folder))


def test_the_page_needs_nothing_else(page: Page) -> None:
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in LINKING]
    assert links
    assert all(link is not None and link.startswith("data:") for link in links)
    policy = next(meta for meta in page.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_the_styles_load_nothing(report: Report, folder: Path) -> None:
    html = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]*", "", render_report(report, folder))
    assert re.search(r"https?://|url\(|@import", html) is None


def test_every_player_holds_its_file_and_every_picture_is_a_png(page: Page, report: Report, folder: Path) -> None:
    files = [
        name
        for s in report.samples
        for name in (s.teacher, s.student, s.recording, s.before_training)
        if name is not None
    ]
    sounds = [str(audio["src"]).partition(";base64,") for audio in page.attributes("audio")]
    assert [kind for kind, _, _ in sounds] == ["data:audio/wav"] * 8
    assert [base64.b64decode(content, validate=True) for _, _, content in sounds] == [
        (folder / name).read_bytes() for name in files
    ]
    for image in page.attributes("img"):
        kind, _, content = str(image["src"]).partition(";base64,")
        assert kind == "data:image/png"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG\r\n")
        assert image["alt"]


def test_every_player_has_a_label_of_its_own(page: Page) -> None:
    labels = [audio["aria-label"] for audio in page.attributes("audio")]
    assert labels[:4] == [f"LJ001-0000: {who}" for who in ("teacher", "student", "recording", "before training")]
    assert len(set(labels)) == 8


def test_versions_that_were_not_written_have_no_player(report: Report, folder: Path) -> None:
    first = report.samples[0]
    short = ListeningSample(name="one", teacher=first.teacher, student=first.student)
    page = parsed(render_report(report.model_copy(update={"samples": (short,)}), folder))
    assert [audio["aria-label"] for audio in page.attributes("audio")] == ["one: teacher", "one: student"]


def test_the_verdict_says_in_words_what_is_missed(page: Page) -> None:
    assert "1 of 2 budget limits missed: latency." in page.text
    assert "✓ met MACs: 2.4 GMAC; the limit is 2.5 GMAC, 30% of the teacher's 8.35 GMAC" in page.text
    assert "✗ missed latency: 73.8 ms; the limit is 70 ms" in page.text


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [(0, "The recipe sets no budget."), (1, "The budget limit is met."), (2, "All 2 budget limits are met.")],
)
def test_the_verdict_of_a_kept_budget(report: Report, folder: Path, kept: int, sentence: str) -> None:
    met = report.verdicts[0]
    page = parsed(render_report(report.model_copy(update={"verdicts": (met,) * kept, "samples": ()}), folder))
    assert sentence in page.text
    assert "missed" not in page.text


def test_the_stage_table_compares_each_stage_with_the_teacher(page: Page) -> None:
    assert "teacher 3.56 M 8.35 GMAC 14.3 MB 212 ms 0.212 1×" in page.text  # noqa: RUF001
    assert (
        "distillation 1.07 M 30.1% 2.4 GMAC 28.7% 4.33 MB 30.3% 73.8 ms 2.87× 0.0738 2.87× 2.87× 1.84 dB 0.962"  # noqa: RUF001
        in page.text
    )
    assert f"not measured {PESQ_NOTE}" in page.text
    assert "2.4 s output moved by 2.4e-7, 1e-4 allowed" in page.text


def test_the_headlines_show_what_was_measured_of_the_finished_student(page: Page) -> None:
    assert "parameters 3.56 M → 1.07 M 30.1% of the teacher" in page.text
    assert "latency 212 ms → 73.8 ms 2.87× as fast" in page.text  # noqa: RUF001
    assert "mel distance 1.84 dB STOI 0.962" in page.text


def test_findings_exports_data_licence_environment_and_recipe_are_told(page: Page, report: Report) -> None:
    assert "conv_pre : 512 -> 280 channels (removed 232)" in page.text
    assert page.text.count("equal to the torch student") == 3
    assert "notes.txt: no sound file: skipped" in page.text
    assert f"The student derives from its teacher: {report.teacher.licence}" in page.text
    assert "onnxruntime 1.22.0" in page.text
    assert RECIPE in "".join(page.words)


@pytest.mark.parametrize(
    ("folder_named", "device", "command"),
    [
        ("runs/mine", "cpu", "compress run runs/mine/recipe.yaml --out runs/mine-again"),
        ("/data/my runs/a", "cuda:1",
         "compress run '/data/my runs/a/recipe.yaml' --device cuda:1 --out '/data/my runs/a-again'"),
        (".", "cpu", "compress run recipe.yaml --out again"),
    ],
)  # fmt: skip
def test_the_command_to_run_it_again_is_of_the_folder_where_it_was_run(
    report: Report, folder: Path, folder_named: str, device: str, command: str
) -> None:
    told = {"folder": folder_named, "environment": {"device": device}, "samples": ()}
    page = parsed(render_report(report.model_copy(update=told), folder))
    assert f"in the folder where it was run before: {command} . Paths of" in page.text


def test_a_report_of_before_folders_were_noted_is_still_read(report: Report, folder: Path) -> None:
    old = Report.model_validate(report.model_dump(exclude={"folder", "samples"}))
    page = parsed(render_report(old, folder))
    assert "compress run with the recipe.yaml of the run folder. Paths of teacher and data begin there." in page.text
    assert "-again" not in page.text


def test_the_page_says_what_macs_of_layers_are_counted_for(page: Page, report: Report, folder: Path) -> None:
    assert SIZE == PROBE_SIZE
    assert "size 32; elsewhere on this page, for each second of output." in page.text
    assert [str(svg["aria-label"]).partition(":")[0] for svg in page.attributes("svg")][:2] == [
        "parameters by part", "MACs at size 32 by part",
    ]  # fmt: skip
    silent = parsed(render_report(report.model_copy(update={"sample_rate": None, "samples": ()}), folder))
    assert "size 32." in silent.text


def test_an_export_that_differs_is_marked(report: Report, folder: Path) -> None:
    worse = report.export_checks[0].model_copy(update={"max_abs_difference": 0.5})
    page = parsed(render_report(report.model_copy(update={"export_checks": (worse,), "samples": ()}), folder))
    assert "✗ differs from the torch student" in page.text


def test_the_curve_has_one_panel_per_series(page: Page) -> None:
    charts = [str(svg["aria-label"]) for svg in page.attributes("svg") if " by part: " not in str(svg["aria-label"])]
    assert [chart.partition(" over ")[0] for chart in charts] == [
        "loss block", "loss total", "loss mel", "validation mel_distance",
    ]  # fmt: skip
    assert "block-wise: 0 s to 10 min" in page.text


def test_a_bare_report_renders(report: Report, tmp_path: Path) -> None:
    bare = Report(name="bare", created="2025-11-22T15:04:05Z", seconds=0.0, teacher=report.teacher, stages=())
    page = parsed(render_report(bare, tmp_path))
    assert "No stage was run." in page.text
    assert not page.attributes("audio")


@settings(max_examples=20)
@given(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), st.sampled_from(["<script>", "\"'><img src=x>"])
)
def test_names_are_text_and_never_markup(
    report: Report, tmp_path_factory: pytest.TempPathFactory, name: str, tag: str
) -> None:
    hostile = f"{tag}{name}"
    stage = StageRecord(
        stage=hostile,
        strategy=hostile,
        options={hostile: hostile},
        measurements=(Measurement(metric=hostile, value=1.0, unit=hostile),),
        findings=(FindingRecord(message=hostile, layer=hostile, values={hostile: hostile}),),
    )
    point = CurvePoint(phase=hostile, step=0, seconds=1.0, losses={hostile: 1.0})
    told = {"name": hostile, "data": hostile, "recipe": hostile, "environment": {hostile: hostile}, "samples": ()}
    changed = report.model_copy(update={**told, "stages": (stage,), "curve": (point,)})
    page = parsed(render_report(changed, tmp_path_factory.getbasetemp()))
    assert len(page.attributes("script")) == 1
    assert not page.attributes("img")
    assert page.words.count(hostile) >= 5


def test_the_name_of_a_sample_is_escaped(report: Report, folder: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    sample = report.samples[0].model_copy(update={"name": hostile})
    page = parsed(render_report(report.model_copy(update={"samples": (sample,)}), folder))
    assert page.attributes("audio")[0]["aria-label"] == f"{hostile}: teacher"
    assert len(page.attributes("script")) == 1


def test_samples_outside_the_run_folder_are_refused(report: Report, folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir(exist_ok=True)
    soundfile.write(folder / "secret.wav", [0.0], 16000)
    sample = ListeningSample(name="one", teacher="../secret.wav", student="../secret.wav")
    with pytest.raises(RunFolderError, match="has to lie inside the run folder"):
        render_report(report.model_copy(update={"samples": (sample,)}), inner)
