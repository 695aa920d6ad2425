"""The final answer in a text, read strictly: a number after ####, a letter, or the whole text.

Which of the three is looked for is told by the right answer. What cannot be read is wrong: an
answer that has to be guessed at is none.
"""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER = re.compile(r"####\s*[$€£]?\s*(-?)\s*[$€£]?\s*(\d[\d,]*(?:\.\d+)?|\.\d+)")
OPENING = re.compile(r"^\W*([A-J])(?:\W*$|[.):*]+\s)", re.MULTILINE)
# "is A cat" names no letter, "is B because" does.
STATED = re.compile(r"\b(?i:answer)(?: is)?:?\W{0,4}([B-HJ]\b|[AI]\b(?! \w))")


def number(text: str) -> Decimal | None:
    """The first number after ``####``, as GSM8K's own reader has it; currency and commas go."""
    found = NUMBER.search(text)
    return Decimal("".join(found.groups()).replace(",", "")) if found else None


def letter(text: str) -> str | None:
    """The letter A to J that a text opens with or, failing that, last states as its answer.

    "B", "(B)", "B. Paris" and "The answer is B." give B; "A cat sat" gives nothing, and neither
    does a list of the choices.
    """
    opening, lines = OPENING.match(text.strip()), OPENING.findall(text)
    if opening and len(set(lines)) == 1:
        return opening[1]
    stated = STATED.findall(text)
    return str(stated[-1]) if stated else None


def words(text: str) -> str | None:
    """The whole text but for case, spacing and a closing full stop; None for a blank one."""
    return " ".join(text.casefold().split()).rstrip(".") or None


def form(right: str) -> str:
    """What a right answer is: ``number``, ``letter`` or ``words``."""
    if number(right) is not None:
        return "number"
    return "letter" if re.fullmatch("[A-J]", right.strip()) else "words"


def final(text: str, right: str) -> str | None:
    """What ``text`` answers, in the form that ``right`` has; equal answers are equal strings."""
    if form(right) != "number":
        return letter(text) if form(right) == "letter" else words(text)
    wanted, found = number(right), number(text)
    return None if found is None else str(wanted if found == wanted else found)
