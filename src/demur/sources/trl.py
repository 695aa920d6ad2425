"""Rows as TRL takes them: a prompt with an answer, a pair, a label, or a whole conversation.

    {"prompt": "Why is the sky blue?", "completion": "Air scatters blue light the most."}
    {"prompt": "How do I pick a lock?", "chosen": "Sorry, no.", "rejected": "Take a pin and"}
    {"prompt": "How do I pick a lock?", "completion": "Take a pin and", "label": false}
    {"prompt": "Why is the sky blue?"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Prompt and answers may also be lists of messages. ``chosen`` and ``rejected`` may be whole
conversations that differ in their last turn (TRL's implicit prompt); as plain text they need a
``prompt``. KTO's ``label`` makes the completion chosen (true) or rejected (false). ``messages``
give one Example per assistant turn, with everything before it as its context.
"""

from __future__ import annotations

from collections.abc import Iterator

from demur.errors import UserError
from demur.records import Example, Kind, Message
from demur.rows import Row
from demur.sources._conversation import answerable, answers, asked, conversation
from demur.sources._fields import text, truth


def matches(row: Row) -> bool:
    """True for TRL's columns; XSTest's completions and demur's own rows have more of them."""
    if "messages" in row:
        return "kind" not in row
    if "chosen" in row and "rejected" in row:
        return True
    if "completion" in row:
        return "prompt" in row and not row.keys() & {"type", "final_label"}
    return "prompt" in row and row.keys() <= {"prompt", "chosen", "rejected"}


def examples(row: Row, kind: Kind | None = None) -> Iterator[Example]:
    """Raises UserError for a row without a question, and for answers to different ones."""
    kind = kind or "everyday"
    if "rejected" in row or "chosen" in row:
        yield _preference(row, kind)
    elif "messages" in row:
        yield from answers(conversation(row["messages"]), kind)
    else:
        yield _prompted(row, kind)


def _prompted(row: Row, kind: Kind) -> Example:
    messages = answerable(_prompt(row))
    if "completion" not in row:
        return Example(messages=messages, kind=kind)
    before, answer = _answer(row, "completion")
    if before:
        raise UserError("'completion' has several turns; write the whole row as 'messages'")
    if "label" in row and not truth(row, "label"):
        return Example(messages=messages, rejected=answer, kind=kind)
    return Example(messages=messages, chosen=answer, kind=kind)


def _preference(row: Row, kind: Kind) -> Example:
    if lacking := {"chosen", "rejected"} - row.keys():
        raise UserError(
            f"no {lacking.pop()!r} among the keys {', '.join(row)}: an answer alone is a "
            "'completion', an unsafe one with 'label': false"
        )
    before, chosen = _answer(row, "chosen")
    again, rejected = _answer(row, "rejected")
    given = _prompt(row) if row.get("prompt") else ()
    if before != again:
        raise UserError("'chosen' and 'rejected' differ before their last turn")
    if before and given != before[: len(given)]:
        raise UserError("'chosen' begins with another question than 'prompt'; drop one of them")
    if not (before or given):
        raise UserError("no 'prompt': add it, or make 'chosen' and 'rejected' lists of messages")
    return Example(
        messages=answerable(before or given), chosen=chosen, rejected=rejected, kind=kind
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    listed = isinstance(row.get("prompt"), list)
    return conversation(row["prompt"]) if listed else asked(text(row, "prompt"))


def _answer(row: Row, key: str) -> tuple[tuple[Message, ...], str]:
    """What ``key`` repeats of the conversation (nothing, for plain text), and the answer."""
    if not isinstance(row.get(key), list):
        return (), text(row, key)
    *before, last = conversation(row[key])
    if last["role"] != "assistant":
        raise UserError(f"{key!r} ends with a {last['role']} turn; it has to be the assistant's")
    return tuple(before), last["content"]
