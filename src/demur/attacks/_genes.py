"""Prompts that breed: sentences cross over between two texts, words mutate into synonyms."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp
from random import Random

from demur.attacks._files import shipped, texts
from demur.attacks._templates import Template

Sentences = tuple[str, ...]
SLOT = "\0"  # where the question goes: no text has it
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+[\"')\]]*\s*|\n\s*|$)")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Text:
    """Sentences before the question, those it stands in, and those after; spaces are theirs."""

    before: tuple[str, ...]
    question: str
    after: tuple[str, ...]

    def fill(self, question: str) -> str:
        return "".join((*self.before, self.question, *self.after)).replace(SLOT, question)


def text(template: Template) -> Text:
    """A template cut into sentences; from the first slot to the last is one."""
    cut = [found for found in _SENTENCE.findall(SLOT.join(template.parts)) if found]
    asking = [place for place, sentence in enumerate(cut) if SLOT in sentence]
    first, last = asking[0], asking[-1] + 1
    return Text(tuple(cut[:first]), "".join(cut[first:last]), tuple(cut[last:]))


def children(a: Text, b: Text, points: int, random: Random) -> tuple[Text, Text]:
    """Two texts that swap sentences between up to ``points`` places; each asks once."""
    before, other_before = _swapped(a.before, b.before, points, random)
    after, other_after = _swapped(a.after, b.after, points, random)
    return Text(before, a.question, after), Text(other_before, b.question, other_after)


def _swapped(
    a: Sentences, b: Sentences, points: int, random: Random
) -> tuple[Sentences, Sentences]:
    longest = max(len(a), len(b))
    cuts = sorted(random.sample(range(longest + 1), min(points, longest + 1)))
    one: list[str] = []
    other: list[str] = []
    for left, right in zip([0, *cuts], [*cuts, longest], strict=True):
        one += a[left:right]
        other += b[left:right]
        a, b = b, a
    return tuple(one), tuple(other)


def mutated(text: Text, rate: float, random: Random) -> Text:
    """Each word that has synonyms becomes one of them with probability ``rate``."""

    def another(word: str) -> str:
        others = synonyms().get(word, ())
        return random.choice(others) if others and random.random() < rate else word

    return replaced(text, another)


def replaced(text: Text, other: Callable[[str], str]) -> Text:
    """The text with ``other(word)`` for every word in small letters; a capital stays one."""

    def cased(found: re.Match[str]) -> str:
        word, chosen = found[0].lower(), other(found[0].lower())
        if chosen == word:
            return found[0]
        return chosen.capitalize() if found[0][0].isupper() else chosen

    def anew(sentence: str) -> str:
        return _WORD.sub(cased, sentence)

    return Text(tuple(map(anew, text.before)), anew(text.question), tuple(map(anew, text.after)))


def words(text: Text) -> dict[str, None]:
    """Those of the text that have synonyms, in small letters, each once, in their order."""
    found = (word.lower() for word in _WORD.findall(text.fill(" ")))
    return dict.fromkeys(word for word in found if word in synonyms())


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """The other words of its group, for every word that is shipped in one."""
    groups = [row.split(", ") for (row,) in texts(shipped("synonyms.jsonl"), "words")]
    return {word: tuple(w for w in group if w != word) for group in groups for word in group}


def parents(
    texts: Sequence[Text], losses: Sequence[float], count: int, random: Random
) -> list[Text]:
    """``count`` texts, drawn with probabilities softmax(-loss)."""
    lowest = min(losses)
    return random.choices(texts, [exp(lowest - loss) for loss in losses], k=count)
