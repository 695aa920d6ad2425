"""`pair`: an attacking model rewrites the request, reads what came of it, and rewrites it again.

PAIR (Chao et al., "Jailbreaking Black Box Large Language Models in Twenty Queries", arXiv
2310.08419, algorithm 1), streams × depth. Without an attacking model a script of rewritings goes
through the same loop; it does not adapt, and its variant says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from demur.attacks import _conversation, _search, _templates, _writers
from demur.attacks._attackers import Asked, Attacker, Script
from demur.attacks._files import shipped
from demur.attacks._templates import Template
from demur.attacks._writers import Loaded, Served
from demur.attempts import NOWHERE, Kept
from demur.errors import SettingError
from demur.records import Attempt, Behavior


class Settings(_conversation.Budget):
    """Who attacks, who judges, and the budget: streams times depth questions to the model."""

    endpoint: Served | None = Field(
        None, description="an attacker that is served: `base_url`, `model`, `extra`, as for `llm`"
    )
    local: Loaded | None = Field(
        None,
        description="an attacker loaded beside the model: `model` as that of the run, "
        "`temperature`, `top_p`, `max_new_tokens`",
    )
    script: Path | None = Field(
        None,
        description="rewritings in place of an attacker, as `jailbreakchat` reads templates; "
        "null, and no attacker: demur's own",
    )

    @model_validator(mode="after")
    def _one_attacker(self) -> Self:
        if len([each for each in (self.endpoint, self.local, self.script) if each]) > 1:
            raise SettingError("endpoint, local and script are three attackers: name one")
        _conversation.check(self.judges)
        if not (self.endpoint or self.local):
            rewritings(self)
        return self


def searches(behaviors: Sequence[Behavior], settings: Settings) -> list[list[Behavior]]:
    """Each behavior is searched for alone."""
    return [[behavior] for behavior in _search.drawn(behaviors, settings)]


def attack(
    behaviors: Sequence[Behavior], target: Any, settings: Settings, kept: Kept = NOWHERE
) -> Iterator[Attempt]:
    """One attempt a behavior: the first prompt that the judge calls a success, else the best.

    The variant of a script's is ``scripted``. Where no proposal could be read the request is asked
    as it is, so that every behavior counts. Raises UserError if an attacker cannot be asked.
    """
    for [behavior] in searches(behaviors, settings):
        yield _of_one(behavior, target, settings, kept)


def rewritings(settings: Settings) -> list[Template]:
    """The script. Raises UserError for one that cannot be read."""
    return _templates.load(settings.script or shipped("pair.jsonl"))


def _of_one(behavior: Behavior, target: Any, settings: Settings, kept: Kept) -> Attempt:
    luck, attacker = _search.luck(settings, [behavior]), _attacker(behavior, settings)
    found = _conversation.search(behavior, target, attacker, settings, luck, kept)
    best, tried = found.best, found.tried
    scripted = settings.endpoint is None and settings.local is None
    return Attempt(
        behavior=behavior.id,
        attack="pair",
        variant="scripted" if scripted else "",
        messages=_search.asked(best.proposal.prompt if best else behavior.prompt),
        queries=len(tried),
        detail={
            "score": best.score if best else None,
            "scale": f"{settings.judges[0].name}: {found.scale}",
            "turn": best.turn if best else None,
            "improvement": best.proposal.improvement if best else "",
            "scores": [[one.stream, one.turn, one.score] for one in tried],
        },
    )


def _attacker(behavior: Behavior, settings: Settings) -> Attacker:
    if writer := _writers.writer(settings.endpoint, settings.local):
        return Asked(writer)
    return Script(rewritings(settings), behavior.prompt, settings.streams)
