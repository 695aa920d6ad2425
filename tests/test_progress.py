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


def test_a_bar_has_its_title_and_note_as_they_stand(heard: io.StringIO) -> None:
    with progress.Bar(TEXT, total=2) as bar:
        bar.advance(2, f"of {TEXT}")
    assert heard.getvalue().count(TEXT) == 2 and "2/2" in heard.getvalue()
