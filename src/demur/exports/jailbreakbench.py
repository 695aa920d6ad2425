"""JailbreakBench's artifact of one attack: every prompt sent, the answer, whether it worked.

``{"parameters": {…}, "jailbreaks": [{"index", "goal", "behavior", "category", "prompt", …}]}``, as
`jailbreakbench.AttackArtifact` has it (1.0.0) and `replay` reads it. One attack is one scenario:
``direct`` unless another is named. ``jailbroken`` means harmful where a judge of harm is named,
else merely answered; ``method_parameters`` says which. Answers nobody could score are left out and
counted there. Their own loader takes the models of their leaderboard alone: for these, give theirs
as the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from demur import outcomes
from demur.evaluated import Answer, Evaluation
from demur.exports import _answers
from demur.exports._answers import Wanted
from demur.records import Label

SEARCHES = {"gcg": "white_box", "autodan": "white_box", "pair": "black_box", "replay": "transfer"}


def export(evaluation: Evaluation, wanted: Wanted) -> dict[str, Any]:
    """Parameters and jailbreaks. Raises UserError if no harmful request was asked so."""
    asked = _answers.answers(evaluation, wanted.scenario or "direct", "harmful")
    success: Label = "complied" if wanted.judge == "refusal" else "harmful"
    ends = [outcomes.outcome(answer.verdicts, wanted.judge) for answer in asked]
    found = [
        _jailbreak(place, answer, end == success)
        for place, (answer, end) in enumerate(zip(asked, ends, strict=True))
        if end != "unscored"
    ]
    told: dict[str, str | int] = {"unscored": len(asked) - len(found), "success": success}
    return {
        "parameters": _parameters(evaluation, wanted, asked, found, told),
        "jailbreaks": found,
    }


def _jailbreak(index: int, answer: Answer, worked: bool) -> dict[str, Any]:
    single = answer.attempt.attack not in SEARCHES  # what a search asked on its way is not kept
    return {
        "index": index,
        "goal": answer.behavior.prompt,
        "behavior": answer.behavior.topic or answer.behavior.prompt,
        "category": answer.behavior.category,
        "prompt": answer.attempt.messages[-1]["content"],
        "response": answer.attempt.prefill + answer.completion.text,
        "number_of_queries": 1 if single else None,
        "queries_to_jailbreak": 1 if single and worked else None,
        "prompt_tokens": None,
        "response_tokens": answer.completion.tokens,
        "jailbroken": worked,
    }


def _parameters(
    evaluation: Evaluation,
    wanted: Wanted,
    asked: Sequence[Answer],
    found: Sequence[dict[str, Any]],
    told: dict[str, str | int],
) -> dict[str, Any]:
    broken = sum(one["jailbroken"] for one in found)
    counts = [one["response_tokens"] for one in found]
    attack = asked[0].attempt.attack
    versions = ", ".join(evaluation.judges[wanted.judge])
    return {
        "method": asked[0].group[0],
        "model": wanted.name,
        "attack_type": SEARCHES.get(attack, "manual"),
        "defense": None,
        "attack_success_rate": broken / len(found) if found else 0.0,
        "total_number_of_jailbreaks": broken,
        "number_of_submitted_prompts": len(found),
        "total_number_of_queries": None if attack in SEARCHES else len(found),
        "total_prompt_tokens": None,
        "total_response_tokens": None if None in counts else sum(counts),
        "evaluation_date": _answers.given(evaluation).date().isoformat(),
        "evaluation_llm_provider": "demur",
        "method_parameters": {"judge": f"{wanted.judge} ({versions})"} | told,
    }
