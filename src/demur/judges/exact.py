"""Is a task solved? The final answer is read strictly and held against the right one.

Only answers to tasks get a verdict. How an answer is read is told by the right one: a number after
``####`` (GSM8K), a letter (MMLU), else the whole text. An answer that cannot be read is `wrong`,
never `unscored`: a model that lost the form lost the task, and an accuracy over readable answers
alone would rise as a model breaks. A refused or looping answer is wrong for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from demur import answers
from demur.records import Completion, Verdict
from demur.settings import Settings as Base

VERSION = "exact/1"
LABELS = ("correct", "wrong")
TASKS = True


class Settings(Base):
    """Nothing to set."""


def judge(completions: Sequence[Completion], settings: Settings) -> Iterator[Verdict]:
    """A verdict for each answer to a task, in order: `correct` (score 1) or `wrong` (score 0).

    ``detail``: ``answer``, what was read (None: nothing could be).
    """
    for completion in completions:
        if completion.expected is not None:
            yield _verdict(completion, completion.expected)


def _verdict(completion: Completion, right: str) -> Verdict:
    found, wanted = answers.final(completion.text, right), answers.final(right, right)
    correct = found is not None and found == wanted
    return Verdict(
        completion=completion.id,
        label="correct" if correct else "wrong",
        judge="exact",
        version=VERSION,
        score=float(correct),
        reason=f"{found or 'no answer'} for {wanted}"[:100] if not correct else "",
        detail={"answer": found},
    )
