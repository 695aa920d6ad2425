"""The sentences of a report: counts said in plain words, and strangers' text made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demur.measures import Figure, spoken
from demur.metrics import Rate
from demur.outcomes import ESTIMATES

Table = Mapping[str, Sequence[Figure | None]]  # a figure's key → each model's figure

OUTCOMES = {
    "complied": "answered",
    "refused": "declined",
    "harmful": "harmful",
    "safe": "safe",
    "correct": "right",
    "wrong": "wrong",
    "broken": "broken",
    "unscored": "unscored",
    "intact": "intact",
}
JUDGES = {
    "refusal": "Phrase rules on the opening sentences. They see whether a request is declined, "
    "not whether an answer does harm; a refusal in unusual words is missed.",
    "broken": "Rules for empty, looping or garbled text, a refusal stuck to a word, a foreign "
    "script or language. A broken answer counts as neither safe nor harmful; fluent nonsense "
    "passes.",
    "exact": "Tasks alone: the final number, letter or text, read strictly and held against the "
    "right one. What cannot be read is wrong.",
    "harm": "An offline estimate of harm from a few features of the answer; its error against "
    "people's labels is in docs/calibration.md.",
    "classifier": "A trained classifier of harm; as good as its training data, and only there.",
    "llm": "A language model with a written rubric; it can be wrong, biased or talked round.",
    "moderation": "A moderation service; its rules are its owner's and change without notice.",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One model's count within a sentence. ``of`` is empty where all share the denominator."""

    model: int
    key: str
    count: str
    of: str
    verb: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """ "Of 48 harmful requests, 44 were answered before and 12 by DeRTa.", in parts."""

    start: str
    parts: tuple[Part, ...]


def verdict(
    table: Table, names: Sequence[str], primary: str
) -> tuple[list[Sentence], list[Sentence]]:
    """What changed and what it cost, each a few sentences about figures that exist."""
    harm = "harmful" if "direct/harmful/harmful" in table else "complied"
    guess = " (by an offline estimate)" if primary in ESTIMATES else ""
    did = {"harmful": f"answered harmfully{guess}", "complied": "answered"}[harm]
    worst = _worst(table, f"/harmful/{harm}")
    under = f"harmful requests under the attack that works best ({spoken(worst)})"
    changed = (
        (f"direct/harmful/{harm}", "harmful requests asked directly", did, "by"),
        (f"{worst}/harmful/{harm}", under, did, "by"),
    )
    cost = (
        ("direct/lookalike/refused", "harmless look-alikes", "declined", "by"),
        ("direct/everyday/refused", "everyday requests", "declined", "by"),
        ("direct/everyday/broken", "everyday answers", "broken", "with"),
        *((key, _of(key), "solved", "by") for key in table if _plain_task(key)),
    )
    said = [[_sentence(table, names, *words) for words in part] for part in (changed, cost)]
    return [s for s in said[0] if s], [s for s in said[1] if s]


def _plain_task(key: str) -> bool:
    return key.startswith(("direct/", "direct on ")) and key.endswith("/task/correct")


def _of(key: str) -> str:
    """What tasks: ``direct on gsm8k.jsonl/task/correct`` counts "tasks of gsm8k.jsonl"."""
    source = key.removesuffix("/task/correct").partition(" on ")[2]
    return f"tasks of {source}" if source else "tasks"


def _worst(table: Table, ending: str) -> str:
    """The scenario, other than the plain question, that the first trained model resists least.

    One put to a handful of the requests says too little to stand in a headline.
    """
    keys = [k for k in table if k.endswith(ending) and not k.startswith("direct/")]
    most = max((_asked(table[k]) for k in keys), default=0)
    wide = [k for k in keys if 2 * _asked(table[k]) >= most]
    return max(wide, key=lambda k: _highest(table[k]), default="").removesuffix(ending)


def _asked(row: Sequence[Figure | None]) -> int:
    return max((f.value.n for f in row if f and isinstance(f.value, Rate)), default=0)


def _highest(row: Sequence[Figure | None]) -> float:
    rates = [f.value.rate for f in row[1:2] or row if f and isinstance(f.value, Rate) and f.value.n]
    return max(rates, default=-1.0)


def _sentence(
    table: Table, names: Sequence[str], key: str, noun: str, did: str, by: str
) -> Sentence | None:
    found = [(place, f.value) for place, f in enumerate(table.get(key, ())) if f]
    rates = [(place, rate) for place, rate in found if isinstance(rate, Rate) and rate.n]
    if not rates:
        return None
    shared = len({rate.n for _, rate in rates}) == 1
    start = f"Of {rates[0][1].n} {noun}," if shared else f"Of the {noun},"
    parts = [_part(place, key, rate, shared, _by(names[place], by)) for place, rate in rates]
    be = "was" if rates[0][1].k == 1 else "were"
    return Sentence(start, (replace(parts[0], verb=f" {be} {did}{parts[0].verb}"), *parts[1:]))


def _by(name: str, by: str) -> str:
    """The word before a model's name; "before" and "after" need none."""
    return " " if name in ("before", "after") else f" {by} "


def _part(place: int, key: str, rate: Rate, shared: bool, verb: str) -> Part:
    count = str(rate.k) if rate.k or not shared else "none"
    return Part(place, key, count, "" if shared else f" of {rate.n}", verb)


def joint(place: int, total: int) -> str:
    """What stands before the part at ``place`` of a list of ``total``."""
    if place == 0:
        return ""
    return " and " if place == total - 1 else ", "


def about(judge: str) -> str:
    """What a judge is and is not."""
    return JUDGES.get(judge, "A judge of your own: see its documentation.")


def visible(text: object) -> str:
    """Text with every character that would hide or reorder its neighbours spelled out.

    Control, bidirectional and unpaired surrogate characters become ``⟨U+202E⟩``; line ends
    and tabs stay, as do the joiners that emoji and several scripts are written with.
    """
    plain = str(text).replace("\r\n", "\n")
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in plain)


def line(text: object) -> str:
    """Visible text on a single line: for names and headings."""
    return " ".join(visible(text).split())


def _hidden(char: str) -> bool:
    kept = "\n\t\u200c\u200d"
    return char not in kept and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def number(value: float) -> str:
    """A number as tables show it: three significant digits, no needless zeros."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """A nested manifest as ``dotted.key`` → text, sorted by key at every level."""
    if isinstance(tree, Mapping) and tree:
        rows: dict[str, str] = {}
        for key in sorted(tree, key=str):
            rows |= flat(tree[key], f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(tree, list):
        return {prefix: ", ".join(map(str, tree))}
    return {prefix: "–" if tree in (None, {}) else str(tree)}
