"""Generations of texts, each kept or bred from by the likelihood of a wanted answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from random import Random
from typing import Protocol

from demur import generate
from demur.attacks import _genes, _search, _words
from demur.attacks._genes import Text
from demur.attacks._mutations import Mutation
from demur.attacks._search import asked
from demur.attempts import NOWHERE, Kept
from demur.errors import UserError
from demur.generate import Target
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
    def lexical(self) -> int: ...
    @property
    def words(self) -> int: ...
    @property
    def crossover(self) -> float: ...
    @property
    def points(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """Texts with their losses (nats a token), the likeliest answer first, and the way there.

    ``seed`` is the best of the first texts, ``lowest`` its loss and then the lowest after each
    generation, ``words`` the scores so far, ``queries`` how many prompts were asked.
    ``rephrased`` counts the sentences a model was asked about, and what it said of them that
    could be read.
    """

    seed: Text
    ranked: tuple[tuple[Text, float], ...]
    lowest: tuple[float, ...]
    queries: int
    words: _words.Scores = field(default_factory=dict)
    rephrased: tuple[int, int] = (0, 0)

    @property
    def note(self) -> str:
        return f"loss {self.lowest[0]:.2f} → {self.lowest[-1]:.2f}"


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """How unlikely ``answer`` is after each text, in nats a token."""

    target: Target
    behavior: Behavior
    answer: str
    batch: int

    def __call__(self, texts: Iterable[Text], known: Mapping[Text, float]) -> dict[Text, float]:
        """Of every text; one that is known, or there twice, is not asked again."""
        every = dict.fromkeys(texts)
        new = [text for text in every if text not in known]
        rows = [generate.row(self.target, self._filled(text), self.answer) for text in new]
        said = generate.likelihood(self.target, rows, self.batch)
        found = {text: nll / n for text, (nll, n) in zip(new, said, strict=True)}
        return {text: found[text] if text in found else known[text] for text in every}

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


def search(
    ask: Asking,
    seeds: Sequence[Text],
    mutate: Mutation,
    budget: Budget,
    luck: Callable[[int], Random],
    kept: Kept = NOWHERE,
) -> Generation:
    """AutoDAN-HGA (arXiv 2310.04451): generations by word scores, and then one by crossover.

    Raises UserError if a seed does not fit the model's context.
    """
    for seed in seeds:
        ask.check(seed)

    def begun() -> Generation:
        return _begun(ask, seeds, mutate, budget, luck(-1))

    def step(now: Generation, number: int) -> Generation:
        return _next(ask, now, mutate, budget, number, luck(number))

    title = f"autodan: {ask.behavior.prompt:.19}"
    return _search.through(Generation, begun, step, budget.generations, title, kept)


def _begun(
    ask: Asking, seeds: Sequence[Text], mutate: Mutation, budget: Budget, random: Random
) -> Generation:
    """The seeds, best first, and then mutants of them, up to the size of a generation."""
    first = ask(seeds, {})
    best = sorted(first, key=first.__getitem__)
    copies = islice(cycle(best), max(0, budget.population - len(best)))
    mutants = mutate(list(copies), random)
    texts = [*best, *filter(ask.fits, mutants.texts)][: budget.population]
    found = ask(texts, first)
    return Generation(
        seed=best[0],
        ranked=_ranked(texts, found),
        lowest=(first[best[0]],),
        queries=len(first.keys() | found.keys()),
        rephrased=(mutants.asked, mutants.understood),
    )


def _next(
    ask: Asking, now: Generation, mutate: Mutation, budget: Budget, number: int, random: Random
) -> Generation:
    """An elite as it is, and texts that were reworded or crossed over, and mutated."""
    texts, losses = zip(*now.ranked, strict=True)
    words = _words.scored(now.words, texts, losses, budget.words)
    elite = texts[: max(1, round(budget.elite * budget.population))]
    if (number + 1) % (budget.lexical + 1):
        bred = _reworded(texts, words, budget, random)
    else:
        bred = _crossed(texts, losses, budget, random)
    mutants = mutate(list(islice(bred, max(0, budget.population - len(elite)))), random)
    born = [text if ask.fits(text) else texts[0] for text in mutants.texts]
    known = dict(now.ranked)
    found = ask([*elite, *born], known)
    return replace(
        now,
        ranked=_ranked([*elite, *born], found),
        lowest=(*now.lowest, min(found.values())),
        words=words,
        queries=now.queries + len(found.keys() - known.keys()),
        rephrased=(now.rephrased[0] + mutants.asked, now.rephrased[1] + mutants.understood),
    )


def _ranked(texts: Iterable[Text], losses: Mapping[Text, float]) -> tuple[tuple[Text, float], ...]:
    """The likeliest answer first."""
    return tuple(sorted(((text, losses[text]) for text in texts), key=lambda pair: pair[1]))


def _reworded(
    texts: Sequence[Text], words: _words.Scores, budget: Budget, random: Random
) -> Iterator[Text]:
    """The paper's sentence level: texts with words that do better elsewhere, the worst text first.

    As many as are wanted are all but the elite.
    """
    for text in cycle(texts[::-1]):
        yield _words.reworded(text, words, budget.crossover, random)


def _crossed(
    texts: Sequence[Text], losses: Sequence[float], budget: Budget, random: Random
) -> Iterator[Text]:
    """The paper's paragraph level: parents drawn by how likely the answer is after them."""
    while True:
        one, other = _genes.parents(texts, losses, 2, random)
        if random.random() < budget.crossover:
            one, other = _genes.children(one, other, budget.points, random)
        yield from (one, other)
