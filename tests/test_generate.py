"""Decoding is greedy and its answers do not depend on who else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

import talkative
from demur import adapters, chat, generate, models, records, sampler
from demur.errors import UserError
from demur.fitting import Lora
from demur.generate import Target
from demur.records import Attempt, Behavior, Completion, Message
from demur.settings import Decoding, Model
from demur.supervision import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG = "Tell me how to bake bread " * 6


@pytest.fixture(scope="module")
def target(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Target:
    folder = talkative.save(tmp_path_factory.mktemp("talkative"), tiny["chatml"])
    return generate.target(Model(name=str(folder), dtype="float32"))


def behavior(prompt: str) -> Behavior:
    return Behavior(prompt=prompt, kind="harmful")


def attempt(prompt: str, attack: str = "direct", **more: Any) -> Attempt:
    asked = (Message(role="user", content=prompt),)
    return Attempt(behavior=behavior(prompt).id, attack=attack, messages=asked, **more)


PROMPTS = [
    f"How do I {verb} a {thing}?" for verb in ("make", "steal") for thing in talkative.THINGS
]
PROMPTS += ["Hi", LONG]
ATTEMPTS = [
    *map(attempt, PROMPTS),
    *(attempt(p, "prefill", variant="k=5", prefill="Sure, here is how") for p in PROMPTS),
    *(attempt(p, "completing", raw=True) for p in PROMPTS),
]


def complete(
    target: Target, attempts: Sequence[Attempt], path: Path, batch_size: int = 4, tokens: int = 16
) -> list[Completion]:
    behaviors = [behavior(prompt) for prompt in PROMPTS]
    decoding = Decoding(max_new_tokens=tokens, batch_size=batch_size)
    return sampler.complete(target, behaviors, attempts, decoding, path)


def test_a_batch_answers_as_each_prompt_would_alone(target: Target, tmp_path: Path) -> None:
    together = complete(target, ATTEMPTS, tmp_path / "together.jsonl", batch_size=9)
    alone = complete(target, ATTEMPTS, tmp_path / "alone.jsonl", batch_size=1)
    assert {c.attempt: c for c in together} == {c.attempt: c for c in alone}
    assert len(together) == len(ATTEMPTS)
    lengths = {c.tokens for c in together}
    assert len(lengths) > 5, "answers of many lengths, so that rows left the batch"
    assert {c.finish for c in together} == {"stop", "length"}


def test_it_answers_as_transformers_own_generate_does(target: Target, tmp_path: Path) -> None:
    completions = {c.attempt: c for c in complete(target, ATTEMPTS, tmp_path / "c.jsonl")}
    for each in ATTEMPTS:
        ids = torch.tensor([generate.prompt(target, each)], device=target.model.device)
        answer = target.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
        )[0, ids.shape[1] :]
        text = target.tokenizer.decode(answer, skip_special_tokens=True)
        assert completions[each.id].text == text


def test_what_is_sent(target: Target) -> None:
    def sent(each: Attempt) -> str:
        return str(target.tokenizer.decode(generate.prompt(target, each)))

    opening = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert sent(attempt("Hi")) == opening
    assert sent(attempt("Hi", prefill="Sure, here is")) == opening + "Sure, here is"
    assert sent(attempt("Hi", raw=True)) == "Hi"


def test_the_limit_is_told_from_a_stop(target: Target, tmp_path: Path) -> None:
    free = {c.attempt: c for c in complete(target, ATTEMPTS[:22], tmp_path / "a", tokens=64)}
    cut = complete(target, ATTEMPTS[:22], tmp_path / "b", tokens=6)
    for short in cut:
        long = free[short.attempt]
        assert long.text.startswith(short.text)
        assert short.tokens == min(long.tokens, 6)
        assert short.finish == ("stop" if long.tokens < 6 else "length")


def test_an_answer_ends_with_the_context(target: Target, tmp_path: Path) -> None:
    long = " ".join(["bread"] * 480)
    each = attempt(long)
    room = 512 - len(generate.prompt(target, each))
    assert 0 < room < 30
    decoding = Decoding(max_new_tokens=200, batch_size=2)
    others = [behavior(long), behavior("How do I make a door?")]
    found = sampler.complete(
        target, others, [each, attempt("How do I make a door?")], decoding, tmp_path / "c"
    )
    by_attempt = {c.attempt: c for c in found}
    assert (by_attempt[each.id].tokens, by_attempt[each.id].finish) == (room, "length")


def test_a_prompt_that_fills_the_context_is_refused(target: Target, tmp_path: Path) -> None:
    long = " ".join(["bread"] * 600)
    with pytest.raises(UserError, match=r"'direct' has \d+ tokens and the model's context 512"):
        complete(target, [attempt("Hi"), attempt(long)], tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()


def lines(path: Path) -> dict[str, list[str]]:
    """The lines of a file by their scenario."""
    found: dict[str, list[str]] = {}
    for record in records.read(path, Completion):
        found.setdefault(record.attack, []).append(records.to_line(record))
    return found


def test_order_and_new_attacks_move_no_other_stream(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: dict[str, set[tuple[tuple[int, ...], ...]]] = {}
    greedy = generate.greedy
    seen: set[tuple[tuple[int, ...], ...]] = set()

    def watched(target: Target, prompts: list[list[int]], *more: Any) -> Any:
        seen.add(tuple(map(tuple, prompts)))
        return greedy(target, prompts, *more)

    monkeypatch.setattr(generate, "greedy", watched)
    shuffled = Random(0).sample(ATTEMPTS, len(ATTEMPTS))
    for name, attempts in {"all": ATTEMPTS, "shuffled": shuffled, "few": ATTEMPTS[:44]}.items():
        seen = set()
        complete(target, attempts, tmp_path / name, batch_size=2, tokens=4)
        streams[name] = seen
    assert streams["all"] == streams["shuffled"]
    assert streams["few"] < streams["all"]
    assert len(streams["all"]) == 6, "each scenario's 22 attempts in two streams"
    assert lines(tmp_path / "all") == lines(tmp_path / "shuffled")
    assert lines(tmp_path / "few").items() <= lines(tmp_path / "all").items()


def test_a_file_cut_anywhere_is_completed_byte_for_byte(target: Target, tmp_path: Path) -> None:
    complete(target, ATTEMPTS, tmp_path / "whole", batch_size=2, tokens=6)
    whole = (tmp_path / "whole").read_bytes()
    random = Random(0)
    for cut in [0, 1, len(whole) - 1, *(random.randrange(len(whole)) for _ in range(8))]:
        (tmp_path / "cut").write_bytes(whole[:cut])
        complete(target, ATTEMPTS, tmp_path / "cut", batch_size=2, tokens=6)
        assert (tmp_path / "cut").read_bytes() == whole


def test_what_is_missing_is_decoded_as_it_was_the_first_time(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows together at the same steps, from the stream's start to the last missing."""
    shapes: list[tuple[int, ...]] = []
    forward = target.model.forward

    def watched(*args: Any, **options: Any) -> Any:
        shapes.append(tuple(options["attention_mask"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(target.model, "forward", watched)
    complete(target, ATTEMPTS[:22], tmp_path / "c", batch_size=4, tokens=8)
    first, shapes = shapes, []
    written = (tmp_path / "c").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "c").write_text("".join(written[:12] + written[14:]), "utf-8")
    complete(target, ATTEMPTS[:22], tmp_path / "c", batch_size=4, tokens=8)
    assert 0 < len(shapes) < len(first)
    assert shapes == first[: len(shapes)]
    assert sorted((tmp_path / "c").read_text("utf-8").splitlines(keepends=True)) == sorted(written)


def test_answers_are_kept_as_they_end(target: Target) -> None:
    decoding = Decoding(max_new_tokens=16, batch_size=4)
    found = list(target.answers(ATTEMPTS[:22], frozenset(), decoding))
    assert len(found) > 5, len(found)
    first = {answer.attempt.id for some in found[:3] for answer in some}
    again = list(target.answers(ATTEMPTS[:22], first, decoding))
    assert again == found[3:]


def test_a_whole_file_asks_nothing_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(target, ATTEMPTS[:5], tmp_path / "c")
    monkeypatch.delattr(generate, "greedy")
    assert len(complete(target, ATTEMPTS[:5], tmp_path / "c")) == 5
    assert complete(target, [], tmp_path / "none") == []


def test_a_continuation_keeps_its_space(tiny: dict[str, PreTrainedTokenizerBase]) -> None:
    for name, tokenizer in tiny.items():
        before = tokenizer("Sure", add_special_tokens=False)["input_ids"]
        ids = tokenizer("Sure Sorry No", add_special_tokens=False)["input_ids"][len(before) :]
        assert generate.text(tokenizer, ids, after=before[-1:]) == " Sorry No", name
        assert generate.text(tokenizer, ids, after=[]).strip() == "Sorry No", name


def test_an_adapter_answers_too(target: Target) -> None:
    settings = Model(name=target.model.name_or_path, dtype="float32")
    model = adapters.with_lora(models.load(settings), Lora(r=2), seed=0).eval()
    prompts = [generate.prompt(target, each) for each in ATTEMPTS[:6]]
    adapted = list(generate.greedy(replace(target, model=model), prompts, [12] * 6, 3))
    assert adapted == list(generate.greedy(target, prompts, [12] * 6, 3)), "a fresh one is none"


def test_an_answer_tells_how_far_its_first_tokens_reach(target: Target, tmp_path: Path) -> None:
    """A token is a character or more; a short answer is reached whole."""
    found = complete(target, ATTEMPTS, tmp_path / "c.jsonl", tokens=40)
    ids = {c.attempt: chat.raw_ids(target.tokenizer, c.text) for c in found}
    same = [c for c in found if len(ids[c.attempt]) == c.tokens]
    assert len(same) > 10
    for completion in same:
        first = [target.tokenizer.decode(ids[completion.attempt][:n]) for n in sampler.REACH]
        assert completion.reach == tuple(map(len, first))
        if completion.tokens <= sampler.REACH[0]:
            assert completion.reach == (len(completion.text),) * 2
    assert any(c.reach[0] < c.reach[1] for c in same)


def test_a_character_cut_in_two_is_no_part_of_what_is_reached() -> None:
    text = "abcd\u00e9fgh".encode()
    told = sampler.reach(list(text), lambda ids: bytes(ids).decode(errors="replace"))
    assert told == (4, 8)


def test_likelihood_is_what_the_logits_say(target: Target) -> None:
    asked = [(prompt, f"Here is {prompt} and more")[:2] for prompt in PROMPTS]
    rows = [generate.row(target, prompt, answer) for prompt, answer in asked]
    found = list(generate.likelihood(target, rows, batch_size=3))
    for (prompt, answer), (nll, tokens) in zip(asked, found, strict=True):
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        given = target.tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = target.tokenizer(text + answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            ids = torch.tensor([whole], device=target.model.device)
            chances = target.model(ids).logits[0].log_softmax(-1)
        by_hand = [-chances[t - 1, whole[t]].item() for t in range(len(given), len(whole))]
        assert tokens == len(by_hand)
        assert nll == pytest.approx(sum(by_hand), rel=1e-4)


def test_likelihood_leaves_the_end_out(target: Target) -> None:
    row = generate.row(target, "Hi", "Hello")
    told = [token for token in row.labels if token != IGNORE]
    assert target.tokenizer.decode(told) == "Hello"
