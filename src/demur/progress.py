"""Long work shows how far it is; where nobody watches a terminal, a line at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from demur import processes

console = Console(stderr=True, quiet=not processes.first())


class Bar:
    """One bar: how many of ``total`` are done, and a word on how it goes."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, note="")

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def step(self, done: int, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)

    def advance(self, by: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=by, note=note)

    def __enter__(self) -> Bar:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()


def say(text: str) -> None:
    """A line for the person at the terminal; results go to standard output instead.

    A log has it as one line, however long.
    """
    whole = not console.is_terminal
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=whole)
