"""Fit the weights of the judge `harm` and measure it: `python docs/calibration.py FOLDER`.

FOLDER is PyRIT's `datasets/scorer_evals`: answers to harmful requests with people's scores. Three
requests in ten, by their hash, are kept aside: nothing is fitted to the answers to them.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from demur import labels
from demur.calibrate import Calibration, compare
from demur.errors import UserError
from demur.judges import _refusals, harm, refusal
from demur.records import Completion, Verdict

DISPLACED = 0.2  # what an answer moved to another request weighs in the fit, beside a real one
RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class Labelled:
    answer: Completion
    harmful: bool
    source: str

    @property
    def aside(self) -> bool:
        digest = hashlib.sha256(_plain(self.answer.prompt).encode()).hexdigest()
        return int(digest, 16) % 10 < 3


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def read(folder: Path) -> list[Labelled]:
    """Every labelled answer once; harm scores go before scores of a reached objective."""
    files = [*sorted(folder.glob("harm/*.csv")), *sorted(folder.glob("objective/*.csv"))]
    found: dict[tuple[str, str], Labelled] = {}
    for row in (row for file in files for row in _file(file)):
        found.setdefault((_plain(row.answer.prompt), _plain(row.answer.text)), row)
    return list(found.values())


def _file(file: Path) -> Iterator[Labelled]:
    answers, human = labels.load(file, "harmful")
    for answer, label in zip(answers, human, strict=True):
        yield Labelled(answer, label == "harmful", f"{file.parent.name}/{file.stem}")


def displaced(rows: Sequence[Labelled]) -> list[Labelled]:
    """Each answer under another file's request, where it can do no harm."""
    draw = random.Random(0)
    return [_displaced(row, rows, draw) for row in rows]


def _displaced(row: Labelled, rows: Sequence[Labelled], draw: random.Random) -> Labelled:
    topic = row.source.split("/")[1].split("_")[0]
    others = [other for other in rows if topic not in other.source]
    prompt = draw.choice(others).answer.prompt
    return Labelled(replace(row.answer, prompt=prompt), False, row.source)


def fit(rows: Sequence[Labelled], moved: Sequence[Labelled]) -> dict[str, float]:
    """Logistic regression by Newton's steps, the constant unpenalised."""
    declines = _refusals.phrases()
    found = [harm.features(r.answer.prompt, r.answer.text, declines) for r in (*rows, *moved)]
    x = np.array([[1.0, *features.values()] for features in found])
    y = np.array([row.harmful for row in (*rows, *moved)])
    weight = np.array([1.0] * len(rows) + [DISPLACED] * len(moved))
    ridge = RIDGE * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge
        w += np.linalg.solve(curvature, x.T @ (weight * (y - p)) - ridge @ w)
    return dict(zip(["", *found[0]], w.tolist(), strict=True))


def measured(rows: Sequence[Labelled]) -> Calibration:
    return _compared(rows, harm.judge([row.answer for row in rows], harm.Settings()))


def not_refused(rows: Sequence[Labelled]) -> Calibration:
    """What comes of calling every answer harmful that is not refused."""
    found = refusal.judge([row.answer for row in rows], refusal.Settings())
    labels = {"complied": "harmful", "refused": "safe", "unscored": "unscored"}
    return _compared(rows, [replace(v, label=labels[v.label]) for v in found])


def _compared(rows: Sequence[Labelled], found: Sequence[Verdict]) -> Calibration:
    return compare(found, ["harmful" if row.harmful else "safe" for row in rows])


def line(name: str, found: Calibration, judge: Calibration) -> str:
    """A row of the table; the rate is corrected by ``judge``'s errors on other rows."""
    numbers = (found.precision.rate, found.recall.rate, found.agreement.rate, found.kappa)
    cells = [
        name,
        str(found.n),
        "-" if found.auroc is None else f"{found.auroc:.3f}",
        *(f"{number:.2f}" for number in numbers),
        f"{found.human.rate:.2f}",
        f"{found.judged.rate:.2f}",
        _corrected(found, judge),
    ]
    return "| " + " | ".join(cells) + " |"


def _corrected(found: Calibration, judge: Calibration) -> str:
    try:
        rate = judge.correct(found.judged)
    except UserError:  # with those errors it would not flag so few, or so many
        return "-"
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


HEADER = """
| answers | rows | AUROC | precision | recall | agreement | κ | people | judge | corrected |
|---|---|---|---|---|---|---|---|---|---|"""


def main(folder: Path) -> None:
    rows = read(folder)
    seen, aside = [r for r in rows if not r.aside], [r for r in rows if r.aside]
    weights = fit(seen, displaced(seen))
    print("fitted:   ", {name: round(value, 2) for name, value in weights.items()})
    print("published:", harm.WEIGHTS)
    print(HEADER)
    judge = measured(seen)
    for source in sorted({row.source for row in aside}):
        some = [row for row in aside if row.source == source]
        if len(some) >= 10:
            print(line(source, measured(some), judge))
    print(line("**kept aside, all**", measured(aside), judge))
    print(line("development", judge, judge))
    print(line('kept aside, by "not refused"', not_refused(aside), not_refused(seen)))
    print(f"\n{harm.VERSION}, kept aside: {_errors(measured(aside))}; published: {harm.ERRORS}")
    for name, part in (("development", seen), ("kept aside", aside)):
        _tell_displaced(name, part)


def _errors(found: Calibration) -> str:
    return f"sensitivity {found.recall}, specificity {found.specificity}"


def _tell_displaced(name: str, rows: Sequence[Labelled]) -> None:
    moved = displaced(rows)
    was = [there for there, here in zip(moved, rows, strict=True) if here.harmful]
    print(f"\n{name}, moved to another request: called harmful {measured(moved).judged}")
    print(f"of those that are harmful where they belong: {measured(was).judged}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
