"""Words scored by the texts they stand in, with a momentum: AutoDAN's lexical level.

With the fitness of a text as minus its loss, the score of a word w after generation t is

    m_t(w) = (m_{t-1}(w) + a_t(w)) / 2,    a_t(w) = mean fitness of the texts that have w

and a_t(w) alone the first time (Liu et al., arXiv 2310.04451, section 3.4 and the appendix's
momentum word dictionary). Where the paper leaves out common words and names, here only words that
have synonyms are scored: no other could be replaced, or replace one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from statistics import fmean

from demur.attacks import _genes
from demur.attacks._genes import Text

Scores = Mapping[str, float]


def scored(before: Scores, texts: Iterable[Text], losses: Iterable[float], best: int) -> Scores:
    """The scores after one more generation, highest first, of no more than ``best`` words."""
    found: dict[str, list[float]] = defaultdict(list)
    for text, loss in zip(texts, losses, strict=True):
        for word in _genes.words(text):
            found[word].append(-loss)
    now = {word: fmean(fitness) for word, fitness in found.items()}
    both = {**before, **{w: (before.get(w, score) + score) / 2 for w, score in now.items()}}
    top = sorted(both, key=lambda word: -both[word])[:best]
    return {word: both[word] for word in top}


def reworded(text: Text, scores: Scores, rate: float, random: Random) -> Text:
    """Each word becomes one drawn from its group, itself included, with this probability.

    A word's share of the draw is its height above the lowest of all scores; where none of the
    group has any, the word stays.
    """
    lowest = min(scores.values(), default=0.0)

    def better(word: str) -> str:
        group: Sequence[str] = (word, *_genes.synonyms().get(word, ()))
        heights = [scores.get(each, lowest) - lowest for each in group]
        if not any(heights) or random.random() >= rate:
            return word
        return random.choices(group, heights)[0]

    return _genes.replaced(text, better)
