"""`python -m benchmarks`: measure all and keep the results; with names, show only those."""

from __future__ import annotations

import argparse
import json
import os
import pkgutil
import platform
from collections.abc import Iterable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.measure import met, say
from demur.records import replace

RESULTS = Path(__file__).parent / "results.json"
Figure = dict[str, Any]
HELPERS = {"__main__", "measure"}
PACKAGES = ("demur", "torch", "transformers", "trl", "peft", "accelerate")


def names() -> list[str]:
    """Every file here that has figures()."""
    return sorted({found.name for found in pkgutil.iter_modules(benchmarks.__path__)} - HELPERS)


def lacking(chosen: Iterable[str]) -> set[str]:
    """The packages that these would measure against and that are not here."""
    wanted = {
        package
        for name in chosen
        for package in getattr(import_module(f"benchmarks.{name}"), "NEEDS", ())
    }
    return {package for package in wanted if find_spec(package) is None}


def measured(name: str) -> list[dict[str, Any]]:
    say(name)
    figures: list[dict[str, Any]] = import_module(f"benchmarks.{name}").figures()
    return figures


def machine() -> dict[str, Any]:
    """What the ratios were measured on; a ratio moves less from machine to machine than a time."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seconds": "elapsed" if torch.cuda.is_available() else "of the processor",
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of every package that takes part and is here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def show(results: dict[str, Any]) -> Table:
    """The figures with their spread, and whether each reaches its target."""
    table = Table(*COLUMNS)
    for part in _parts(results["figures"]).values():
        table.add_section()
        for one in part:
            table.add_row(*_cells(one))
    return table


def markdown(results: dict[str, Any]) -> str:
    """The same as a page, with machine and versions."""
    tables = [line for part in _parts(results["figures"]).items() for line in _table(*part)]
    told = [
        ", ".join(f"{name} {value}" for name, value in results[part].items() if value is not None)
        for part in ("machine", "versions")
    ]
    head = ["# Measured", "", "Written by `make bench`, as `results.json` is.", ""]
    return "\n".join([*head, *tables, *(f"- {line}" for line in told), ""])


COLUMNS = ("figure", "value", "least - most", "target", "reached")
SECONDS = "seconds"  # what the name of a figure that is no ratio begins with


def _parts(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """By what they are: a ratio of rounds that took turns, one without rounds, or seconds."""
    parts: dict[str, list[Figure]] = {
        "Ratios of times: the median of rounds that took turns": [],
        "Ratios of what was counted, or measured once: memory, error, places": [],
        "Seconds": [],
    }
    turns, once, seconds = parts.values()
    for one in figures:
        rounds = turns if one["spread"][0] < one["spread"][1] else once
        (seconds if one["name"].startswith(SECONDS) else rounds).append(one)
    return {title: part for title, part in parts.items() if part}


def _table(title: str, figures: Iterable[Figure]) -> list[str]:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, figures)]
    return [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _cells(one: Figure) -> tuple[str, ...]:
    sign = "≤" if one["better"] == "lower" else "≥"
    unit = " s" if one["name"].startswith(SECONDS) else ""
    target = "" if one["target"] is None else f"{sign} {one['target']:.3g}{unit}"
    mark = {True: "yes", False: "no", None: ""}[met(one)]
    least, most = one["spread"]
    spread = f"{least:.2f} - {most:.2f}{unit}" if least < most else "-"
    return one["name"], f"{one['ratio']:.2f}{unit}", spread, target, mark


def keep(results: dict[str, Any], where: Path = RESULTS) -> None:
    """As JSON, and as a table beside it."""
    replace(where, json.dumps(results, indent=2) + "\n")
    replace(where.with_suffix(".md"), markdown(results))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names())}; default: all")
    chosen = parser.parse_args().name or names()
    if unknown := set(chosen) - set(names()):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    if absent := lacking(chosen):
        parser.error(f"{', '.join(sorted(absent))} not installed: pip install 'demur[preference]'")
    figures = [one for name in chosen for one in measured(name)]
    results = {"machine": machine(), "versions": versions(), "figures": figures}
    if chosen == names():
        keep(results)
    console = Console()
    console.print(results["machine"], results["versions"], show(results))


if __name__ == "__main__":
    main()
