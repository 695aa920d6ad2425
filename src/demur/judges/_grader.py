"""A judge that is loaded here, asked as an endpoint would be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from demur import beside, records, sampler
from demur.endpoint import Reply, Unanswered
from demur.errors import UserError
from demur.records import Attempt, Message
from demur.settings import Decoding


class Loaded(beside.Loaded):
    """A language model loaded beside the one under test; it answers greedily."""

    SERVED = "`base_url` and `model`"
    batch_size: int = Field(8, gt=0, description="answers graded at a time")


def replies(settings: Loaded, bodies: Iterable[Mapping[str, Any]]) -> Iterator[Reply]:
    """The reply to the messages of each body, in order, as an endpoint has it.

    The messages become one turn, as not every template has one for the system. What fills the
    model's context is unanswered. Raises UserError if the model cannot be loaded.
    """
    for some in records.batched(bodies, settings.batch_size):
        yield from _batch(settings, [_attempt(body["messages"]) for body in some])


def _attempt(messages: Iterable[Message]) -> Attempt:
    whole = "\n\n".join(message["content"] for message in messages)
    return Attempt(behavior="", attack="llm", messages=(Message(role="user", content=whole),))


def _batch(settings: Loaded, attempts: Sequence[Attempt]) -> list[Reply]:
    target = settings.target()
    failed = {each.id: why for each in attempts if (why := _unaskable(target, each))}
    left = list({each.id: each for each in attempts if each.id not in failed}.values())
    decoding = Decoding(max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)
    found = {
        answer.attempt.id: _reply(answer)
        for answers in target.answers(left, frozenset(), decoding)
        for answer in answers
    }
    return [failed.get(each.id) or found[each.id] for each in attempts]


def _unaskable(target: sampler.Sampler, attempt: Attempt) -> Unanswered | None:
    try:
        target.check([attempt])
    except UserError as error:
        return Unanswered(str(error))
    return None


def _reply(answer: sampler.Answer) -> dict[str, Any]:
    return {"choices": [{"message": {"content": answer.text}, "finish_reason": answer.finish}]}
