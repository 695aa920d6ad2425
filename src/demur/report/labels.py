"""Titles, names and numbers as a drawing has room for them."""

from __future__ import annotations

from collections.abc import Sequence


def heading(text: str, length: int = 62) -> str:
    """A title as a drawing has room for it: what is cut out stands before its last part.

    That is the attack, in which the titles of one drawing differ.
    """
    return short(text, length, max(length // 2, len(text) - text.rfind("(")))


def names(models: Sequence[str]) -> list[str]:
    """Names as a drawing has room for them, no two alike."""
    cut = [short(name) for name in models]
    return [
        f"{short(name, 11)} {place}" if cut.count(told) > 1 else told
        for place, (name, told) in enumerate(zip(models, cut, strict=True), 1)
    ]


def short(text: str, length: int = 14, end: int = 7) -> str:
    """A text of at most ``length`` characters, cut in its middle; the last ``end`` of it stay."""
    if len(text) <= length:
        return text
    end = min(end, length - 4)
    return f"{text[: length - end - 1]}…{text[-end:]}"


def tick(value: float) -> str:
    """A number beside an axis, whole: an exponent of all would stand in the drawing's title."""
    if value and abs(value) < 1e-3:
        digits, _, power = f"{value:.2g}".partition("e")
        return f"{digits}e{int(power)}" if power else digits
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
