"""Templates with a slot for the question, out of the files people share them in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from demur.attacks._files import text
from demur.errors import UserError
from demur.rows import Row, rows

_SLOT = re.compile(
    r"\{question\}|\{\{\s*(?:prompt|question)\s*\}\}|\[INSERT PROMPT HERE\\?\]|\[PROMPT\]",
    re.IGNORECASE,
)
_MARK = "\0"
_JINJA = SandboxedEnvironment(undefined=StrictUndefined)  # templates are other people's


@dataclass(frozen=True, slots=True)
class Template:
    """A text in parts: the question stands between every two of them."""

    name: str
    parts: tuple[str, ...]

    def fill(self, question: str) -> str:
        return question.join(self.parts)


def load(where: Path, append: bool = False) -> list[Template]:
    """The templates of a file, or of all files in a folder and in the folders inside it.

    A JSONL row has ``name`` and ``text``; a JSON file lists such rows or plain texts (garak); a
    YAML file is one template, its ``value`` in Jinja (PyRIT). What has a file of its own is called
    after it, ``pliny/openai/its-name`` where that lies deeper. The slot is ``{question}``,
    ``{{ prompt }}``, ``[INSERT PROMPT HERE]`` or ``[PROMPT]``; ``append`` puts the question after
    a text without one. Of a folder, templates that ask for more than the question are left out.

    Raises UserError, with the file and the row, for a file that is missing, empty or not readable,
    a template without a slot or with another one, and for a name that occurs twice.
    """
    if not where.exists():
        raise UserError(f"no such file or folder of templates: {where}")
    if where.is_dir():
        found = [each for file in _inside(where) for each in _of_file(file, append, where)]
    else:
        found = list(_of_file(where, append))
    if not found:
        raise UserError(f"{where}: no templates in it; known endings: {', '.join(_READERS)}")
    names = Counter(template.name for template in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"{where}: two templates are called {twice[0]!r}; rename one")
    return found


def _inside(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix in _READERS and not hidden:
            yield file


def _of_file(file: Path, append: bool, folder: Path | None = None) -> Iterator[Template]:
    if file.suffix not in _READERS:
        raise UserError(f"{file}: unknown ending {file.suffix!r}; known: {', '.join(_READERS)}")
    called = file.relative_to(folder or file.parent).with_suffix("").as_posix()
    for number, (origin, row) in enumerate(_READERS[file.suffix](file), 1):
        if folder and _asks_for_more(row):
            continue
        several = str(row.get("name") or f"{called}-{number}")
        yield Template(called if origin == str(file) else several, _parts(origin, row, append))


def _asks_for_more(row: Row) -> bool:
    """Whether a PyRIT template names parameters beside the prompt: a question alone fills none."""
    named = row.get("parameters")
    return isinstance(named, list) and len(named) > 1


def _parts(origin: str, row: Row, append: bool) -> tuple[str, ...]:
    parts = _jinja(origin, row) if "value" in row else _SLOT.split(text(origin, row, "text"))
    if len(parts) == 1 and not append:
        raise UserError(
            f"{origin}: no slot for the question; write {{question}} into the template, "
            "or set append to put the question after such texts"
        )
    return tuple(parts) if len(parts) > 1 else (f"{parts[0].rstrip()}\n\n", "")


def _jinja(origin: str, row: Row) -> list[str]:
    try:
        filled = _JINJA.from_string(text(origin, row, "value")).render(prompt=_MARK, question=_MARK)
    except TemplateError as error:
        raise UserError(
            f"{origin}: {error}; the one slot that can be filled is {{{{ prompt }}}}"
        ) from None
    return filled.split(_MARK)


def _json(file: Path) -> list[tuple[str, Row]]:
    return _parsed(file, json.loads)


def _yaml(file: Path) -> list[tuple[str, Row]]:
    return _parsed(file, yaml.safe_load)


def _parsed(file: Path, parse: Callable[[str], Any]) -> list[tuple[str, Row]]:
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, list):
        return [(str(file), _row(found))]
    return [(f"{file} (record {n})", _row(each)) for n, each in enumerate(found, 1)]


def _row(found: Any) -> Row:
    return found if isinstance(found, dict) else {"text": found}


_READERS: dict[str, Callable[[Path], Iterable[tuple[str, Row]]]] = {
    ".jsonl": rows,
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
}
