"""How long the command line takes to answer: `demur --help`, in a process of its own.

`python -m benchmarks startup`. Seconds are elapsed ones, as somebody waits them, so that a busy
machine shows; the second figure holds them against a Python that has nothing to do.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.measure import figure

COMMANDS = {"help": ["-m", "demur", "--help"], "nothing": ["-c", "pass"]}


@dataclass(frozen=True)
class Size:
    """How often each is started."""

    rounds: int = 9


FULL = Size()


def figures(size: Size = FULL) -> list[dict[str, Any]]:
    """Seconds, and a ratio; in a few seconds."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(size.rounds + 1):
        for name, command in COMMANDS.items():
            seconds = _seconds(command)
            if turn:  # the first one reads the files
                taken[name].append(seconds)
    return [
        figure("seconds until demur --help has answered", taken["help"], [1.0] * size.rounds, 0.3),
        figure("demur --help / a Python with nothing to do", taken["help"], taken["nothing"]),
    ]


def _seconds(command: list[str]) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - start
