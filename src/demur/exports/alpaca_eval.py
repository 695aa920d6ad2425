"""AlpacaEval's model outputs: what a judge of helpfulness compares with a reference's answers.

    alpaca_eval --model_outputs model_outputs.json

A list of ``{"dataset", "instruction", "output", "generator"}``, the answers to everyday requests
asked plainly. To be compared with its leaderboard the requests must be AlpacaEval's own 805, given
under ``data.heldout.everyday``: the file pairs answers by their instruction.
Source: tatsu-lab/alpaca_eval 0.6.6.
"""

from __future__ import annotations

from demur.evaluated import Evaluation
from demur.exports import _answers
from demur.exports._answers import Wanted


def export(evaluation: Evaluation, wanted: Wanted) -> list[dict[str, str]]:
    """One object an answer. Raises UserError if no everyday request was asked so."""
    return [
        {
            "dataset": answer.behavior.source or "demur",
            "instruction": answer.behavior.prompt,
            "output": answer.completion.text,
            "generator": wanted.name,
        }
        for answer in _answers.answers(evaluation, wanted.scenario or "direct", "everyday")
    ]
