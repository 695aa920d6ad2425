"""A full batch says what each prompt alone would be answered, and leaves no place empty."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
)

from demur import decoding

STOP, VOCABULARY, LIMIT, SIZE = frozenset({1, 2, 3}), 32, 24, 8
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
PLAIN = {"llama": LlamaConfig(**SMALL)}
OTHERS = {
    "sliding": MistralConfig(**SMALL, sliding_window=6),
    "recurrent": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "alibi": BloomConfig(**SMALL, n_layer=2, n_head=4, tie_word_embeddings=False),
}


def model(config: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return made


def prompts(count: int = 40, opening: int = 0) -> list[list[int]]:
    """Random ids of 2 to 12 after the same ones."""
    random = Random(0)

    def some(length: int) -> list[int]:
        return [random.randrange(4, VOCABULARY) for _ in range(length)]

    shared = some(opening)
    return [shared + some(random.randint(2, 12)) for _ in range(count)]


def answers(asked: PreTrainedModel, given: list[list[int]], size: int = SIZE) -> list[list[int]]:
    limits = [LIMIT - place % 3 for place in range(len(given))]
    ended = decoding.greedy(asked, given, limits, stop=STOP, pad=0, size=size)
    found = dict(answer for some in ended for answer in some)
    assert len(found) == len(given)
    return [found[place] for place in range(len(given))]


@torch.no_grad()
def by_hand(asked: PreTrainedModel, prompt: list[int], limit: int) -> list[int]:
    """No cache, no padding."""
    said: list[int] = []
    while len(said) < limit:
        logits = asked(torch.tensor([prompt + said]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in STOP:
            break
        said.append(token)
    return said


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[PreTrainedModel], list[dict[str, Any]]]:
    def watched(asked: PreTrainedModel) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        forward = asked.forward

        def noted(*args: Any, **options: Any) -> Any:
            calls.append(options)
            return forward(*args, **options)

        monkeypatch.setattr(asked, "forward", noted)
        return calls

    return watched


@pytest.mark.parametrize("opening", [0, 40])
@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_it_says_what_each_prompt_alone_is_answered(name: str, opening: int) -> None:
    asked, given = model((PLAIN | OTHERS)[name]), prompts(opening=opening)
    expected = [by_hand(asked, p, LIMIT - place % 3) for place, p in enumerate(given)]
    assert len(set(map(len, expected))) > 6, "answers of many lengths"
    assert answers(asked, given) == expected


@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_batch_of_any_size_says_the_same(size: int) -> None:
    asked, given = model(PLAIN["llama"]), prompts(opening=20)
    assert answers(asked, given, size) == answers(asked, given)


def test_which_models_refill() -> None:
    assert all(decoding.can_refill(model(config)) for config in PLAIN.values())
    assert not any(decoding.can_refill(model(config)) for config in OTHERS.values())


def test_the_batch_stays_full_while_prompts_wait(watch: Any) -> None:
    asked, given = model(PLAIN["llama"]), prompts()
    calls = watch(asked)
    answers(asked, given)
    last = max(i for i, call in enumerate(calls) if call["input_ids"].shape[1] > 1)
    rows = [len(call["input_ids"]) for call in calls]
    assert all(n > SIZE * 3 / 4 for n, c in zip(rows, calls[:last], strict=False) if one(c))
    assert all(n >= SIZE / 4 for n, c in zip(rows, calls[:last], strict=False) if not one(c))
    assert rows[last + 1 :] == sorted(rows[last + 1 :], reverse=True)
    assert rows[-1] < SIZE / 2, "nobody waits: it shrinks"


def one(call: dict[str, Any]) -> bool:
    """Whether the call is a step: one token of each row."""
    return bool(call["input_ids"].shape[1] == 1)


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_fill_it_when_it_is_empty(name: str, watch: Any) -> None:
    asked, given = model(OTHERS[name]), prompts(20)
    calls = watch(asked)
    answers(asked, given)
    assert [len(c["input_ids"]) for c in calls if not one(c)] == [8, 8, 4]


def test_the_cache_is_no_wider_than_its_longest_row(watch: Any) -> None:
    asked, given = model(PLAIN["llama"]), [*prompts(), *([5] * 60, [6] * 50)]
    given = [given[-2], *given[:-2], given[-1]]
    calls = watch(asked)
    answers(asked, given)
    steps = [call["attention_mask"] for call in calls if one(call)]
    assert all(int(mask.sum(1).max()) == mask.shape[1] for mask in steps)
    assert min(mask.shape[1] for mask in steps) < 20


def test_a_common_opening_is_read_once(watch: Any) -> None:
    asked, given = model(PLAIN["llama"]), prompts(opening=30)
    calls = watch(asked)
    answers(asked, given)
    assert calls[0]["input_ids"].tolist() == [given[0][:30]]
    assert max(call["input_ids"].shape[1] for call in calls[1:]) <= 12
    calls.clear()
    short = prompts(opening=decoding.SHARED - 1)
    answers(asked, short)
    assert len(calls[0]["input_ids"]) == SIZE, "a short one is not worth it"


def test_equal_prompts_keep_a_token_to_go_on_from() -> None:
    asked, given = model(PLAIN["llama"]), [[5] * 20, [5] * 20, [5] * 30]
    assert answers(asked, given) == [by_hand(asked, p, LIMIT - i) for i, p in enumerate(given)]
