"""Progress without a terminal: one line every half minute, with the time left."""

import io
import sys
from pathlib import Path

import pytest

import robustcls
from robustcls.core import progress
from robustcls.core.progress import Bar, duration, follow
from tests.helpers.clock import Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(progress, "_last_line", [])
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return Clock()


def advance(bar: Bar, clock: Clock, seconds: float, count: int = 1, remark: str = "") -> None:
    clock.now += seconds
    bar.advance(count, remark)


def test_a_line_every_half_minute_with_what_is_left(clock, capsys):
    with Bar(100, "pgd", "image", clock=clock) as bar:
        for _ in range(9):
            advance(bar, clock, 10, 10, "7 stand")
    assert capsys.readouterr().err.splitlines() == [
        "pgd: 30 of 100 images, 7 stand, 1 min 10 s left",
        "pgd: 60 of 100 images, 7 stand, 40 s left",
        "pgd: 90 of 100 images, 7 stand, 10 s left",
    ]


def test_many_short_bars_share_the_half_minute(clock, capsys):
    for number in range(10):
        with Bar(4, f"part {number}", clock=clock) as bar:
            for _ in range(4):
                advance(bar, clock, 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["part 2", "part 5", "part 7"]


def test_what_is_over_within_two_seconds_is_not_shown(clock, capsys):
    with Bar(2, "long", clock=clock) as bar:
        advance(bar, clock, 60)
    with Bar(2, "short", clock=clock) as bar:
        clock.now += 60
        bar.begun = clock.now
        advance(bar, clock, 1)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["long"]


def test_the_rate_is_that_of_this_run(clock, capsys):
    with Bar(100, "training", "image", done=80, clock=clock) as bar:
        advance(bar, clock, 40, 4)
    assert capsys.readouterr().err == "training: 84 of 100 images, 2 min 40 s left\n"


def test_a_bar_without_a_unit(clock, capsys):
    with Bar(2, "self-checks", "", clock=clock) as bar:
        advance(bar, clock, 31)
    assert capsys.readouterr().err == "self-checks: 1 of 2, 31 s left\n"


@pytest.mark.parametrize("how", ["quiet", "TQDM_DISABLE"])
def test_nothing_is_shown_where_that_is_asked(how, clock, capsys, monkeypatch):
    if how == "TQDM_DISABLE":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    with Bar(3, "x", show=how != "quiet", clock=clock) as bar:
        advance(bar, clock, 40)
    assert capsys.readouterr().err == ""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0)
    assert list(follow([1, 2], "x", show=how != "quiet")) == [1, 2]
    assert stream.getvalue() == ""


def test_a_terminal_has_a_bar_and_no_lines(clock, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0)
    with Bar(3, "pgd", clock=clock) as bar, bar.above():
        advance(bar, clock, 40)
    assert "pgd" in stream.getvalue()
    assert "\n" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (3.21, "3.2 s"), (9.99, "10 s"), (40, "40 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_only_the_helper_makes_bars():
    root = Path(robustcls.__file__).parent
    users = {
        file.relative_to(root).as_posix() for file in root.rglob("*.py") if "import tqdm" in file.read_text("utf-8")
    }
    assert users == {"core/progress.py"}
