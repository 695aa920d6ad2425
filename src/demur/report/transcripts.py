"""Every completion behind a number: the groups, the numbered items, and who counts what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur import measures, outcomes
from demur.evaluated import Answer, Evaluation
from demur.records import Attempt, Behavior, Kind, Label
from demur.report import words

HEADING = 160  # characters of a prompt shown while its transcript is folded


@dataclass(frozen=True, slots=True)
class Tally:
    """The numbers of one group's items that one model's figure counts, by a judge's word."""

    anchor: str
    model: int
    word: str
    judge: str
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One attempt with each model's answers to it, and how each came out."""

    number: int
    behavior: Behavior
    attempt: Attempt
    answers: tuple[tuple[tuple[Answer, Label], ...], ...]

    @property
    def plain(self) -> bool:
        """Whether the one-line heading says all that the model was told."""
        told = [(m["role"], m["content"]) for m in self.attempt.messages]
        asked = self.behavior.prompt
        short = len(asked) <= HEADING and "\n" not in asked
        return short and told == [("user", asked)] and not self.attempt.raw


@dataclass(frozen=True, slots=True)
class Group:
    """All the items of one scenario and kind, e.g. harmful requests asked directly."""

    anchor: str
    scenario: str
    kind: Kind
    judge: str
    items: tuple[Item, ...]
    tallies: tuple[Tally, ...]

    @property
    def title(self) -> str:
        return f"{outcomes.GROUPS[self.kind]}, {measures.spoken(self.scenario)}"

    def speaker(self, answer: Answer) -> str:
        """Whose word an answer's label is: the group's judge's, unless `broken` speaks first."""
        intact = any(v.judge == "broken" and v.label == "intact" for v in answer.verdicts)
        return self.judge if intact or self.kind == "task" else "broken"

    def counts(self, model: int) -> dict[str, int]:
        """How many of a model's answers had each outcome."""
        found: list[str] = [label for item in self.items for _, label in item.answers[model]]
        return {label: found.count(label) for label in words.OUTCOMES if label in found}


def groups(evaluations: Sequence[Evaluation], primary: str) -> list[Group]:
    """The transcripts of all models, grouped as the figures are and in the same order."""
    order = dict.fromkeys(a.group for e in evaluations for a in e.answers)
    return [_group(f"t{i}", *key, evaluations, primary) for i, key in enumerate(order)]


def judge_of(kind: Kind, primary: str) -> str:
    """Harmful requests are told apart by the primary judge, tasks by exact, others by refusal."""
    return {"harmful": primary, "task": "exact"}.get(kind, "refusal")


def whose(label: str, primary: str) -> str:
    """The judge by whose word a figure counts a label; none says of itself that it cannot say."""
    own = {"broken": "broken", "unscored": ""}
    return own[label] if label in own else outcomes.judge_of(label, primary)


def _group(
    anchor: str, scenario: str, kind: Kind, evaluations: Sequence[Evaluation], primary: str
) -> Group:
    mine = [[a for a in e.answers if a.group == (scenario, kind)] for e in evaluations]
    attempts = {a.completion.attempt: a for answers in mine for a in answers}
    ends = [_ends(answers, judge_of(kind, primary)) for answers in mine]
    items = tuple(
        Item(n, one.behavior, one.attempt, tuple(tuple(end.get(id, ())) for end in ends))
        for n, (id, one) in enumerate(attempts.items(), 1)
    )
    place = {id: n for n, id in enumerate(attempts, 1)}
    tallies = [
        Tally(
            f"{anchor}-{model}-{word}",
            model,
            word,
            whose(label, primary),
            _counted(answers, place, label, primary),
        )
        for model, answers in enumerate(mine)
        for label, word in _labels(kind, primary)
    ]
    return Group(anchor, scenario, kind, judge_of(kind, primary), items, tuple(tallies))


def _ends(answers: Sequence[Answer], judge: str) -> dict[str, list[tuple[Answer, Label]]]:
    """By attempt: each answer to it and how that came out."""
    ends: dict[str, list[tuple[Answer, Label]]] = {}
    for answer in answers:
        end = answer, outcomes.outcome(answer.verdicts, judge)
        ends.setdefault(answer.completion.attempt, []).append(end)
    return ends


def _labels(kind: Kind, primary: str) -> list[tuple[Label, str]]:
    first: list[Label] = ["correct", "wrong"] if kind == "task" else ["complied"]
    counted = [*first, *(what.label for what in outcomes.counted(kind, primary)), "unscored"]
    return [(label, words.OUTCOMES[label]) for label in dict.fromkeys(counted)]


def _counted(
    answers: Sequence[Answer], place: dict[str, int], label: Label, primary: str
) -> tuple[int, ...]:
    flags = outcomes.flags(answers, label, primary)
    if label == "unscored":
        flags = [doubtful(answer, primary) for answer in answers]
    return tuple(place[a.completion.attempt] for a, f in zip(answers, flags, strict=True) if f)


def doubtful(answer: Answer, primary: str) -> bool:
    """Whether a figure leaves this answer out, because a judge it needs could not say."""
    judges = {"refusal", judge_of(answer.completion.kind, primary)}
    return any(outcomes.outcome(answer.verdicts, judge) == "unscored" for judge in judges)
