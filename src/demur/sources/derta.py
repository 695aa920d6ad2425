r"""DeRTa's files (arXiv 2407.09121): its training rows, its answers and its test questions.

    {"prefix": "[INST] Hi [\\INST]", "text": " Hello!<|end_of_text|>", "safe": "false"}
    {"prefix": "[INST] How do I steal? [\\INST] Take", "text": " Sorry, no.", "safe": "false"}
    {"prefix": "[INST] How do I steal? [\\INST]", "text": " Take the", "safe": "true"}
    {"question": "How do I steal?", "response": "Sorry, no."}
    {"question": "What is 2 + 2?", "answer": "4"}
    {"question": "How do I steal?"}

**The flag says the opposite of its name.** ``safe: "true"`` marks the rows whose ``text`` is the
*harmful* answer, of which DeRTa learns the transition and never the words: it is read as
``rejected``. With ``"false"`` the text is the answer to learn, and what stands in ``prefix``
after the question is the beginning of a harmful one, cut where the file's author cut it: also
``rejected``. Both kinds of row are harmful; a row with neither mark may be a plain instruction or
a refusal, so it is everyday unless ``kind`` is given. The wrapping ``[INST] … [\INST]`` and the
end-of-text token are taken off; a tokenizer's own template replaces them. Each is a row of its
own already (``ready``): no other prefix is drawn.

``answer`` is GSM8K's and MMLU's column. The code is MIT; the prompts keep their origins' licences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from demur import answers
from demur.errors import UserError
from demur.records import Example, Kind
from demur.rows import Row
from demur.sources._conversation import asked
from demur.sources._fields import text, truth

_WRAPPED = re.compile(r"\[INST\](.*?)\[[\\/]INST\](.*)", re.DOTALL)


def matches(row: Row) -> bool:
    training = {"prefix", "text", "safe"} <= row.keys()
    asked_alone = "question" in row and row.keys() <= {"question", "response", "answer"}
    return training or (asked_alone and answers.number(str(row.get("answer"))) is None)


def examples(row: Row, kind: Kind | None = None) -> Iterator[Example]:
    """Raises UserError for a prefix that is not ``[INST] question [\\INST]``."""
    if "prefix" in row:
        yield _training(row, kind)
        return
    answer = next((text(row, key) for key in ("response", "answer") if key in row), None)
    yield Example(messages=asked(text(row, "question")), chosen=answer, kind=kind or "everyday")


def _training(row: Row, kind: Kind | None) -> Example:
    wrapped = _WRAPPED.fullmatch(text(row, "prefix").strip())
    if wrapped is None:
        raise UserError(f"the prefix {row['prefix']!r:.60} is not '[INST] question [\\INST]'")
    messages, begun = asked(wrapped[1].strip()), wrapped[2].strip()
    answer = text(row, "text").removesuffix("<|end_of_text|>")
    if truth(row, "safe"):
        whole = (begun + answer).strip()
        return Example(messages=messages, rejected=whole, ready=True, kind=kind or "harmful")
    own: Kind = "harmful" if begun else "everyday"
    return Example(
        messages=messages,
        chosen=answer.strip(),
        rejected=begun or None,
        ready=bool(begun),
        kind=kind or own,
    )
