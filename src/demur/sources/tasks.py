"""Questions with one right answer, in the rows of GSM8K and of MMLU.

    {"question": "Ann has 3 pens and buys 4. How many has she?", "answer": "3 + 4 = 7\\n#### 7"}
    {"question": "Which is a tree?", "subject": "biology", "choices": ["oak", "cod"], "answer": 0}

The first ends its worked answer with the number after ``####``; the second counts its choices
from 0, or names the right one by its letter. The form in which to answer is written below each
question. Whoever measures lists them under ``data.heldout.task``. Where lists became text, as in a
CSV that `datasets` wrote, the choices cannot be told apart: take the JSONL or parquet file.

GSM8K and MMLU are MIT; not shipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from demur import answers
from demur.errors import UserError
from demur.records import Example, Kind
from demur.rows import Row
from demur.sources._conversation import asked
from demur.sources._fields import optional, text

LETTERS = "ABCDEFGHIJ"
WORKED = "Work it out step by step. Write the final number alone on the last line, after ####."
CHOSEN = "Answer with the letter of the right choice alone."


def matches(row: Row) -> bool:
    choice = {"question", "choices", "answer"} <= row.keys()
    return choice or ("question" in row and answers.number(str(row.get("answer"))) is not None)


def examples(row: Row, kind: Kind | None = None) -> Iterator[Example]:
    """Raises UserError for a right answer that is missing, or not among the choices."""
    question, right = _choice(row) if "choices" in row else _worked(row)
    yield Example(
        messages=asked(question),
        chosen=right,
        kind=kind or "task",
        category=optional(row, "subject"),
    )


def _worked(row: Row) -> tuple[str, str]:
    right = text(row, "answer")
    if answers.number(right) is None:
        raise UserError(f"'answer' is {right[-40:]!r}: it has no number after ####")
    return f"{text(row, 'question')}\n\n{WORKED}", right


def _choice(row: Row) -> tuple[str, str]:
    choices = _choices(row["choices"])
    right = _letter(row["answer"], len(choices))
    listed = "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))
    return f"{text(row, 'question')}\n\n{listed}\n\n{CHOSEN}", right


def _choices(value: Any) -> list[str]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS):
        raise UserError(
            f"'choices' is {value!r:.40}, not a list of 2 to {len(LETTERS)}; in a CSV lists become "
            "text, take the JSONL or parquet file"
        )
    return [str(choice) for choice in found]


def _letter(value: Any, choices: int) -> str:
    known = {str(i): LETTERS[i] for i in range(choices)} | {c: c for c in LETTERS[:choices]}
    if str(value).strip() not in known:
        raise UserError(
            f"'answer' is {value!r:.40}, none of the {choices} choices (0 is the first)"
        )
    return known[str(value).strip()]
