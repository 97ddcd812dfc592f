"""Progress: a bar in a terminal, lines elsewhere, nothing where none is asked for."""

import sys

import pytest

from nestax import _progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_now_and_then(clock, capsys):
    with _progress.progress_bar(1_000, "training", True) as report:
        for done in (100, 200, 300, 1_000):
            clock[0] += 4.0
            report(done, lambda done=done: f"loss {1 / done:.3f}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 300 of 1,000 in 12 s, loss 0.003",
        "training: 1,000 of 1,000 in 16 s, loss 0.001",
    ]


def test_nothing_is_shown_or_asked_for_where_none_is_wanted(capsys):
    with _progress.progress_bar(10, "training", False) as report:
        report(1, lambda: 1 / 0)  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with _progress.progress_bar(10, "training", True) as report:
        report(5, lambda: "half")
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/10" in err
    assert "half" in err
