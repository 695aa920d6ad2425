"""`autodan`: jailbreak texts that breed, the likelier an affirmative answer the more.

AutoDAN's hierarchical genetic algorithm (AutoDAN-HGA, Liu et al., arXiv 2310.04451). Between two
generations that are bred by softmax selection and crossover of sentences, words are replaced by
those that a momentum of the texts' fitness scores higher. A language model rephrases sentences for
mutation, as the paper has it, or synonyms do offline. Needs the model's weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from demur.attacks import _genes, _mutations, _search, _templates, _writers
from demur.attacks._files import shipped
from demur.attacks._genes import Text
from demur.attacks._mutations import Mutation
from demur.attacks._writers import Loaded, Served
from demur.attempts import NOWHERE, Kept
from demur.errors import SettingError
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
    lexical: int = Field(
        5,
        ge=0,
        description="generations that replace words by their scores before each that crosses texts "
        "(paper: 5); 0: none, the paper's AutoDAN-GA",
    )
    words: int = Field(30, gt=0, description="best scored words that replace their synonyms")
    crossover: float = Field(
        0.5, ge=0, le=1, description="probability that two texts cross, or a word is replaced"
    )
    points: int = Field(5, gt=0, description="places where two texts cross")
    mutation: float = Field(
        0.05, ge=0, le=1, description="probability that a word mutates, or a sentence is rephrased"
    )
    endpoint: Served | None = Field(
        None, description="a served model that rephrases, as for `pair`; null: words mutate"
    )
    local: Loaded | None = Field(
        None, description="one that is loaded beside the model, as for `pair`"
    )
    batch: int = Field(8, gt=0, description="texts the model reads together")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.endpoint and self.local:
            raise SettingError("endpoint and local are two models that rephrase: name one")
        seeds(self)
        return self


def searches(behaviors: Sequence[Behavior], settings: Settings) -> list[list[Behavior]]:
    """Each behavior is searched for alone."""
    return [[behavior] for behavior in _search.drawn(behaviors, settings)]


def attack(
    behaviors: Sequence[Behavior], target: Any, settings: Settings, kept: Kept = NOWHERE
) -> Iterator[Attempt]:
    """One attempt a behavior with the best of the first texts, and one with the text bred.

    The variant is ``seed`` and ``search``; ``detail`` has the lowest loss after every generation,
    and of how many sentences a rephrasing model was asked and could be read.
    Raises UserError if that model cannot be asked.
    """
    groups = searches(behaviors, settings)
    found = (_of_one(each, target, settings, kept) for [each] in groups)
    yield from _search.together(chain.from_iterable(found))


def seeds(settings: Settings) -> list[Text]:
    """The texts of the first generation. Raises UserError for templates that cannot be read."""
    where = settings.templates or shipped("jailbreakchat.jsonl")
    return [_genes.text(template) for template in _templates.load(where, settings.append)]


def _of_one(behavior: Behavior, target: Any, settings: Settings, kept: Kept) -> Iterator[Attempt]:
    from demur.attacks import _breeding

    first, luck = seeds(settings), _search.luck(settings, [behavior])
    wanted = _search.wanted(behavior, _search.given(settings))
    ask = _breeding.Asking(target, behavior, wanted, settings.batch)
    end = _breeding.search(ask, first, _mutation(settings), settings, luck, kept)
    if settings.baseline:
        detail = _losses(end.lowest[:1])
        yield _attempt(behavior, "seed", end.seed, len(dict.fromkeys(first)), detail)
    asked, understood = end.rephrased
    detail = _losses(end.lowest)
    if settings.endpoint or settings.local:
        detail["rephrased"] = {"asked": asked, "understood": understood}
    yield _attempt(behavior, "search", end.ranked[0][0], end.queries, detail)


def _attempt(
    behavior: Behavior, variant: str, text: Text, queries: int, detail: dict[str, Any]
) -> Attempt:
    return Attempt(
        behavior=behavior.id,
        attack="autodan",
        variant=variant,
        messages=_search.asked(text.fill(behavior.prompt)),
        queries=queries,
        detail=detail,
    )


def _losses(found: Iterable[float]) -> dict[str, Any]:
    return {"losses": [round(loss, 4) for loss in found]}


def _mutation(settings: Settings) -> Mutation:
    return _mutations.mutation(
        settings.mutation, _writers.writer(settings.endpoint, settings.local)
    )
