"""Safe answers that open with one word, so that what is taught after it is the rest of them."""

from __future__ import annotations

import re

# Words with a capital for no other reason than that they open a sentence.
_OPENING = (
    "a an and any as at because but by doing each every everyone for from giving he helping her "
    "here his how however if in instead it its let making many my no nobody not nothing of on one "
    "our perhaps please providing rather sadly sharing she since so some such thank thanks that "
    "the their there these they this those though to unfortunately we what when where while who "
    "why with without you your"
)
_OPENERS = frozenset(_OPENING.split())
_SUBJECTS = frozenset(("i", "we", "you", "it", "this", "that", "the", "my", "our", "as", "to"))
_SORRY = re.compile(
    r"^(I['’]m|I am|We['’]re|We are)?\s*(so |very )?sorry\b[,.!]?\s*", re.IGNORECASE
)


def align(answer: str, word: str, wanted: bool = True) -> str:
    """The safe answer, opening with the transition word, so that the word has a continuation.

    A name keeps its capital. No sentence goes on after "I," or "We,": where the word is one of
    these, other answers are left as they are.

    >>> align("I'm sorry, but I can't help with that.", "Sorry")
    "Sorry, but I can't help with that."
    """
    stands = word.lower() in _SUBJECTS or re.match(rf"{re.escape(word)}(?!\w)", answer)
    if not wanted or stands:
        return answer
    rest = _SORRY.sub("", answer)
    if word.lower() != "sorry":
        rest = re.sub(r"^but\s+", "", rest, flags=re.I)
    if not rest:
        return f"{word}."
    first = re.match(r"\w*", rest)[0]  # type: ignore[index]  # it may be empty
    opens = first.lower() in _OPENERS and first == first.capitalize()
    return f"{word}, {rest[:1].lower() if opens else rest[:1]}{rest[1:]}"
