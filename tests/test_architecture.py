"""Arrows point down: what may import what, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import demur

HOUSE = Path(demur.__file__).parent
DRAWING = HOUSE.parents[1] / "docs" / "architecture.md"
if not DRAWING.is_file():
    pytest.skip("not a checkout: the documentation is not installed", allow_module_level=True)

LEVELS = {"ground": 0, "first": 1, "training": 2, "evaluation": 2, "third": 3, "roof": 4}
PAGES = {"sources", "recipes", "attacks", "judges", "suites", "exports"}
# Libraries that are heavy, or not always installed, and the files that may know them.
GUESTS = {
    "trl": {"preference"},
    "peft": {"adapters"},
    "datasets": {"rows", "preference"},
    "matplotlib": {"report.figures"},
    "openai": set[str](),
    "httpx2": {"endpoint"},
    "gguf": set[str](),
    "accelerate": {"trainer"},
    "triton": {"fused_triton"},
    "py3langid": {"judges._breakage"},
    "typer": {"cli"},
}
# Whoever imports these needs no torch, and must not bring it along.
LIGHT = [
    "demur.cli",
    "demur.config",
    "demur.records",
    "demur.manifest",
    "demur.pages",
    "demur.pipeline",
    "demur.models",
    "demur.chat",
    "demur.evaluate",
    "demur.judging",
    "demur.language",
    "demur.materials",
    "demur.sources",
    "demur.attacks.prefill",
    "demur.attacks.gcg",
    "demur.attacks.autodan",
    "demur.attacks.pair",
    "demur.judges.refusal",
    "demur.recipes.dpo",
    "demur.recipes.ta_sft",
]
Arrow = tuple[str, str]


def modules() -> dict[str, ast.Module]:
    """Every file of the package, parsed, by its dotted name below `demur`."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


HOUSES = modules()


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names a module imports anywhere; of `from demur import x` it is `demur.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                known = inner.removeprefix("demur.") in HOUSES
                yield inner if known else str(node.module)


ARROWS: list[Arrow] = [
    (name, target.removeprefix("demur."))
    for name, tree in HOUSES.items()
    for target in imported(tree)
    if target.startswith("demur.")
]
OUTSIDE: list[Arrow] = [
    (name, target.partition(".")[0])
    for name, tree in HOUSES.items()
    for target in imported(tree)
    if not target.startswith("demur")
]


def top(name: str) -> str:
    return name.partition(".")[0]


def floors() -> dict[str, str]:
    """Where the table has each module; a folder of pages stands there as one."""
    found, floor = {}, ""
    for row in re.findall(r"^\| *(\w*) *\| `(\w+)/?` \|", DRAWING.read_text("utf-8"), re.M):
        floor = row[0] or floor
        found[row[1]] = floor
    return found | {"__main__": "roof"}


FLOORS = floors()


def level(name: str) -> int:
    return LEVELS[FLOORS[top(name)]]


def drawn(arrows: list[Arrow]) -> str:
    return "\n".join(f"demur.{a} -> {b}" for a, b in arrows)


def test_every_module_is_drawn_and_every_drawing_is_a_module() -> None:
    assert sorted({top(name) for name in HOUSES if name} ^ FLOORS.keys()) == []


def test_arrows_point_down() -> None:
    wrong = [(a, b) for a, b in ARROWS if a and level(a) < level(b)]
    assert not wrong, f"these point up:\n{drawn(wrong)}"


def test_the_wings_never_meet() -> None:
    wings = {"training", "evaluation"}
    wrong = [(a, b) for a, b in ARROWS if a and {FLOORS[top(a)], FLOORS[top(b)]} == wings]
    assert not wrong, f"these cross from wing to wing:\n{drawn(wrong)}"


def test_pages_never_import_pages() -> None:
    """Modules that begin with an underscore are what pages of a folder share."""

    def is_page(name: str) -> bool:
        folder, _, page = name.partition(".")
        return folder in PAGES and bool(page) and not page.startswith("_")

    wrong = [(a, b) for a, b in ARROWS if is_page(a) and is_page(b)]
    assert not wrong, f"a page needs another:\n{drawn(wrong)}"


def test_private_modules_stay_in_their_folder() -> None:
    wrong = [
        (a, b)
        for a, b in ARROWS
        if b.rpartition(".")[2].startswith("_") and b.rpartition(".")[0] != a.rpartition(".")[0]
    ]
    wrong = [(a, b) for a, b in wrong if b.rpartition(".")[0] != a]  # the folder's own __init__
    assert not wrong, f"another folder's private module:\n{drawn(wrong)}"


def test_no_module_is_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for a, b in ARROWS:
        if at_start(a, b):
            graph.setdefault(a, set()).add(b)
    while free := {name for name in graph if not graph[name] & graph.keys()}:
        for name in free:
            del graph[name]
    assert not graph, f"imported in a circle: {', '.join(sorted(graph))}"


def at_start(name: str, target: str) -> bool:
    """Whether the arrow is drawn when the module is imported, and not inside a function."""
    body = ast.Module(
        [n for n in HOUSES[name].body if isinstance(n, ast.Import | ast.ImportFrom)], []
    )
    return f"demur.{target}" in imported(body)


@pytest.mark.parametrize("guest", sorted(GUESTS))
def test_guests_stay_where_they_are_known(guest: str) -> None:
    wrong = [(a, b) for a, b in OUTSIDE if b == guest and a not in GUESTS[guest]]
    assert not wrong, f"may know {guest}: {GUESTS[guest] or 'no file'}, but\n{drawn(wrong)}"


def test_one_file_knows_the_trainer() -> None:
    def names(tree: ast.Module) -> set[str]:
        return {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and top(str(node.module)) == "transformers"
            for alias in node.names
        }

    knowing = {name for name, tree in HOUSES.items() if "Trainer" in names(tree)}
    assert knowing == {"trainer"}


def test_light_modules_load_no_torch() -> None:

    code = (
        f"import {', '.join(LIGHT)}, sys; print({{'torch', 'transformers'}} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_nothing_is_called_utils() -> None:
    assert [name for name in HOUSES if "util" in name or "helper" in name] == []
