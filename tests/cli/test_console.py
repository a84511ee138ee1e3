"""Characters that the terminal can display."""

import io

import pytest

from robustcls.cli import console


@pytest.mark.parametrize(("encoding", "start"), [("utf-8", "✓ met"), ("ascii", "+ met"), ("cp1252", "+ met")])
def test_the_marks_are_what_the_terminal_can_write(encoding, start, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert console.mark("PASS").startswith(start)
    print(console.mark("FAIL"))
    assert len({len(console.mark(status)) for status in ("PASS", "WARN", "FAIL", "INCONCLUSIVE")}) == 1
