"""Hold a judge against human labels: how far can its numbers be believed?"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import config, evaluate, judging, labels, metrics
from demur.errors import UserError
from demur.metrics import Estimate, Rate
from demur.records import Label, Verdict

# What a judge's score speaks of, and what a label that is a mere number asks of it.
ASKED: dict[str, Label] = {"refusal": "refused", "broken": "broken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A judge's answers to one question, ``positive`` or not, beside people's.

    Four counts of the scored rows; ``unscored`` more the judge could not say. ``auroc`` is of the
    judge's score, None where that does not speak of ``positive`` or people say the same of all.
    """

    judge: str
    version: str
    positive: Label
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    unscored: int
    auroc: float | None

    @property
    def n(self) -> int:
        return self.judged.n

    @property
    def agreement(self) -> Rate:
        right = self.true_positive + self.true_negative
        return Rate(right, right + self.false_positive + self.false_negative, self.unscored)

    @property
    def kappa(self) -> float:
        """Cohen's kappa; nan where nothing was scored or chance alone agrees always."""
        judge = [True, True, False, False]
        human = [True, False, True, False]
        counts = (self.true_positive, self.false_positive, self.false_negative, self.true_negative)
        if not self.n:
            return math.nan
        return metrics.cohen_kappa(_repeat(judge, counts), _repeat(human, counts))

    @property
    def precision(self) -> Rate:
        """Of those the judge calls positive, the share that people do too."""
        return Rate(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> Rate:
        """Of those people call positive, the share that the judge does too: its sensitivity."""
        return Rate(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Rate:
        return Rate(self.true_negative, self.true_negative + self.false_positive)

    @property
    def judged(self) -> Rate:
        """The share the judge calls positive."""
        return Rate(self.true_positive + self.false_positive, self.agreement.n, self.unscored)

    @property
    def human(self) -> Rate:
        """The share people call positive, of the rows that the judge could score."""
        return Rate(self.true_positive + self.false_negative, self.agreement.n, self.unscored)

    def correct(self, observed: Rate) -> Estimate:
        """The rate behind one that this judge measured, with the doubt of both samples in it.

        It holds where the judge errs as often as on these rows. Raises UserError where the judge
        tells nothing, or errs otherwise there, and where people call all of them or none positive.
        """
        return metrics.rogan_gladen(observed, self.recall, self.specificity)


def calibrate(
    judge: str, file: Path, column: str | None = None, max_unscored: float = 0.05
) -> Calibration:
    """Ask a judge about every answer of a labelled file and count where people agree.

    ``judge`` is a page's name, or YAML with its settings, ``harm: {threshold: 0.6}``; ``column``
    names the labels where they have a name of their own. Raises UserError for a judge or a file
    that cannot be used, and where more than ``max_unscored`` of the answers stay unscored.
    """
    page = config.page(judge, "judge")
    evaluate.check_judges([page], "judge ")
    answers, human = labels.load(file, _asked(page.name), column)
    asked, able = labels.question(human), judging.labels(page)
    if able and asked not in able:
        raise UserError(
            f"{file}: its labels say {asked} or not, and judge {page.name!r} says "
            f"{' or '.join(able)}: name another judge, or labels of what it says"
        )
    verdicts = list(evaluate.verdicts(page, answers))
    evaluate.refuse_doubt(answers, verdicts, max_unscored, "--max-unscored")
    return compare(verdicts, human)


def compare(found: Sequence[Verdict], human: Sequence[Label]) -> Calibration:
    """Count verdicts beside people's labels, both as yes or no to what the labels ask.

    Raises UserError where the labels answer more than one question.
    """
    positive, judge = labels.question(human), found[0].judge
    pairs = [(v, label == positive) for v, label in zip(found, human, strict=True)]
    scored = [(v, yes) for v, yes in pairs if v.label != "unscored"]
    counts = Counter((v.label == positive, yes) for v, yes in scored)
    return Calibration(
        judge=judge,
        version=found[0].version,
        positive=positive,
        true_positive=counts[True, True],
        false_positive=counts[True, False],
        false_negative=counts[False, True],
        true_negative=counts[False, False],
        unscored=len(pairs) - len(scored),
        auroc=_auroc(scored) if positive == _asked(judge) else None,
    )


def _asked(judge: str) -> Label:
    return ASKED.get(judge, "harmful")


def _auroc(scored: Sequence[tuple[Verdict, bool]]) -> float | None:
    known = [(v.score, yes) for v, yes in scored if v.score is not None]
    if len({yes for _, yes in known}) < 2:
        return None
    return metrics.auroc([score for score, _ in known], [yes for _, yes in known])


def _repeat(values: Sequence[bool], counts: Sequence[int]) -> list[bool]:
    return [value for value, n in zip(values, counts, strict=True) for _ in range(n)]


def as_json(found: Calibration) -> str:
    """Counts and rates with their 95 % intervals; null is what these rows cannot tell."""
    return json.dumps(_plain(found), indent=2)


def _plain(found: Calibration) -> dict[str, Any]:
    counts = ("true_positive", "false_positive", "false_negative", "true_negative")
    return {
        "judge": found.judge,
        "version": found.version,
        "positive": found.positive,
        "n": found.n,
        "unscored": found.unscored,
        "agreement": _or_none(found.agreement.rate),
        "kappa": _or_none(found.kappa),
        "confusion": {name: getattr(found, name) for name in counts},
        **{name: _interval(rate) for name, rate in _rates(found).items()},
        "corrected": _corrected(found),
        "auroc": found.auroc,
    }


def _rates(found: Calibration) -> dict[str, Rate]:
    names = ("precision", "recall", "specificity", "judged", "human")
    return {name: getattr(found, name) for name in names}


def _interval(rate: Rate) -> dict[str, Any]:
    return {"rate": _or_none(rate.rate), "low": rate.low, "high": rate.high, "n": rate.n}


def _corrected(found: Calibration) -> dict[str, float] | None:
    """The judged rate corrected: on these very rows the human one, so its interval is the news."""
    try:
        rate = found.correct(found.judged)
    except UserError:
        return None
    return {"rate": rate.value, "low": rate.low, "high": rate.high}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_lines(found: Calibration) -> str:
    """The same for a reader, a line each."""
    plain = _plain(found)
    rates = {name: str(rate) for name, rate in _rates(found).items()}
    auroc = "-" if found.auroc is None else f"{found.auroc:.3f}"
    corrected = plain["corrected"]
    told = {
        found.judge: f"{found.version}, {found.positive} or not, {found.n} rows, "
        f"{found.unscored} unscored",
        "agreement": str(found.agreement),
        "kappa": f"{found.kappa:.3f}",
        "confusion": ", ".join(f"{name} {n}" for name, n in plain["confusion"].items()),
        **rates,
        "corrected": "{rate:.1%} [{low:.1%}, {high:.1%}]".format(**corrected) if corrected else "-",
        "AUROC": auroc,
    }
    return "\n".join(f"{name:<12} {text}" for name, text in told.items())
