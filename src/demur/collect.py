"""Sample the model's own answers: unsafe ones to avoid, ordinary ones to keep it what it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur import evaluate, identity, manifest, records, safe, sampler, sources
from demur.asking import Collect
from demur.attacks import direct
from demur.errors import UserError
from demur.progress import say
from demur.records import Behavior, Completion, Example, Kind
from demur.settings import Decoding, Model, Page

JUDGES = (Page(name="refusal"), Page(name="broken"))


@dataclass(frozen=True, slots=True)
class Task:
    """Who is asked what: examples and behaviors, and how the answers to each are decoded."""

    model: Model
    train: Sequence[Example]
    heldout: Sequence[Behavior]
    settings: Collect
    decoding: Decoding

    def inputs(self) -> dict[str, Any]:
        """What tells this collection from another, by the names of the settings."""
        return {
            "model": identity.identity(self.model),
            "data": {"train": manifest.of(self.train), "heldout": manifest.of(self.heldout)},
            "collect": self.settings.model_dump(mode="json", exclude={"safe"}) | self._safe(),
            "evaluate": {"decoding": self.decoding.model_dump(mode="json")},
        }

    def _safe(self) -> dict[str, Any]:
        if not (safe := self.settings.safe):
            return {}
        asked = {"llm": identity.identity(safe.llm)} if safe.llm else {}
        idle = set() if safe.ask else {"decoding"}
        return {"safe": safe.model_dump(mode="json", exclude={"llm"} | idle) | asked}


def collect(task: Task, out: Path) -> None:
    """Fill in the answers that the examples and behaviors lack, from the model to be trained.

    Writes train.jsonl (Examples), pairs.jsonl (those with both answers, in TRL's preference format)
    and heldout.jsonl (Behaviors); an answer to a harmful request is kept if it is neither refused
    nor broken nor shorter than ``min_tokens``: in words, and a line says so, where nobody has
    counted tokens. Held-out answers are decoded as the evaluation decodes, which can then take
    them over.
    Raises UserError if no harmful example can be used: then there is nothing to move away from;
    and, before the model is asked, where whoever is to give safe answers cannot be.
    """
    asked = sources.behaviors(example for example in task.train if lacks(example))
    held = [b for b in task.heldout if not (b.unsafe or b.answer)]
    _refuse_short(asked, task.settings.decoding, "collect", task.settings)
    _refuse_short(held, task.decoding, "evaluate", task.settings)
    if manifest.begin(out, task.inputs(), {"model": task.model.model_dump()}):
        return
    if task.settings.safe:
        safe.ready(task.train, task.settings.safe)
    target = sampler.sampler(task.model) if asked or held or _by_hand(task) else None
    answers = _answers(target, asked, task.settings.decoding, out / "train.completions.jsonl")
    known = _answers(target, held, task.decoding, out / "heldout.completions.jsonl")
    _say_uncounted([*answers.values(), *known.values()], task.settings.min_tokens)
    examples = _examples(_paired(_found(task, answers), task.settings, target, out))
    records.write(out / "train.jsonl", examples)
    pairs = [safe.preference(e) for e in examples if e.chosen and e.rejected]
    records.replace(out / "pairs.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs))
    records.write(out / "heldout.jsonl", [_behavior(b, known, task.settings) for b in task.heldout])
    manifest.finish(out, **_tell(task.train, examples))


def _refuse_short(
    asked: Iterable[Behavior], decoding: Decoding, stage: str, settings: Collect
) -> None:
    """Answers cut before they are long enough to be kept are work for nothing."""
    if decoding.max_new_tokens < settings.min_tokens and any(b.kind == "harmful" for b in asked):
        raise UserError(
            f"{stage}.decoding.max_new_tokens={decoding.max_new_tokens} is less than "
            f"collect.min_tokens={settings.min_tokens}, so that no harmful answer could be kept: "
            "raise the first or lower the second"
        )


def lacks(example: Example) -> bool:
    """Whether the model will be asked: for an unsafe answer, or for an ordinary one."""
    return (example.rejected if example.kind == "harmful" else example.chosen) is None


def _by_hand(task: Task) -> bool:
    """Whether the model itself is asked for safe answers."""
    wanted = task.settings.safe
    if wanted is None or wanted.ask is None or wanted.llm:
        return False
    return any(safe.lacks(example, wanted) for example in task.train)


def _answers(
    target: Any, behaviors: Sequence[Behavior], decoding: Decoding, path: Path
) -> dict[tuple[Kind, str], Completion]:
    """The model's answers to the bare prompts, those judged usable, by kind and prompt."""
    attempts = list(direct.attack(behaviors, target, direct.Settings()))
    if not attempts:
        return {}
    answers = sampler.complete(target, behaviors, attempts, decoding, path)
    verdicts = evaluate.judge(answers, JUDGES, path.with_name(path.stem + ".verdicts.jsonl"))
    usable = {"complied", "intact"}
    out = {v.completion for v in verdicts if v.label not in usable}
    return {(c.kind, c.prompt): c for c in answers if c.id not in out}


def _found(task: Task, answers: dict[tuple[Kind, str], Completion]) -> list[Example]:
    """Every example, with the model's answer where it has given a usable one."""
    found = [_example(example, answers, task.settings.min_tokens) for example in task.train]
    return list(_limited(found, task.settings.limit))


def _paired(
    found: Sequence[Example], settings: Collect, target: Any, out: Path
) -> Sequence[Example]:
    """The same with safe answers beside the unsafe ones, where they are wanted."""
    if settings.safe is None:
        return found
    path = out / "safe.completions.jsonl"
    return safe.fill(found, settings.safe, target, JUDGES, path)


def _examples(found: Sequence[Example]) -> list[Example]:
    kept = [e for e in found if e.chosen or e.rejected]
    if any(e.kind == "harmful" for e in found) and not any(e.kind == "harmful" for e in kept):
        raise UserError(
            "collect: the model gave no usable unsafe answer to the harmful training prompts; "
            "give more prompts, lower collect.min_tokens, or bring answers (`rejected`)"
        )
    return kept


def _example(
    example: Example, answers: dict[tuple[Kind, str], Completion], min_tokens: int
) -> Example:
    answer = answers.get((example.kind, example.prompt)) if lacks(example) else None
    if answer is None:
        return example
    if example.kind == "harmful":
        return replace(example, rejected=answer.text) if _long(answer, min_tokens) else example
    return replace(example, chosen=answer.text, unfinished=answer.finish == "length")


def _long(answer: Completion, least: int) -> bool:
    """Whether an answer has so many tokens, or words, of which a text has hardly more."""
    count = len(answer.text.split()) if answer.tokens is None else answer.tokens
    return count >= least


def _limited(examples: Sequence[Example], limit: int | None) -> Iterator[Example]:
    """All examples, those after the first ``limit`` unsafe answers without theirs."""
    count = 0
    for example in examples:
        unsafe = example.kind == "harmful" and example.rejected is not None
        count += unsafe
        over = unsafe and limit is not None and count > limit
        yield replace(example, rejected=None) if over else example


def _behavior(
    behavior: Behavior, answers: dict[tuple[Kind, str], Completion], settings: Collect
) -> Behavior:
    answer = answers.get((behavior.kind, behavior.prompt))
    if answer is None:
        return behavior
    if behavior.kind == "harmful":
        long = _long(answer, settings.min_tokens)
        return replace(behavior, unsafe=answer.text) if long else behavior
    return replace(behavior, answer=answer.text)


def _say_uncounted(answers: Iterable[Completion], least: int) -> None:
    if least and any(a.tokens is None for a in answers if a.kind == "harmful"):
        say(
            f"the server tells no number of tokens: collect.min_tokens={least} counts words, which "
            "suits no language without spaces; name model.tokenizer to count tokens"
        )


def _tell(train: Sequence[Example], kept: Sequence[Example]) -> dict[str, Any]:
    unsafe = sum(e.rejected is not None for e in kept)
    pairs = sum(bool(e.chosen and e.rejected) for e in kept)
    counts = {"asked": len(train), "kept": len(kept), "unsafe": unsafe, "pairs": pairs}
    say(
        f"collected {unsafe} unsafe answers, {pairs} of them with a safe one; "
        f"{len(kept)} of {len(train)} examples can be used"
    )
    return {"counts": counts}
