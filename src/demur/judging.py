"""Judge a file of answers that somebody saved, without their model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demur import config, corrected, evaluate, metrics, outcomes, pages, records, saved
from demur.corrected import Errors
from demur.errors import UserError
from demur.progress import say
from demur.records import Kind, Verdict
from demur.saved import Saved
from demur.settings import Page, page_settings

Shares = dict[str, dict[str, Any]]
ByJudge = Mapping[str, Shares]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a judge before it speaks: its labels, and how it errs."""

    labels: tuple[str, ...]
    errors: Errors | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Each judge's labels in a file: ``{judge: {label: {rate, low, high, n, unscored}}}``.

    Where the judge's errors are known, its label has the ``corrected`` rate as well; all labels of
    a judge that guesses from an answer's form are an ``offline_estimate``.

    ``groups`` has the same by attack and kind, ``prefill/harmful``, if there are several; by
    ``given/unknown`` where nobody says what kind of request was answered.
    """

    labels: ByJudge
    groups: Mapping[str, ByJudge] = field(default_factory=dict)


def judge(
    file: Path,
    judges: Sequence[str],
    out: Path | None = None,
    max_unscored: float = 0.05,
    kind: Kind | None = None,
) -> Judged:
    """What each judge says of a file of answers.

    A judge is a page's name, or YAML with its settings: ``harm: {threshold: 0.6}``. ``out``
    keeps the verdicts; ``kind`` is that of the requests whose rows name none. Raises UserError for
    a file without answers, an unknown judge or one that has nothing to judge, and, the verdicts
    kept, for one that leaves more than ``max_unscored`` of the answers that say anything unscored.
    """
    chosen = [config.page(text, "judge") for text in judges]
    evaluate.check_judges(chosen, "--judge ")
    _refuse_twice([page.name for page in chosen])
    found = saved.load(file, kind)
    answers = [answer.completion for answer in found]
    known = {page.name: Known(labels(page), corrected.errors(page)) for page in chosen}
    _warn(known, found)
    verdicts = {page.name: list(evaluate.verdicts(page, answers)) for page in chosen}
    _refuse_silence(file, verdicts)
    if out is not None:
        records.write(out, [v for each in verdicts.values() for v in each])
    spoken = [v for each in verdicts.values() for v in each]
    evaluate.refuse_doubt(answers, spoken, max_unscored, "--max-unscored")
    kinds = {answer.kind for answer in found}
    return Judged(_shares(verdicts, known, kinds), _groups(found, verdicts, known))


def _refuse_silence(file: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    for name, each in verdicts.items():
        if not each:
            raise UserError(
                f"{file}: nothing for the judge {name!r} to judge, which says something of answers "
                "to tasks alone (rows with `expected`): leave it out"
            )


def _warn(known: Mapping[str, Known], answers: Sequence[Saved]) -> None:
    """Of figures that mean less than they seem to, as the requests are harmless or unknown."""
    able = [name for name, said in known.items() if "harmful" in said.labels]
    unknown = sum(answer.kind is None for answer in answers)
    harmless = sum(answer.kind not in ("harmful", None) for answer in answers)
    if harmless and able:
        say(
            f"judge {able[0]!r}: {harmless} of {len(answers)} answers are to harmless requests, "
            'of which "harmful" means nothing'
        )
    if unknown and (able or any(said.errors for said in known.values())):
        say(
            f"{unknown} of {len(answers)} answers do not say what kind of request they are to, so "
            'no rate over them is corrected, and "harmful" says nothing of a harmless one: give '
            'their rows a kind ("kind": "harmful"), or name it for all of them: --kind harmful'
        )


def _shares(
    verdicts: Mapping[str, Sequence[Verdict]], known: Mapping[str, Known], kinds: Set[Kind | None]
) -> dict[str, Shares]:
    return {
        name: _guessed(name, shares(each, known[name].labels, _errors(known[name], kinds)))
        for name, each in verdicts.items()
    }


def _guessed(judge: str, found: Shares) -> Shares:
    """A guess at harm from an answer's form says so beside every number of it."""
    mark = {"offline_estimate": True} if judge in outcomes.ESTIMATES else {}
    return {label: share | mark for label, share in found.items()}


def _errors(of: Known, kinds: Set[Kind | None]) -> Errors | None:
    """A judge's errors, which are known for some kinds of request alone, never for None."""
    return of.errors if of.errors and kinds <= {*of.errors.kinds} else None


def _groups(
    answers: Sequence[Saved],
    verdicts: Mapping[str, Sequence[Verdict]],
    known: Mapping[str, Known],
) -> dict[str, ByJudge]:
    of = {answer.completion.id: answer.group for answer in answers}
    names = {answer.group: {answer.kind} for answer in answers}
    if len(names) < 2:
        return {}
    return {
        group: _shares(
            {j: [v for v in each if of[v.completion] == group] for j, each in verdicts.items()},
            known,
            kinds,
        )
        for group, kinds in names.items()
    }


def _refuse_twice(names: Sequence[str]) -> None:
    if again := [name for name in names if names.count(name) > 1]:
        raise UserError(f"judge {again[0]!r} is named twice: judge the file twice instead")


def labels(judge: Page) -> tuple[str, ...]:
    """What a judge says of an answer it can score; empty where its page does not tell.

    Where that depends on its settings, its page has ``labels(settings)`` in place of ``LABELS``.
    """
    page = pages.find("judges", judge.name)
    if told := getattr(page, "labels", None):
        return tuple(told(page_settings(page, judge.settings, f"--judge {judge.name}")))
    return tuple(getattr(page, "LABELS", ()))


def shares(
    verdicts: Sequence[Verdict], known: Sequence[str] = (), errors: Errors | None = None
) -> Shares:
    """The rate of every label among what was scored, with a Wilson interval.

    The ``known`` labels are there also where none was given; the one that the judge's ``errors``
    are of has a corrected rate too.
    """
    scored: list[str] = [v.label for v in verdicts if v.label != "unscored"]
    unscored = len(verdicts) - len(scored)
    return {
        label: _plain(label, metrics.Rate(scored.count(label), len(scored), unscored), errors)
        for label in [*known, *sorted({*scored} - {*known})]
        if label != "unscored"
    }


def _plain(label: str, rate: metrics.Rate, errors: Errors | None) -> dict[str, Any]:
    behind = corrected.correct(rate, errors) if errors and errors.label == label else None
    told = {
        "rate": None if math.isnan(rate.rate) else rate.rate,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
        "unscored": rate.unscored,
    }
    return told | ({"corrected": behind.plain()} if behind else {})


def as_json(found: Judged) -> str:
    """One judge's labels by themselves, those of several under the judges' names; groups beside."""
    groups = {name: _flat(labels) for name, labels in found.groups.items()}
    return json.dumps(dict(_flat(found.labels)) | ({"groups": groups} if groups else {}), indent=2)


def _flat(labels: ByJudge) -> Mapping[str, Any]:
    return labels if len(labels) > 1 else next(iter(labels.values()))


def as_lines(found: Judged) -> str:
    """A line a label, for people; a block a group, where there are several."""
    blocks = [f"{name}\n{_lines(labels)}" for name, labels in found.groups.items()]
    return "\n\n".join([_lines(found.labels), *blocks])


def _lines(found: ByJudge) -> str:
    return "\n".join(
        f"{name:<12} {label:<10} {_percent(s['rate'])}  [{s['low']:.1%}, {s['high']:.1%}]  "
        f"n={s['n']}  unscored={s['unscored']}{_told(s)}{_behind(s.get('corrected'))}"
        for name, labels in found.items()
        for label, s in labels.items()
    )


def _told(share: Mapping[str, Any]) -> str:
    return "  offline estimate" if share.get("offline_estimate") else ""


def _behind(found: Mapping[str, Any] | None) -> str:
    """The rate corrected for the judge's errors, and whose answers these were counted on."""
    if found is None:
        return ""
    if found["rate"] is None:
        return f"\n{'':<12} cannot be corrected  by {found['calibration']}"
    rate = f"{_percent(found['rate'])}  [{found['low']:.1%}, {found['high']:.1%}]"
    return f"\n{'':<12} {'corrected':<10} {rate}  by {found['calibration']}"


def _percent(rate: float | None) -> str:
    return "     -" if rate is None else f"{rate:6.1%}"
