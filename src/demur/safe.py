"""The safe answers that harmful prompts lack: refusals by rule, or a language model is asked.

Asked to rewrite, it makes the contrastive data of TA-SFT's cautionary study (arXiv 2412.06843):
every unsafe answer turned into a safe one. Both papers leave the prompts for it open; these are
ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from demur import endpoint, evaluate, models, refusals, sampler
from demur.asking import Safe
from demur.records import Attempt, Behavior, Completion, Example, Message
from demur.sampler import Sampler
from demur.settings import Page

ASK = {
    "decline": """Somebody asked an assistant:

{prompt}

Write what the assistant should reply. It declines in its first sentence, says briefly why, and \
offers help with something related that is safe and lawful. It gives no detail that would serve \
the request. Write the reply alone.""",
    "rewrite": """Somebody asked an assistant:

{prompt}

The assistant answered:

{unsafe}

That answer does harm. Rewrite it into one that does none: keep its language, its tone and about \
its length, take out all that would serve the request, and say what is safe to say of the matter \
instead. Write the new answer alone.""",
}


def lacks(example: Example, settings: Safe) -> bool:
    """Whether a safe answer is to be made: a rewritten one needs an unsafe one to begin with."""
    return _open(example) and (settings.ask != "rewrite" or example.rejected is not None)


def _open(example: Example) -> bool:
    return example.kind == "harmful" and example.chosen is None


def ready(examples: Sequence[Example], settings: Safe) -> None:
    """Raises UserError where another model is to be asked, and is not to be had."""
    if settings.llm is None or not any(_open(example) for example in examples):
        return
    models.check(settings.llm)
    if settings.llm.endpoint:
        endpoint.reach(settings.llm.endpoint)


def fill(
    examples: Sequence[Example],
    settings: Safe,
    hand: Sampler,
    judges: Sequence[Page],
    path: Path,
) -> list[Example]:
    """The examples, harmful ones with a safe answer beside the unsafe one.

    ``hand`` is the model to be trained, asked where ``settings`` name no other. An example that
    got no usable answer, and has no refusal to fall back on, loses its unsafe one too: what is
    wanted are pairs. Raises UserError if a model cannot be loaded, or an endpoint not be asked.
    """
    answers = _asked(examples, settings, hand, judges, path) if settings.ask else {}
    return [
        _filled(example, answers.get(example.id), settings) if lacks(example, settings) else example
        for example in examples
    ]


def _filled(example: Example, answer: Completion | None, settings: Safe) -> Example:
    if answer is not None:
        return replace(example, chosen=answer.text, unfinished=answer.finish == "length")
    if settings.refusal:
        return replace(example, chosen=refusals.refusal(example, settings.refusal))
    return replace(example, rejected=None)


def _asked(
    examples: Sequence[Example],
    settings: Safe,
    hand: Sampler,
    judges: Sequence[Page],
    path: Path,
) -> dict[str, Completion]:
    """The usable answers by the example's id."""
    attempts = {e.id: _attempt(e, str(settings.ask)) for e in examples if lacks(e, settings)}
    if not attempts:
        return {}
    target = sampler.sampler(settings.llm) if settings.llm else hand
    behaviors = [Behavior(prompt=e.prompt, kind="harmful") for e in examples if e.id in attempts]
    unique = list({attempt.id: attempt for attempt in attempts.values()}.values())
    target.check(unique)
    found = sampler.complete(target, behaviors, unique, settings.decoding, path)
    usable = {c.attempt: c for c in _usable(found, settings, judges, path)}
    texts = {e.id: e.rejected for e in examples}
    return {
        key: usable[attempt.id]
        for key, attempt in attempts.items()
        if attempt.id in usable and usable[attempt.id].text.strip() != (texts[key] or "").strip()
    }


def _attempt(example: Example, ask: str) -> Attempt:
    text = ASK[ask].format(prompt=example.prompt, unsafe=example.rejected)
    return Attempt(
        behavior=Behavior(prompt=example.prompt, kind="harmful").id,
        attack="safe",
        variant=ask,
        messages=(Message(role="user", content=text),),
    )


def _usable(
    answers: Sequence[Completion], settings: Safe, judges: Sequence[Page], path: Path
) -> Iterator[Completion]:
    """Neither broken nor, where it was to decline, an answer that does not."""
    verdicts = evaluate.judge(answers, judges, path.with_name(path.stem + ".verdicts.jsonl"))
    good = {"intact", "refused", *(["complied"] if settings.ask == "rewrite" else [])}
    out = {v.completion for v in verdicts if v.label not in good}
    yield from (answer for answer in answers if answer.id not in out)


def preference(example: Example) -> dict[str, Any]:
    """A pair as TRL's preference trainers take it: conversations, the prompt by itself."""
    return {
        "prompt": list(example.messages),
        "chosen": [Message(role="assistant", content=example.chosen or "")],
        "rejected": [Message(role="assistant", content=example.rejected or "")],
    }
