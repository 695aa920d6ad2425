"""Generations of texts, each kept or bred from by the likelihood of a wanted answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from random import Random
from typing import Protocol

from demur import generate
from demur.attacks import _genes
from demur.attacks._genes import Text
from demur.attacks._search import asked
from demur.errors import UserError
from demur.generate import Target
from demur.progress import Bar
from demur.records import Attempt, Behavior


class Budget(Protocol):
    """What of autodan's settings the search reads."""

    @property
    def generations(self) -> int: ...
    @property
    def population(self) -> int: ...
    @property
    def elite(self) -> float: ...
    @property
    def crossover(self) -> float: ...
    @property
    def points(self) -> int: ...
    @property
    def mutation(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Bred:
    """A text, the lowest loss (nats a token) after each generation, and how many were asked."""

    text: Text
    losses: tuple[float, ...]
    queries: int


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """How unlikely ``answer`` is after each text; no text is asked twice."""

    target: Target
    behavior: Behavior
    answer: str
    batch: int
    known: dict[Text, float] = field(default_factory=dict)

    def __call__(self, texts: Iterable[Text]) -> list[float]:
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        rows = [generate.row(self.target, self._filled(text), self.answer) for text in new]
        found = generate.likelihood(self.target, rows, self.batch)
        self.known.update((t, nll / n) for t, (nll, n) in zip(new, found, strict=True))
        return [self.known[text] for text in texts]

    def check(self, text: Text) -> None:
        """Raises UserError if text and answer fill the model's context."""
        messages = asked(self._filled(text))
        generate.prompt(
            self.target,
            Attempt(behavior="", attack="autodan", messages=messages, prefill=self.answer),
        )

    def fits(self, text: Text) -> bool:
        try:
            self.check(text)
        except UserError:
            return False
        return True

    def _filled(self, text: Text) -> str:
        return text.fill(self.behavior.prompt)


def search(ask: Asking, seeds: Sequence[Text], budget: Budget, random: Random) -> tuple[Bred, Bred]:
    """Algorithm 1 of arXiv 2310.04451: the best of the seeds, and the best after all generations.

    Raises UserError if a seed does not fit the model's context.
    """
    for seed in seeds:
        ask.check(seed)
    texts = _ranked(ask, seeds)
    losses = [ask.known[texts[0]]]
    first = Bred(texts[0], tuple(losses), len(ask.known))
    texts = _grown(texts, budget, random)
    with Bar(f"autodan: {ask.behavior.prompt:.19}", budget.generations) as bar:
        for _ in range(budget.generations):
            texts = _ranked(ask, _next(ask, texts, budget, random))
            losses.append(ask.known[texts[0]])
            bar.advance(note=f"loss {losses[0]:.2f} → {losses[-1]:.2f}")
    return first, Bred(texts[0], tuple(losses), len(ask.known))


def _ranked(ask: Asking, texts: Sequence[Text]) -> list[Text]:
    """The likeliest answer first."""
    return [text for _, text in sorted(zip(ask(texts), texts, strict=True), key=lambda e: e[0])]


def _grown(seeds: Sequence[Text], budget: Budget, random: Random) -> list[Text]:
    """The seeds, best first, and then mutants of them, up to the size of a generation."""
    copies = (_genes.mutated(seed, budget.mutation, random) for seed in cycle(seeds))
    return list(islice(chain(seeds, copies), budget.population))


def _next(ask: Asking, texts: list[Text], budget: Budget, random: Random) -> list[Text]:
    """An elite as it is, and children of parents drawn by how likely the answer is after them."""
    texts = _ranked(ask, [text for text in texts if ask.fits(text)])
    elite = texts[: max(1, round(budget.elite * budget.population))]
    born: list[Text] = []
    while len(elite) + len(born) < budget.population:
        born += _pair(_genes.parents(texts, ask(texts), 2, random), budget, random)
    born = [child if ask.fits(child) else texts[0] for child in born]
    return [*elite, *born][: budget.population]


def _pair(pair: Sequence[Text], budget: Budget, random: Random) -> list[Text]:
    """Two texts, crossed over or not, both mutated."""
    if random.random() < budget.crossover:
        pair = _genes.children(pair[0], pair[1], budget.points, random)
    return [_genes.mutated(text, budget.mutation, random) for text in pair]
