"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, a vendor's.

A plain question goes to chat/completions, where the server's own template makes the prompt. What
a chat cannot say, a begun answer and text without a template, goes to completions; demur renders
it with the model's tokenizer. So does every question once ``model.chat_template`` is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from demur import chat, endpoint, identity, sampler, tokenizers
from demur.endpoint import Said, Server, Unanswered
from demur.errors import UserError
from demur.records import Attempt
from demur.sampler import Answer
from demur.settings import Decoding, Model


@dataclass(frozen=True)
class Target:
    """A served model to ask; nobody is asked before there are answers to be had."""

    settings: Model
    server: Server

    @cached_property
    def name(self) -> str:
        return identity.fingerprint_of(self.settings)

    @property
    def model(self) -> Any:
        """Raises UserError: what looks into a model cannot be had from a server."""
        raise UserError(
            f"model {self.settings.name!r} is served at {self.server.base_url}: an attack of this "
            "run needs its weights, and an endpoint has none to show"
        )

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of ``model.tokenizer``. Raises UserError where none is named."""
        return tokenizers.load(self.settings)

    def check(self, attempts: Sequence[Attempt]) -> None:
        """Raises UserError for a rendered prompt that cannot be rendered, or sent as text."""
        for attempt in attempts:
            if self._rendered(attempt):
                self._prompt(attempt)

    def answers(
        self, attempts: Sequence[Attempt], have: Set[str], decoding: Decoding
    ) -> Iterator[Sequence[Answer]]:
        """An answer at a time; one that a content filter keeps back is empty, and says so.

        Raises UserError, after the last that came, if some did not.
        """
        left = [attempt for attempt in attempts if attempt.id not in have]
        lost: list[str] = []
        for rendered, path in ((False, "chat/completions"), (True, "completions")):
            some = [attempt for attempt in left if self._rendered(attempt) is rendered]
            bodies = (self._body(attempt, decoding) for attempt in some)
            replies = endpoint.ask(self.server, path, bodies) if some else ()
            for attempt, reply in zip(some, replies, strict=True):
                found = endpoint.said(reply)
                if isinstance(found, Unanswered) and found.filtered:
                    yield [Answer(attempt, "", 0, "content_filter")]
                elif isinstance(found, Unanswered):
                    lost.append(f"{path}: {found.reason}")
                else:
                    yield [self._answer(attempt, found)]
        if lost:
            raise UserError(
                f"{self.server.base_url}: {len(lost)} of {len(left)} attempts got no answer, the "
                f"first for {lost[0]}; the others are kept, and the same command asks again"
            )

    def _rendered(self, attempt: Attempt) -> bool:
        """Whether demur makes the prompt's text, and not the server."""
        return attempt.raw or bool(attempt.prefill) or self.settings.chat_template is not None

    def _body(self, attempt: Attempt, decoding: Decoding) -> dict[str, Any]:
        if self._rendered(attempt):
            asked: dict[str, Any] = {"prompt": self._prompt(attempt)}
        else:
            asked = {"messages": list(attempt.messages)}
        asked |= {"model": self.settings.name, "max_tokens": decoding.max_new_tokens}
        return {k: v for k, v in (asked | self.server.extra).items() if v is not None}

    def _prompt(self, attempt: Attempt) -> str | list[int]:
        """What the server's tokenizer, or nobody, turns into the very ids the model should see."""
        text = attempt.messages[-1]["content"]
        if not attempt.raw:
            text = chat.prompt_text(self.tokenizer, attempt.messages, attempt.prefill)
        ids = chat.raw_ids(self.tokenizer, text)
        if self.server.prompts == "ids":
            return ids
        for form in (text, text.removeprefix(self.tokenizer.bos_token or "")):
            if list(self.tokenizer(form)["input_ids"]) == ids:  # a server adds what it is used to
                return form
        raise UserError(
            f"attack {attempt.attack!r}: as text, {text[:40]!r} would get special tokens of the "
            "server's around it; set model.endpoint.prompts=ids if it takes ids"
        )

    def _answer(self, attempt: Attempt, said: Said) -> Answer:
        counted, ids = said.tokens, list[int]()
        if self.settings.tokenizer:
            ids = chat.raw_ids(self.tokenizer, said.text)
        if counted is None:
            counted = len(ids) if ids or not said.text else None
        elif said.finish == "stop":  # servers count the turn end
            counted = max(0, counted - 1)
        return Answer(attempt, said.text, counted, said.finish, self._reach(ids))

    def _reach(self, ids: list[int]) -> tuple[int, ...]:
        if not self.settings.tokenizer:
            return ()
        return sampler.reach(ids, partial(self.tokenizer.decode, skip_special_tokens=True))
