import io
import re
import subprocess
import sys

import pytest

from compressor.console import ConsoleReporter, print_table
from compressor.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_steps(reporter: Reporter, clock: Clock, steps: int, seconds_each: float) -> None:
    with reporter.task("training", steps) as task:
        for step in range(steps):
            clock.now += seconds_each
            task.advance(status=f"loss {step}")


def run_until_interrupted(reporter: Reporter, clock: Clock) -> None:
    with reporter.task("training", 9) as task:
        task.advance(4)
        clock.now += 3
        raise KeyboardInterrupt


def test_a_log_gets_first_and_last_line_and_one_every_ten_seconds() -> None:
    log, clock = io.StringIO(), Clock()
    run_steps(ConsoleReporter(log, clock), clock, steps=50, seconds_each=0.5)
    assert log.getvalue().splitlines() == [
        "training: 0/50",
        "training: 20/50, 2 steps/s, 15 s left, loss 19",
        "training: 40/50, 2 steps/s, 5 s left, loss 39",
        "training: 50/50 done in 25 s, loss 49",
    ]


def test_time_left_counts_this_start_s_steps_and_ends_with_the_time_allowed() -> None:
    log, clock = io.StringIO(), Clock()
    with ConsoleReporter(log, clock).task("training", 1000, done=400, at_most=60.0) as task:
        for _ in range(2):
            clock.now += 12.0
            task.advance(24)
    assert log.getvalue().splitlines() == [
        "training: 400/1000",
        "training: 424/1000, 2 steps/s, 48 s left",
        "training: 448/1000, 2 steps/s, 36 s left",
        "training: 448/1000 done in 24 s",
    ]


def test_a_log_has_no_control_characters_even_if_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    log, clock = io.StringIO(), Clock()
    reporter = ConsoleReporter(log, clock)
    reporter.say("[bold]stage 1[/bold]")
    run_steps(reporter, clock, steps=5, seconds_each=9.0)
    assert log.getvalue().startswith("[bold]stage 1[/bold]\n")
    assert re.search(r"[^\n\x20-\x7e]", log.getvalue()) is None


def test_interrupted_work_says_where_it_stopped() -> None:
    log, clock = io.StringIO(), Clock()
    with pytest.raises(KeyboardInterrupt):
        run_until_interrupted(ConsoleReporter(log, clock), clock)
    assert log.getvalue().splitlines()[-1] == "training: stopped at 4/9 after 3 s"


def test_a_terminal_shows_bars_within_bars_and_keeps_a_line_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen, clock = Terminal(), Clock()
    reporter = ConsoleReporter(screen, clock)
    with reporter.task("stages", 1) as stages:
        run_steps(reporter, clock, steps=4, seconds_each=0.5)
        reporter.say("saved [prune]")
        stages.advance()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "\x1b[" in screen.getvalue()
    assert "0/4" in plain
    for line in ("training: 4/4 done in 2 s, loss 3", "saved [prune]", "stages: 1/1 done in 2 s"):
        assert line in re.split(r"[\r\n]+", plain.replace(line, f"\n{line}\n"))


def test_no_color_leaves_the_bars_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    screen, clock = Terminal(), Clock()
    run_steps(ConsoleReporter(screen, clock), clock, steps=4, seconds_each=0.5)
    assert re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", screen.getvalue()) is None


def test_a_dumb_terminal_is_treated_as_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen, clock = Terminal(), Clock()
    run_steps(ConsoleReporter(screen, clock), clock, steps=1, seconds_each=1.0)
    assert screen.getvalue() == "training: 0/1\ntraining: 1/1 done in 1 s, loss 0\n"


def test_a_table_aligns_numbers_to_the_right_and_text_to_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(
        ["stage", "parameters", "time", "proof"],
        [["teacher", "3.56 M", "–", ""], ["prune", "280", "4 min 5 s", "equal"]],  # noqa: RUF001
    )
    assert capsys.readouterr().out.splitlines() == [
        "stage    parameters       time  proof",
        "-------  ----------  ---------  -----",
        "teacher      3.56 M          –",  # noqa: RUF001
        "prune           280  4 min 5 s  equal",
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns got a row of 1 cells"):
        print_table(["a", "b"], [["1"]])


def test_importing_the_console_stays_light() -> None:
    probe = "import sys, compressor.console; print({'rich', 'torch', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
