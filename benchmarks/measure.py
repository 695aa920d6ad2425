"""Ratios that survive a busy machine: rounds that take turns, the median of the rounds' ratios."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

Case = Callable[[], object]
ROOT = Path(__file__).parents[1]  # where `-m benchmarks` is found


def clock() -> float:
    """Seconds: of the processor, which neighbours disturb less than the clock; of that on a GPU."""
    if not torch.cuda.is_available():
        return process_time()
    torch.cuda.synchronize()
    return perf_counter()


def times(cases: Mapping[str, Case], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round, all cases taking turns; one round to warm up.

    A case that returns a float has timed itself, in ``clock`` seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            start = clock()
            own = case()
            seconds = own if isinstance(own, float) else clock() - start
            say(f"{name}: {seconds:.1f} s" + (f", round {turn} of {rounds}" if turn else ", warm"))
            if turn:
                taken[name].append(seconds)
    return taken


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"  {line}", file=sys.stderr, flush=True)


def figure(
    name: str,
    above: list[float],
    below: list[float],
    target: float | None = None,
    better: str = "lower",
) -> dict[str, Any]:
    """above/below, round by round: the median, and the least and the most as its spread.

    ``target`` is the most a ratio may be, or the least where ``better`` is "higher".
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    spread = [min(ratios), max(ratios)]
    median = statistics.median(ratios)
    return {"name": name, "ratio": median, "target": target, "better": better, "spread": spread}


def met(figure: Mapping[str, Any]) -> bool | None:
    """Whether a figure reaches its target; None without one."""
    if figure["target"] is None:
        return None
    lower = figure["better"] == "lower"
    reached = figure["ratio"] <= figure["target"] if lower else figure["ratio"] >= figure["target"]
    return bool(reached)


def peak_memory() -> int:
    """Bytes this process has held at most, since it began or ``forget_peak``."""
    return _bytes("VmHWM")


def forget_peak() -> int:
    """Bytes held now; where the system can (Linux), the peak starts from them anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _bytes("VmRSS")


def _bytes(name: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started us
        line = next(line for line in status.read_text().splitlines() if name in line)
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def alone(module: str, *arguments: str) -> float:
    """The number that `python -m module arguments` prints last, in a process of its own."""
    say(f"memory: {module} {' '.join(arguments)}")
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])
