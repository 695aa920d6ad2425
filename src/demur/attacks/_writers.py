"""Who writes for an attack: a served model, or one loaded beside the model under test."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError

from demur import beside, chat, endpoint
from demur.endpoint import Service, Unanswered
from demur.errors import UserError
from demur.records import Message

Talk = Sequence[Message]
Form = TypeVar("Form", bound=BaseModel)


class Served(Service):
    """A writer behind an OpenAI-compatible endpoint."""

    extra: dict[str, Any] = Field(
        {"temperature": 1.0, "top_p": 0.9, "max_tokens": 512},
        description="what else a request says beside a seed; a null takes a key out of it",
    )


class Loaded(beside.Loaded):
    """A writer loaded beside the model under test."""

    SERVED = "`endpoint`: {base_url: …, model: …}"
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_p: float = Field(0.9, gt=0, le=1, description="of sampling")


class Writer(Protocol):
    """Whoever says what comes next in some talks."""

    def __call__(self, talks: Sequence[Talk], random: Random) -> list[str]:
        """A reply to each, empty where there is none. Raises UserError if nobody can be asked."""


def writer(served: Served | None, local: Loaded | None) -> Writer | None:
    """The one that is named, if any is."""
    if served:
        return ByEndpoint(served)
    return ByModel(local) if local else None


@dataclass(frozen=True, slots=True)
class ByEndpoint:
    """A served model; each request has a seed, which most servers heed."""

    settings: Served

    def __call__(self, talks: Sequence[Talk], random: Random) -> list[str]:
        bodies = [self._body(talk, random.getrandbits(31)) for talk in talks]
        replies = list(endpoint.ask(self.settings, "chat/completions", bodies))  # all of them:
        return [self._text(reply) for reply in replies]  # an error would leave its client open

    def _body(self, talk: Talk, seed: int) -> dict[str, Any]:
        body = {"seed": seed, **self.settings.extra}
        body |= {"model": self.settings.model, "messages": list(talk)}
        return {key: value for key, value in body.items() if value is not None}

    def _text(self, reply: endpoint.Reply) -> str:
        said = endpoint.said(reply)
        if not isinstance(said, Unanswered):
            return said.text
        if said.filtered:  # of this very request; it is no outage
            return ""
        raise UserError(  # no words of the writer's, so no failed attack
            f"the model at {self.settings.base_url}, which writes for the attack, gave no "
            f"answer: {said.reason}; what was found is kept, run the same command again"
        )


@dataclass(frozen=True, slots=True)
class ByModel:
    """A model loaded here, whose replies are sampled."""

    settings: Loaded

    def __call__(self, talks: Sequence[Talk], random: Random) -> list[str]:
        return [self._reply(talk, random.getrandbits(31)) for talk in talks]

    def _reply(self, talk: Talk, seed: int) -> str:
        import torch

        from demur import generate

        target = self.settings.target()
        tokenizer, model = target.tokenizer, target.model
        ids = torch.tensor([chat.prompt_ids(tokenizer, talk)], device=model.device)
        if (room := generate.context_of(target) - ids.shape[1]) <= 0:
            return ""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                max_new_tokens=min(self.settings.max_new_tokens, room),
                pad_token_id=chat.pad_id(tokenizer),
                eos_token_id=sorted(chat.stop_ids(tokenizer)),
            )
        return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def read(reply: str, form: type[Form]) -> Form | str:
    """The JSON object in a reply, from its first brace to its last, or why there is none."""
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    if found is None:
        return f"no JSON object: {reply[:60]!r}"
    try:
        return form.model_validate(json.loads(found[0], strict=False))  # new lines in texts
    except ValidationError as error:
        what = error.errors()[0]
        return f"{'.'.join(map(str, what['loc']))}: {what['msg']}: {found[0][:60]!r}"
    except ValueError as error:
        return f"not JSON: {error}: {found[0][:60]!r}"
