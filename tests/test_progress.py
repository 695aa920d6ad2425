"""What is told on the way is told as it stands: paths and templates are full of brackets."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from demur import progress

TEXT = "runs/[bold]x[/INST] :cat: [3, 4]"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=200))
    return file


def test_a_line_is_said_as_it_stands(heard: io.StringIO) -> None:
    progress.say(TEXT)
    assert heard.getvalue() == f"{TEXT}\n"


@pytest.mark.parametrize(("terminal", "lines"), [(False, 1), (True, 3)])
def test_a_long_line_is_one_in_a_log(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, lines: int
) -> None:
    file, text = io.StringIO(), "word " * 40 + "end"
    console = Console(file=file, width=80, force_terminal=terminal, _environ={})
    monkeypatch.setattr(progress, "console", console)
    progress.say(text)
    assert file.getvalue().count("\n") == lines
    assert file.getvalue().split() == text.split()


def test_a_bar_has_its_title_and_note_as_they_stand(heard: io.StringIO) -> None:
    with progress.Bar(TEXT, total=2) as bar:
        bar.advance(2, f"of {TEXT}")
    assert heard.getvalue().count(TEXT) == 2 and "2/2" in heard.getvalue()
