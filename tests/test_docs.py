"""The docs say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from demur import config, pages

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generator", ROOT / "docs" / "configuration.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_is_the_settings() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == _generator().page(), "run `make docs`"


def test_the_reference_speaks_of_types_and_defaults_in_words() -> None:
    written = _generator().page()
    for row in (
        "| `tokens` | list of whole numbers above 0 | `[5, 20]` |",
        "| `evaluate.max_unscored` | number at least 0 and at most 1 | `0.05` |",
        "| `collect.limit` | whole number above 0, or null | `null` |",
        "| `evaluate.judges` | list of pages, not empty | `refusal`, `broken`, `exact` |",
        "| `train.mix` | mapping of texts to whole numbers at least 0 | `{}` |",
    ):
        assert row in written
    for python in ("tuple[", "Literal[", "None", "True", "Annotated", "Path"):
        assert f"| {python}" not in written and f"`{python}`" not in written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whole_configurations_in_the_docs_are_valid(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        tree = yaml.safe_load(block)
        if isinstance(tree, dict) and "output" in tree:
            config.build(tree)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_shipped_configurations_are_valid(file: Path) -> None:
    assert config.load(file).trainings()


def test_every_python_file_of_the_house_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    spine = {path.stem for path in (ROOT / "src" / "demur").glob("[!_]*.py")}
    folders = {p.name + "/" for p in (ROOT / "src" / "demur").glob("[!_]*") if p.is_dir()}
    missing = {name for name in spine | folders if f"`{name}`" not in text}
    assert not missing, f"put them into docs/architecture.md: {sorted(missing)}"


@pytest.mark.parametrize("name", pages.names("recipes"))
def test_the_methods_page_knows_each_recipe(name: str) -> None:
    """Its presets, and each setting, which `derta` shares with two others."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    table = text.partition("## The recipes\n")[2].partition("\n## ")[0]
    rows = {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)`.*$", table, re.M)}
    told, page = rows[name], pages.find("recipes", name)
    if name == "derta":
        told += rows["recaug"] + rows["ta_sft"]
    named = {field.alias or key for key, field in page.Settings.model_fields.items()}
    missing = {word for word in {*named, *page.PRESETS} if f"`{word}`" not in told}
    assert not missing, f"put into docs/method.md, at {name}: {sorted(missing)}"
