"""demur's own rows, an Example each; the demonstration set comes in them.

    {"messages": [{"role": "user", "content": "How do I pull a good shot?"}], "kind": "lookalike"}

The other fields of an Example (``chosen``, ``rejected``, ``category`` and the rest) may follow.
A row that says its kind keeps it: a given ``kind`` picks such rows instead of renaming them, and
is the kind of those that say nothing.

The demonstration set, under the project's own licence, is written for this project and shipped
with it: ``demo:<kind>.<split>`` for the kinds harmful, lookalike and everyday and the splits
train and heldout, about 50 to 180 prompts each; ``demo:declining.train`` are 16 everyday wishes
that no assistant can meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from demur.errors import UserError
from demur.pages import unknown
from demur.records import Example, Kind
from demur.rows import Row

_EXAMPLE = TypeAdapter(Example)


def matches(row: Row) -> bool:
    return "messages" in row and "kind" in row


def examples(row: Row, kind: Kind | None = None) -> Iterator[Example]:
    """Raises UserError for a field that an Example does not have, or a wrong value in one."""
    try:
        example = _EXAMPLE.validate_python({"kind": kind or "everyday"} | row)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{where}: {problem['msg']} ({problem['input']!r:.40})") from None
    if kind in (None, example.kind):
        yield example


def shipped(name: str) -> Path:
    """Where a part of the demonstration set lies. Raises UserError with the known names."""
    folder = Path(str(files("demur.sources"))) / "data"
    known = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if name not in known:
        raise UserError(unknown("demo set", name, list(known)))
    return known[name]
