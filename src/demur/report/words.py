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
    """ "Of 48 harmful requests, 44 were answered before and 12 by DeRTa.", in parts.

    Or a plain one, without any.
    """

    start: str
    parts: tuple[Part, ...] = ()


def verdict(
    table: Table, names: Sequence[str], primary: str
) -> tuple[list[Sentence], list[Sentence]]:
    """What changed and what it cost, each a few sentences about figures that exist."""
    harm = "harmful" if any(key.endswith("/harmful/harmful") for key in table) else "complied"
    guess = " (by an offline estimate)" if primary in ESTIMATES else ""
    did = {"harmful": f"answered harmfully{guess}", "complied": "answered"}[harm]
    asked = _sentence(
        table, names, f"direct/harmful/{harm}", "harmful request", " asked directly", did
    )
    cost = (
        ("direct/lookalike/refused", "harmless look-alike", "", "declined"),
        ("direct/everyday/refused", "everyday request", "", "declined"),
        ("direct/everyday/broken", "everyday answer", "", "broken", "with"),
        *((key, "task", _of(key), "solved") for key in table if _plain_task(key)),
    )
    changed = (asked, _attacked(table, names, f"/harmful/{harm}", did))
    return [s for s in changed if s], [s for c in cost if (s := _sentence(table, names, *c))]


def _plain_task(key: str) -> bool:
    return key.startswith(("direct/", "direct on ")) and key.endswith("/task/correct")


def _of(key: str) -> str:
    """Whose tasks: ``direct on gsm8k.jsonl/task/correct`` counts tasks " of gsm8k.jsonl"."""
    source = key.removesuffix("/task/correct").partition(" on ")[2]
    return f" of {source}" if source else ""


def _attacked(table: Table, names: Sequence[str], ending: str, did: str) -> Sentence | None:
    """What the strongest attack came to, unless asking directly came to as much with every model.

    An attack that never worked says something only where nothing was asked directly.
    """
    if not (worst := _worst(table, ending)):
        return None
    row, plain = table[worst + ending], table.get(f"direct{ending}")
    if plain and not any(_rate(a) > _rate(d) for a, d in zip(row, plain, strict=True)):
        return Sentence("No attack came to more than asking directly")
    under = f" under the strongest attack ({spoken(worst)})"
    return _sentence(table, names, worst + ending, "harmful request", under, did)


def _worst(table: Table, ending: str) -> str:
    """The attack that the first trained model resists least; empty without any.

    What a search began with is none, and one put to a handful of the requests says too little to
    stand in a headline.
    """
    keys = [k for k in table if k.endswith(ending) and _is_attack(k.removesuffix(ending))]
    most = max((_asked(table[k]) for k in keys), default=0)
    wide = [k for k in keys if 2 * _asked(table[k]) >= most]
    return max(wide, key=lambda k: _highest(table[k]), default="").removesuffix(ending)


def _is_attack(scenario: str) -> bool:
    attack, _, variant = scenario.partition(":")
    return attack != "direct" and variant != "seed"


def _asked(row: Sequence[Figure | None]) -> int:
    return max((f.value.n for f in row if f and isinstance(f.value, Rate)), default=0)


def _highest(row: Sequence[Figure | None]) -> tuple[float, float]:
    """How far an attack came with the first trained model, and with any."""
    rates = [_rate(figure) for figure in row]
    return max(rates[1:2] or rates), max(rates)


def _rate(figure: Figure | None) -> float:
    """The rate, or -1 of nothing."""
    value = figure.value if figure else None
    return value.rate if isinstance(value, Rate) and value.n else -1.0


def _sentence(
    table: Table, names: Sequence[str], key: str, noun: str, rest: str, did: str, by: str = "by"
) -> Sentence | None:
    found = [(place, f.value) for place, f in enumerate(table.get(key, ())) if f]
    rates = [(place, rate) for place, rate in found if isinstance(rate, Rate) and rate.n]
    if not rates:
        return None
    first = rates[0][1]
    shared = len({rate.n for _, rate in rates}) == 1
    start = f"Of {many(first.n, noun)}{rest}," if shared else f"Of the {noun}s{rest},"
    parts = [_part(place, key, rate, shared, _by(names[place], by)) for place, rate in rates]
    be = "was" if first.k == 1 or first.n == 1 else "were"
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
        return " "
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


def many(n: int, noun: str) -> str:
    """ "1 answer", "2 answers"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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
