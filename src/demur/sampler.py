"""Whoever answers attempts, weights here or a model that is served: asked, kept, asked no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from demur import records
from demur.progress import Bar
from demur.records import REACH, Attempt, Behavior, Completion, Finish
from demur.settings import Decoding, Model


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's own continuation of an attempt; ``tokens`` without the turn end, if counted.

    ``reach`` is that of a Completion.
    """

    attempt: Attempt
    text: str
    tokens: int | None
    finish: Finish
    reach: tuple[int, ...] = ()


def reach(ids: Sequence[int], decode: Callable[[list[int]], str]) -> tuple[int, ...]:
    """How many characters an answer's first 5 and its first 30 tokens make, all where it ends
    sooner; a character cut in two belongs to the token that completes it."""
    return tuple(len(decode(list(ids[:n])).rstrip("\ufffd")) for n in REACH)


class Sampler(Protocol):
    """A model that can be asked. ``name`` is the fingerprint that its completions carry."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer. Raises UserError where it is not known."""

    def check(self, attempts: Sequence[Attempt]) -> None:
        """Raises UserError for an attempt that this model cannot be asked."""

    def answers(
        self, attempts: Sequence[Attempt], have: Set[str], decoding: Decoding
    ) -> Iterator[Sequence[Answer]]:
        """The likeliest answers to the attempts whose ids are not in ``have``, a few at a time.

        Raises UserError, after the last that came, if some did not.
        """


def sampler(settings: Model) -> Sampler:
    """The model to ask. Raises UserError if it cannot be loaded; a server is not asked yet."""
    if settings.endpoint:
        from demur import served

        return served.Target(settings, settings.endpoint)
    from demur import generate

    return generate.target(settings)


def complete(
    target: Sampler,
    behaviors: Sequence[Behavior],
    attempts: Sequence[Attempt],
    decoding: Decoding,
    path: Path,
) -> list[Completion]:
    """Answer every attempt, appending to ``path`` what comes; what is there is kept."""
    asked = {behavior.id: behavior for behavior in behaviors}
    have = {completion.attempt for completion in records.resume(path, Completion)}
    with Bar(_title(path), len(attempts), len(have)) as bar:
        for some in target.answers(attempts, have, decoding):
            records.append(path, [_completion(target, asked, answer) for answer in some])
            bar.advance(len(some))
    return records.read(path, Completion) if attempts else []


def _title(path: Path) -> str:
    """Whose answers they are: by the stage, and by the file where it has several."""
    part = path.name.removesuffix("completions.jsonl").rstrip(".")
    return f"answering ({', '.join(filter(None, (path.parent.name, part)))})"


def _completion(target: Sampler, asked: Mapping[str, Behavior], answer: Answer) -> Completion:
    attempt, behavior = answer.attempt, asked[answer.attempt.behavior]
    return Completion(
        attempt=attempt.id,
        behavior=behavior.id,
        kind=behavior.kind,
        attack=attempt.attack,
        variant=attempt.variant,
        prompt=behavior.prompt,
        prefill=attempt.prefill,
        text=answer.text,
        tokens=answer.tokens,
        reach=answer.reach,
        finish=answer.finish,
        model=target.name,
        expected=behavior.answer if behavior.kind == "task" else None,
    )
