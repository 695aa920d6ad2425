"""What a reader must know before comparing: judges, questions and templates that differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from demur import measures, outcomes
from demur.errors import UserError
from demur.evaluated import Evaluation
from demur.report import compare, transcripts, words
from demur.report.runs import Training


def judges(evaluations: Mapping[str, Evaluation], force: bool) -> dict[str, str]:
    """Each judge and its version. Raises UserError where versions differ, unless ``force``."""
    found = _versions(evaluations)
    mixed = [judge for judge, versions in found.items() if len(versions) > 1]
    if mixed and not force:
        raise UserError(
            f"judge {mixed[0]!r} has versions {' and '.join(found[mixed[0]])} in "
            f"{', '.join(map(repr, evaluations))}: judge them again with one version, or force "
            "the comparison"
        )
    return {judge: " and ".join(versions) for judge, versions in found.items()}


def _versions(evaluations: Mapping[str, Evaluation]) -> dict[str, list[str]]:
    """Each judge's versions, sorted by judge, in the order of the evaluations."""
    seen = [(j, v) for e in evaluations.values() for j, of in e.judges.items() for v in of]
    return {
        judge: list(dict.fromkeys(v for j, v in seen if j == judge)) for judge, _ in sorted(seen)
    }


def warnings(evaluations: Mapping[str, Evaluation], primary: str) -> list[str]:
    """Notes in plain words, none where everything agrees and everything was scored."""
    first, *others = evaluations.items()
    mixed = [
        f"Judge {judge} compared across versions: {' and '.join(versions)}."
        for judge, versions in _versions(evaluations).items()
        if len(versions) > 1
    ]
    asked = [note for other in others for note in _asked(first, other)]
    doubt = [note for name, e in evaluations.items() if (note := _unscored(name, e, primary))]
    left = dict.fromkeys(n for e in evaluations.values() for n in e.manifest.get("notes", ()))
    return [*_estimate(primary), *left, *mixed, *_templates(evaluations), *asked, *doubt]


def _estimate(primary: str) -> list[str]:
    if primary not in outcomes.ESTIMATES:
        return []
    return [
        f"Harm is an offline estimate here, by the judge {primary} from the form of an answer; its "
        "error against people's labels is in docs/calibration.md."
    ]


def corrections(evaluations: Iterable[Evaluation], primary: str) -> dict[str, str]:
    """By judge, the errors that some rates are corrected for, in words."""
    return {
        errors.version.partition("/")[0]: str(errors)
        for evaluation in evaluations
        for errors in measures.errors(evaluation, primary).values()
    }


def template(evaluations: Mapping[str, Evaluation]) -> str | None:
    """The chat template's hash that all evaluations share, or None."""
    hashes = {e.manifest.get("chat_template") for e in evaluations.values()}
    return hashes.pop() if len(hashes) == 1 else None


def _templates(evaluations: Mapping[str, Evaluation]) -> list[str]:
    if len({str(e.manifest.get("chat_template")) for e in evaluations.values()}) == 1:
        return []
    return ["The chat templates differ between these models; some differences may be theirs."]


def _asked(first: tuple[str, Evaluation], other: tuple[str, Evaluation]) -> list[str]:
    both, either = compare.shared(first[1], other[1])
    if both == either:
        return []
    said = [f"{first[0]} and {other[0]} were asked {both} of {either} attempts in common."]
    left = zip((first, other), compare.unpaired(first[1], other[1]), strict=True)
    alone = [f"{n} of {len(e.answers)} of {name}" for (name, e), n in left if n]
    if alone:
        said.append(f"Answers without a counterpart, in no difference: {', '.join(alone)}.")
    return said


def _unscored(name: str, evaluation: Evaluation, primary: str) -> str:
    doubtful = sum(transcripts.doubtful(answer, primary) for answer in evaluation.answers)
    if not doubtful:
        return ""
    return f"{doubtful} of {len(evaluation.answers)} answers of {name} could not be scored."


def lookalikes(training: Mapping[str, Training]) -> list[str]:
    """Whether each training saw look-alikes: its low over-refusal is then partly taught."""
    return [_lookalikes(name, run.lookalikes) for name, run in training.items()]


def _lookalikes(name: str, seen: int | None) -> str:
    if seen is None:
        return f"{name}: the training manifest does not say whether look-alikes were trained on."
    if not seen:
        return f"{name}: no look-alikes were trained on; how it treats them is generalisation."
    were = "was" if seen == 1 else "were"
    return (
        f"{name}: {words.many(seen, 'look-alike')} {were} trained on (others than those asked "
        "here), so that answering them was partly taught."
    )


def effort(training: Mapping[str, Training]) -> list[str]:
    """How long each run trained, in steps and examples."""
    return [_effort(name, run) for name, run in training.items()]


def _effort(name: str, run: Training) -> str:
    seen = run.examples
    counts = f" on {words.many(sum(seen.values()), 'example')} ({_counts(seen)})" if seen else ""
    recipe = f" ({run.manifest['recipe']})" if "recipe" in run.manifest else ""
    return f"Training of {name}{recipe}: {words.many(run.steps, 'step')}{counts}."


def _counts(seen: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in seen.items())


def recipes(names: Sequence[str], training: Mapping[str, Training]) -> list[str]:
    """What a sentence adds to each model's name: the recipe where the name is `after`, else ""."""
    known = {words.line(name): run.manifest.get("recipe") for name, run in training.items()}
    return [str(known.get(name) or "") if name == "after" else "" for name in names]
