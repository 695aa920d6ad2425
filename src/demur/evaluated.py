"""An evaluation folder, read and joined: what was asked, answered and judged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from demur import records
from demur.errors import UserError
from demur.records import Attempt, Behavior, Completion, Kind, Verdict

FILES = ("behaviors.jsonl", "attempts.jsonl", "completions.jsonl", "verdicts.jsonl")
AGAIN = "run the evaluation again, finished stages are kept"
DRAWN = ("jailbreakchat",)  # attacks whose variants are draws: one success of them is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How likely a model finds a fixed answer: summed NLL in nats over ``tokens`` tokens."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    behavior: str
    kind: Kind
    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion with what it answers and the latest verdict of each judge."""

    behavior: Behavior
    attempt: Attempt
    completion: Completion
    verdicts: tuple[Verdict, ...]

    @property
    def group(self) -> tuple[str, Kind]:
        """The scenario (``prefill:k=5``) and the kind of request: what is counted together.

        Tasks of one source are: an accuracy over several sets would mean nothing.
        """
        attack, variant = self.attempt.attack, self.attempt.variant
        scenario = f"{attack}:{variant}" if variant else attack
        if self.completion.kind == "task" and self.behavior.source:
            scenario += f" on {self.behavior.source}"
        return scenario, self.completion.kind


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything one evaluation folder holds, joined; answers in the order of the attempts."""

    folder: Path
    answers: tuple[Answer, ...]
    likelihoods: tuple[Likelihood, ...]
    manifest: Mapping[str, Any]

    @property
    def judges(self) -> dict[str, list[str]]:
        """Each judge that spoke, with the version (more than one if they were mixed)."""
        seen = sorted({(v.judge, v.version) for a in self.answers for v in a.verdicts})
        return {judge: [v for j, v in seen if j == judge] for judge, _ in seen}


def grouped(answers: Iterable[Answer]) -> dict[tuple[str, Kind], list[Answer]]:
    """Answers by scenario and kind, in the order of their first attempt."""
    groups: dict[tuple[str, Kind], list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.group, []).append(answer)
    return groups


def draws(answers: Iterable[Answer]) -> dict[str, dict[str, list[Answer]]]:
    """By scenario (``jailbreakchat:best of 3``) and behavior: the answers of which one is enough.

    Of harmful requests alone, and where a behavior has several.
    """
    found: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        attack, asked = answer.attempt.attack, answer.completion
        if attack in DRAWN and asked.kind == "harmful":
            found.setdefault(attack, {}).setdefault(asked.behavior, []).append(answer)
    most = {attack: max(map(len, of.values())) for attack, of in found.items()}
    return {f"{name}:best of {most[name]}": of for name, of in found.items() if most[name] > 1}


def load(folder: Path | str) -> Evaluation:
    """Read and join an evaluation folder. Raises UserError where something is missing."""
    folder = Path(folder)
    _check_files(folder)
    behaviors = {b.id: b for b in records.read(folder / "behaviors.jsonl", Behavior)}
    attempts = {a.id: a for a in records.read(folder / "attempts.jsonl", Attempt)}
    completions = records.read(folder / "completions.jsonl", Completion)
    _check_complete(folder, behaviors, attempts, completions)
    latest = _latest(records.read(folder / "verdicts.jsonl", Verdict))
    order = {attempt: place for place, attempt in enumerate(attempts)}
    completions.sort(key=lambda c: order[c.attempt])
    answers = [
        Answer(behaviors[c.behavior], attempts[c.attempt], c, latest.get(c.id, ()))
        for c in completions
    ]
    rows = folder / "likelihood.jsonl"
    return Evaluation(
        folder=folder,
        answers=tuple(answers),
        likelihoods=tuple(records.read(rows, Likelihood)) if rows.exists() else (),
        manifest=read_manifest(folder),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder. Raises UserError where it is missing or not JSON."""
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text, parse_constant=str)  # NaN is Python's, not JSON's
    except FileNotFoundError:
        raise UserError(f"{folder}: no manifest.json; run the stage that makes it again") from None
    except ValueError as error:
        raise UserError(f"{folder / 'manifest.json'}: not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("status", "done") != "done":
        raise UserError(f"{folder / 'manifest.json'}: the stage is not finished; run it again")
    return manifest


def _latest(verdicts: Iterable[Verdict]) -> dict[str, tuple[Verdict, ...]]:
    """The last verdict of each judge on each completion: a later judgement replaces one."""
    last = {(v.completion, v.judge): v for v in verdicts}
    found: dict[str, tuple[Verdict, ...]] = {}
    for (completion, _), verdict in sorted(last.items()):
        found[completion] = (*found.get(completion, ()), verdict)
    return found


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"no evaluation folder {folder}: evaluate the model first, or mend the path"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)}; {AGAIN}")


def _check_complete(
    folder: Path,
    behaviors: Mapping[str, Behavior],
    attempts: Mapping[str, Attempt],
    completions: Sequence[Completion],
) -> None:
    if any(c.attempt not in attempts or c.behavior not in behaviors for c in completions):
        raise UserError(
            f"{folder}: completions.jsonl answers attempts or behaviors that are not in the "
            "files beside it; evaluate into an empty folder"
        )
    left = len(attempts.keys() - {c.attempt for c in completions})
    if left or not attempts:
        raise UserError(f"{folder}: {left} of {len(attempts)} attempts have no completion; {AGAIN}")
