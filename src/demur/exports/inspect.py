"""An eval log of Inspect (UK AISI): every answer with its verdicts, for `inspect view`.

    inspect view --log-dir the/folder/of/the/file

Version 2 of its JSON log, name it ``*.json``. A sample is an attempt: its input is what the model
was told (a prefill is a begun assistant turn), its scores are each judge's label, ``unscored``
among them. A score's metrics are the shares of the labels among what was scored.
Source: inspect_ai 0.3.285, ``EvalLog``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from demur.errors import UserError
from demur.evaluated import Answer, Evaluation
from demur.exports import _answers
from demur.exports._answers import Wanted
from demur.records import Verdict, fingerprint

STOPS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}


def export(evaluation: Evaluation, wanted: Wanted) -> dict[str, Any]:
    """The log as JSON takes it, of all scenarios unless one is wanted. Raises UserError if none."""
    chosen = [a for a in evaluation.answers if wanted.scenario in (None, a.group[0])]
    if not chosen:
        known = ", ".join(dict.fromkeys(a.group[0] for a in evaluation.answers))
        raise UserError(f"{evaluation.folder}: no scenario {wanted.scenario!r}; it has: {known}")
    when = _answers.given(evaluation).isoformat()
    return {
        "version": 2,
        "status": "success",
        "eval": _spec(evaluation, wanted, chosen, when),
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}]},
        "results": _results(chosen),
        "stats": {"started_at": when, "completed_at": when},
        "samples": [_sample(answer, wanted.name) for answer in chosen],
    }


def _spec(
    evaluation: Evaluation, wanted: Wanted, chosen: Sequence[Answer], when: str
) -> dict[str, Any]:
    id = fingerprint(evaluation.manifest.get("inputs"), wanted.name, wanted.scenario)
    return {
        "eval_id": id,
        "run_id": id,
        "task_id": id,
        "created": when,
        "task": wanted.scenario or "demur",
        "dataset": {"name": "held-out behaviors", "samples": len(chosen)},
        "model": wanted.name,
        "config": {},
        "packages": evaluation.manifest.get("versions", {}),
        "metadata": {"judges": evaluation.judges},
    }


def _sample(answer: Answer, model: str) -> dict[str, Any]:
    told = [dict(message) for message in answer.attempt.messages]
    if answer.attempt.prefill:
        told.append({"role": "assistant", "content": answer.attempt.prefill})
    said = {"role": "assistant", "content": answer.completion.text, "source": "generate"}
    stop = STOPS[answer.completion.finish]
    return {
        "id": answer.attempt.id,
        "epoch": 1,
        "input": told,
        "target": answer.completion.expected or "",
        "messages": [*told, said],
        "output": {"model": model, "choices": [{"message": said, "stop_reason": stop}]},
        "scores": {verdict.judge: _score(verdict) for verdict in answer.verdicts},
        "metadata": {
            "scenario": answer.group[0],
            "kind": answer.completion.kind,
            "behavior": answer.behavior.prompt,
            "raw": answer.attempt.raw,
        },
    }


def _score(verdict: Verdict) -> dict[str, Any]:
    about = {"version": verdict.version, "score": verdict.score, **verdict.detail}
    return {"value": verdict.label, "explanation": verdict.reason or None, "metadata": about}


def _results(chosen: Sequence[Answer]) -> dict[str, Any]:
    said: dict[str, Counter[str]] = {}
    for verdict in (v for answer in chosen for v in answer.verdicts):
        said.setdefault(verdict.judge, Counter())[verdict.label] += 1
    scores = [_shares(judge, labels) for judge, labels in said.items()]
    return {"total_samples": len(chosen), "completed_samples": len(chosen), "scores": scores}


def _shares(judge: str, labels: Counter[str]) -> dict[str, Any]:
    unscored = labels.pop("unscored", 0)
    scored = labels.total()
    return {
        "name": judge,
        "scorer": judge,
        "scored_samples": scored,
        "unscored_samples": unscored,
        "metrics": {label: {"name": label, "value": n / scored} for label, n in labels.items()},
    }
