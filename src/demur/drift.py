"""How far a model has moved from the one it started from, token by token of its own answers.

One model is in memory at a time: of the one under test only its last hidden states and its
output layer are kept, from which its distributions come back exactly.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from demur import chat, generate, heads
from demur.asking import Drifting
from demur.generate import Target
from demur.heads import Head
from demur.language import Drift
from demur.records import Attempt, Completion, Kind
from demur.settings import Model
from demur.supervision import Row

CHUNK = 256  # positions whose two distributions over the vocabulary are held at once


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A model along its own answers: to each a row, states [tokens, d] on the CPU, and labels."""

    completions: Sequence[Completion]
    rows: Sequence[Row]
    seen: Sequence[tuple[torch.Tensor, torch.Tensor]]
    head: Head


def trace(
    target: Target,
    attempts: Iterable[Attempt],
    completions: Iterable[Completion],
    settings: Drifting,
) -> Trace:
    """The model along its answers to what was asked plainly, ``limit`` a scenario and kind."""
    chosen = _chosen(attempts, completions, settings)
    rows = [_row(target, attempt, completion) for attempt, completion in chosen]
    seen = [(states.cpu(), labels.cpu()) for states, labels in generate.hidden(target, rows)]
    return Trace([c for _, c in chosen], rows, seen, heads.head(target.model))


def _chosen(
    attempts: Iterable[Attempt], completions: Iterable[Completion], settings: Drifting
) -> list[tuple[Attempt, Completion]]:
    """In a chat turn with nothing put in the model's mouth, and answered with some words."""
    answers = {c.attempt: c for c in completions if c.text.strip() and c.kind in settings.kinds}
    groups: dict[tuple[str, str, Kind], list[tuple[Attempt, Completion]]] = {}
    for attempt in attempts:
        if (answer := answers.get(attempt.id)) and not (attempt.raw or attempt.prefill):
            same = groups.setdefault((attempt.attack, attempt.variant, answer.kind), [])
            same.append((attempt, answer))
    return [pair for same in groups.values() for pair in same[: settings.limit]]


def _row(target: Target, attempt: Attempt, completion: Completion) -> Row:
    """The prompt as it was sent, then the answer's text as far as the context takes it."""
    prompt = generate.prompt(target, attempt)
    answer = chat.raw_ids(target.tokenizer, completion.text)
    answer = answer[: generate.context_of(target) - len(prompt)]
    return Row("answer").tell(prompt).tell(answer, learn=answer)


def measure(trace: Trace, start: Model | None) -> Iterator[Drift]:
    """Every traced answer under both models; without ``start`` the model is its own start.

    Raises UserError if the starting model cannot be loaded.
    """
    if start is None:
        head, theirs = trace.head, iter(trace.seen)
    else:
        gc.collect()  # what is left of the other model
        other = generate.target(start)
        head, theirs = heads.head(other.model), generate.hidden(other, trace.rows)
    for completion, (mine, ids), (states, _) in zip(
        trace.completions, trace.seen, theirs, strict=True
    ):
        nll, start_nll, kl = _compare(trace.head, mine, head, states, ids)
        yield Drift(completion=completion.id, tokens=len(ids), nll=nll, start_nll=start_nll, kl=kl)


@torch.inference_mode()
def _compare(
    head: Head, states: torch.Tensor, other: Head, theirs: torch.Tensor, ids: torch.Tensor
) -> tuple[float, float, float]:
    """Summed over positions: both models' NLL of ``ids`` [n], and KL(model ‖ other), in nats."""
    sums = torch.zeros(3, dtype=torch.float64)
    for at in range(0, len(ids), CHUNK):
        p, q = _log_p(head, states[at : at + CHUNK]), _log_p(other, theirs[at : at + CHUNK])
        said = ids[at : at + CHUNK, None].to(p.device)
        kl = (p.exp() * (p - q)).sum()
        sums += torch.stack([-p.gather(1, said).sum(), -q.gather(1, said).sum(), kl]).cpu()
    nll, start_nll, kl = sums.tolist()
    return nll, start_nll, max(kl, 0.0)


def _log_p(head: Head, states: torch.Tensor) -> torch.Tensor:
    device = next(head.module.parameters()).device
    return head(states.to(device)).float().log_softmax(-1)
