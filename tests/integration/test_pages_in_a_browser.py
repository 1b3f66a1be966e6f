"""Report, comparison and sweep in a real browser: nothing is logged, players play, keys work, axe is content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.comparing import compare
from compressor.comparison_html import render_comparison
from compressor.report import LayerRecord, Measurement, Report
from compressor.report_html import render_report
from compressor.run_reading import FinishedRun
from compressor.sweep.page import render_sweep
from compressor.sweep.results import Results, Tried
from tests.compressor.report_example import example_report

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
WIDTHS = {"phone": 360, "desktop": 1280}
SCHEMES = ("light", "dark")
SMALLEST_TEXT = 9.0
"""Pixels of a letter's height, with what is above and below it, that can still be read."""
LONG = "multi_receptive_field_fusion_blocks"
TEXTS = """[...document.querySelectorAll("svg text")].map(text => {
    const picture = text.ownerSVGElement, whole = picture.viewBox.baseVal, own = text.getBBox();
    const pixels = picture.getBoundingClientRect().width / whole.width;
    return [parseFloat(getComputedStyle(text).fontSize) * pixels, own.x, whole.width - own.x - own.width];
})"""
"""Of each text in a picture: its size in pixels, and its distance from the picture's left and right edge."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write each kind of page; returns them by kind."""
    folder = tmp_path_factory.mktemp("pages")
    report = _with_a_long_name(example_report(folder, 2, 1.5))
    trials = tuple(
        Tried(
            number=at,
            values={"depthwise-separable-conv.rank": at},
            state="finished",
            folder="trials/x",
            measurements=(
                Measurement(metric="parameters", value=1e6 * at),
                Measurement(metric="stoi", value=1 - 0.1 / at, better="higher"),
            ),
        )
        for at in range(1, 7)
    )
    sweep = Results(
        recipe="r.yaml", objectives=("parameters", "stoi"), higher=(False, True), trials=trials,
        front=tuple(range(1, 7)), best=3,
    )  # fmt: skip
    written = {
        "report": render_report(report, folder),
        "comparison": _comparison(folder),
        "sweep": render_sweep(sweep),
    }
    for name, text in written.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in written}


def _with_a_long_name(report: Report) -> Report:
    def renamed(layers: tuple[LayerRecord, ...]) -> tuple[LayerRecord, ...]:
        return tuple(each.model_copy(update={"layer": each.layer.replace("resblocks", LONG)}) for each in layers)

    teacher = report.teacher.model_copy(update={"layers": renamed(report.teacher.layers)})
    return report.model_copy(update={"teacher": teacher, "layers": renamed(report.layers)})


def _comparison(folder: Path) -> str:
    runs = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        runs.append(FinishedRun(folder / name, example_report(folder / name, 2, 1.5)))
    return render_comparison(compare(*runs), *runs)


def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> Any:
    # The page lets no code in from outside, which waiting for a condition is.
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("requestfailed", lambda request: page.said.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["report", "comparison", "sweep"])
def test_pages_fit_say_nothing_and_pass_axe(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = opened(browser, pages[name], width, scheme)
    assert page.said == []
    # Wide tables scroll by themselves; the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    page.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_what_is_folded_away_fits_and_passes_axe(browser: Any, pages: dict[str, Path], width: int) -> None:
    page = opened(browser, pages["report"], width)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.locator("details > ul").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    page.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["report", "comparison", "sweep"])
def test_pictures_can_be_read(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    page = opened(browser, pages[name], width)
    texts = page.evaluate(TEXTS)
    assert texts
    for size, left, right in texts:
        assert size >= SMALLEST_TEXT
        assert min(left, right) >= 0
    page.close()


def test_the_picture_of_costs_scrolls_on_a_phone_and_long_names_are_there_in_full(
    browser: Any, pages: dict[str, Path]
) -> None:
    page = opened(browser, pages["report"], WIDTHS["phone"])
    picture = page.locator(".costs .wide").first
    shown = picture.locator("text").all_text_contents()
    assert all(LONG not in text for text in shown)
    assert f"{LONG}/11" in picture.locator("title").all_text_contents()
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.costs .wide').scrollLeft > 0")
    page.close()


def test_wide_screens_show_the_picture_of_costs_whole(browser: Any, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"])
    assert page.evaluate("[...document.querySelectorAll('.costs .wide')].map(p => p.scrollWidth - p.clientWidth)") == [
        0, 0,
    ]  # fmt: skip
    page.close()


def test_players_play_one_at_a_time_and_at_the_same_moment(browser: Any, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"])
    assert page.locator("audio").count() >= 6
    page.evaluate("document.querySelectorAll('audio')[0].play()")
    page.wait_for_function("document.querySelectorAll('audio')[0].currentTime > 0.3")
    page.evaluate("document.querySelectorAll('audio')[1].play()")
    page.wait_for_function("document.querySelectorAll('audio')[1].currentTime > 0.3")
    first, second = page.evaluate("[...document.querySelectorAll('audio')].map(a => [a.paused, a.currentTime])")[:2]
    assert (first[0], second[0]) == (True, False)
    assert second[1] >= first[1]
    # Another sample begins at its beginning.
    other = page.evaluate("[...document.querySelectorAll('.players')].map(p => p.querySelectorAll('audio').length)")[0]
    page.evaluate(f"document.querySelectorAll('audio')[{other}].play()")
    assert page.evaluate(f"document.querySelectorAll('audio')[{other}].currentTime") < 0.3
    assert page.said == []
    page.close()


def test_a_player_starts_and_stops_by_the_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"])
    page.locator("audio").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('audio').currentTime > 0.1")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('audio').paused")
    # The button inside the player, where Chromium has one.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement === document.querySelector('audio')")
    page.keyboard.press("Enter")
    page.wait_for_function("!document.querySelector('audio').paused")
    assert page.said == []
    page.close()


def test_keys_reach_players_tables_and_details(browser: Any, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["report"])
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + (document.activeElement.className || '')"))
    assert {"AUDIO.", "DIV.wide", "SUMMARY."} <= reached
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    page.close()
