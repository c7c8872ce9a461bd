"""Progress bars: on a terminal, of the first process only; a log file has none."""

import sys

import pytest

from nightshift.console import progress


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (False, False)])
def test_a_bar_is_for_a_terminal(capsys, monkeypatch, terminal, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(progress.bar("encode", "case")([1, 2, 3])) == [1, 2, 3]
    assert ("encode" in capsys.readouterr().err) is shown


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_of_several_processes_the_first_shows_the_steps(capsys, monkeypatch, rank, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("RANK", rank)
    with progress.steps_bar("train", 4, done=1) as advance:
        advance(3)
    assert ("4/4" in capsys.readouterr().err) is shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (90, "90 s"), (91, "2 min"), (5400, "90 min"), (5401, "1.5 h")]
)
def test_durations(seconds, text):
    assert progress.hours(seconds) == text


def test_sizes():
    assert progress.gigabytes(2_360_000_000) == "2.4 GB"
