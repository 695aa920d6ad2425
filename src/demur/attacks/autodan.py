"""`autodan`: jailbreak texts that breed, the likelier an affirmative answer the more.

AutoDAN's genetic algorithm (Liu et al., arXiv 2310.04451, algorithm 1): softmax selection with an
elite, crossover of sentences, mutation. Here synonyms mutate, where the paper asks a language
model to rephrase, and its momentum word scores are left out. Needs the model's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from demur.attacks import _genes, _search, _templates
from demur.attacks._files import shipped
from demur.attacks._genes import Text
from demur.records import Attempt, Behavior

WEIGHTS = True  # it reads likelihoods, which a served model does not give


class Settings(_search.Wanted):
    """The first texts, and the budget: generations times population asks the model so often."""

    templates: Path | None = Field(
        None, description="texts to begin with, as `jailbreakchat` reads them; null: demur's own"
    )
    append: bool = Field(False, description="put the question after a template without a slot")
    generations: int = Field(10, gt=0, description="of texts (paper: 100)")
    population: int = Field(32, gt=1, description="texts in a generation (paper: 256)")
    elite: float = Field(0.1, gt=0, lt=1, description="share kept as it is (paper: 0.05)")
    crossover: float = Field(0.5, ge=0, le=1, description="probability that two texts cross")
    points: int = Field(5, gt=0, description="places where they do")
    mutation: float = Field(0.05, ge=0, le=1, description="probability that a word is replaced")
    batch: int = Field(8, gt=0, description="texts the model reads together")

    @model_validator(mode="after")
    def _readable_templates(self) -> Self:
        seeds(self)
        return self


def searches(behaviors: Sequence[Behavior], settings: Settings) -> list[list[Behavior]]:
    """Each behavior is searched for alone."""
    return [[behavior] for behavior in _search.drawn(behaviors, settings)]


def attack(behaviors: Sequence[Behavior], target: Any, settings: Settings) -> Iterator[Attempt]:
    """One attempt a behavior with the best of the first texts, and one with the text bred.

    The variant is ``seed`` and ``search``; ``detail`` has the lowest loss after every generation.
    """
    groups = searches(behaviors, settings)
    yield from _search.together(a for [each] in groups for a in _of_one(each, target, settings))


def seeds(settings: Settings) -> list[Text]:
    """The texts of the first generation. Raises UserError for templates that cannot be read."""
    where = settings.templates or shipped("jailbreakchat.jsonl")
    return [_genes.text(template) for template in _templates.load(where, settings.append)]


def _of_one(behavior: Behavior, target: Any, settings: Settings) -> Iterator[Attempt]:
    from demur.attacks import _breeding

    random = _search.luck(settings, [behavior])
    ask = _breeding.Asking(target, behavior, _wanted(behavior, settings), settings.batch)
    first, best = _breeding.search(ask, seeds(settings), settings, random)
    ends = {"seed": first} if settings.baseline else {}
    for variant, end in (ends | {"search": best}).items():
        yield Attempt(
            behavior=behavior.id,
            attack="autodan",
            variant=variant,
            messages=_search.asked(end.text.fill(behavior.prompt)),
            queries=end.queries,
            detail={"losses": [round(loss, 4) for loss in end.losses]},
        )


def _wanted(behavior: Behavior, settings: Settings) -> str:
    return _search.wanted(behavior, _search.given(settings))
