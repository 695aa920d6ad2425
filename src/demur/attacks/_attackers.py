"""Who writes the prompts of `pair`: a served model, a model loaded here, or a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Protocol

from pydantic import Field

from demur import chat, endpoint
from demur.attacks import _pairing
from demur.attacks._pairing import Proposal
from demur.attacks._templates import Template
from demur.config import Model, Settings
from demur.endpoint import Service, Unanswered
from demur.errors import UserError
from demur.records import Message

Talk = Sequence[Message]


class Served(Service):
    """An attacker behind an OpenAI-compatible endpoint."""

    extra: dict[str, Any] = Field(
        {"temperature": 1.0, "top_p": 0.9, "max_tokens": 512},
        description="what else a request says beside a seed; a null takes a key out of it",
    )


class Loaded(Settings):
    """An attacker loaded beside the model under test."""

    model: Model = Field(description="as `model` of the run is written")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_p: float = Field(0.9, gt=0, le=1, description="of sampling")
    max_new_tokens: int = Field(512, gt=0, description="tokens a proposal may have")


class Attacker(Protocol):
    """Whoever proposes the next prompt of some streams, by their numbers and talks so far."""

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        """A proposal a stream, or why there is none. Raises UserError if nobody can be asked."""


@dataclass(frozen=True, slots=True)
class Script:
    """Rewritings in a fixed order, whatever the target says; the streams take them in turn."""

    rewritings: Sequence[Template]
    question: str
    width: int

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        return [self._proposal(turn * self.width + stream) for stream in streams]

    def _proposal(self, place: int) -> Proposal | str:
        if place >= len(self.rewritings):
            return "the script is over"
        chosen = self.rewritings[place]
        return Proposal(improvement=chosen.name, prompt=chosen.fill(self.question))


@dataclass(frozen=True, slots=True)
class ByEndpoint:
    """A served model; each request has a seed, which most servers heed."""

    settings: Served

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        bodies = [self._body(talk, random.getrandbits(31)) for talk in talks]
        replies = list(endpoint.ask(self.settings, "chat/completions", bodies))  # all of them:
        return [self._read(reply) for reply in replies]  # an error would leave its client open

    def _body(self, talk: Talk, seed: int) -> dict[str, Any]:
        body = {"seed": seed, **self.settings.extra}
        body |= {"model": self.settings.model, "messages": list(talk)}
        return {key: value for key, value in body.items() if value is not None}

    def _read(self, reply: endpoint.Reply) -> Proposal | str:
        if isinstance(reply, Unanswered):  # no answer of the attacker's, so no failed attack
            raise UserError(
                f"pair: the attacker at {self.settings.base_url} gave no answer: {reply.reason}; "
                "finished searches are kept, run the same command again"
            )
        try:
            return _pairing.read(str(reply["choices"][0]["message"]["content"]))
        except (KeyError, IndexError, TypeError):
            return "no message in the reply"


@dataclass(frozen=True, slots=True)
class ByModel:
    """A model loaded here, whose proposals are sampled."""

    settings: Loaded

    def __call__(
        self, streams: Sequence[int], talks: Sequence[Talk], turn: int, random: Random
    ) -> list[Proposal | str]:
        import torch

        target = _target(self.settings.model.model_dump_json())
        tokenizer, model = target.tokenizer, target.model
        found: list[Proposal | str] = []
        for talk in talks:
            ids = torch.tensor([chat.prompt_ids(tokenizer, talk)], device=model.device)
            with torch.random.fork_rng():
                torch.manual_seed(random.getrandbits(31))
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=self.settings.temperature,
                    top_p=self.settings.top_p,
                    max_new_tokens=self.settings.max_new_tokens,
                    pad_token_id=chat.pad_id(tokenizer),
                    eos_token_id=sorted(chat.stop_ids(tokenizer)),
                )
            text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            found.append(_pairing.read(text))
        return found


@lru_cache(maxsize=1)
def _target(settings: str) -> Any:
    """Loaded once for all behaviors."""
    from demur import generate

    return generate.target(Model.model_validate_json(settings))
