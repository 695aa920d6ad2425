"""Rows in one sequence: nothing changes but the layout, and a model that would is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, modeling_flash_attention_utils

from demur import objective, packing, supervision, terms, training
from demur.errors import UserError
from demur.fitting import Fit, Train
from demur.records import Example, Message
from demur.supervision import Row

WIDTHS = (7, 12, 1, 9)  # a row of one token too: it has nothing to attend to but itself


def rows(*lengths: int, vocabulary: int = 60, seed: int = 0) -> list[Row]:
    """Rows of random tokens, every one of them learnt."""
    random = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, vocabulary, (n,), generator=random).tolist() for n in lengths]
    return [Row("learn").tell(told, learn=told) for told in ids]


def small(family: str, attention: str = "sdpa", **options: Any) -> Any:
    """A random model, its weights large enough for a difference to show."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    settings = AutoConfig.for_model(family, **shape | options)
    model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention).eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    return model


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    found: torch.Tensor = model.get_decoder()(**packing.inputs(batch)).last_hidden_state
    return found


def packed(model: Any, told: Sequence[Row], attention: str = packing.DOCUMENTS) -> torch.Tensor:
    with torch.no_grad(), packing.attending(model, attention):
        return hidden(model, packing.pack(told))[0]


def alone(model: Any, told: Sequence[Row]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([hidden(model, supervision.collate([row], 0))[0] for row in told])


# --- the layout ------------------------------------------------------------------------------


def test_rows_lie_end_to_end_and_none_is_predicted_from_the_one_before():
    told = [
        Row("learn").tell([5, 6]).tell([7], learn=[7]),
        Row("transition").tell([8, 4], learn=[9, 9], avoid=[8, 4]),
    ]
    batch = {name: values.tolist() for name, values in packing.pack(told).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 4]],
        "position_ids": [[0, 1, 2, 0, 1]],
        "labels": [[-100, -100, 7, -100, 9]],
        "avoid": [[-100, -100, -100, -100, 4]],
        "row": [[0, 0, 0, 1, 1]],
        "ends": [0, 3, 5],
        "transition": [False, True],
    }


def test_a_padded_batch_is_given_with_its_mask():
    batch = supervision.collate(rows(3, 5), 0)
    assert packing.inputs(batch).keys() == {"input_ids", "attention_mask"}


# --- what a row sees -------------------------------------------------------------------------

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "cohere": {},
    "mixtral": {"num_local_experts": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_in_a_pack_is_a_row_alone(family: str) -> None:
    model = small(family, **FAMILIES[family])
    fit = Fit(max_length=max(WIDTHS))
    assert packing.chosen(model, fit, bf16=False) == packing.DOCUMENTS
    expected = alone(model, rows(*WIDTHS))
    torch.testing.assert_close(packed(model, rows(*WIDTHS)), expected, rtol=1e-5, atol=1e-5)


def test_a_change_in_one_row_is_seen_in_no_other():
    model, told = small("llama"), rows(*WIDTHS)
    before = packed(model, told)
    after = packed(model, [rows(7, seed=1)[0], *told[1:]])
    assert (before[:7] != after[:7]).any()
    assert torch.equal(before[7:], after[7:])


def test_each_row_is_one_call_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], F.scaled_dot_product_attention

    def watched(query: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        seen.append((query.shape[2], options["attn_mask"]))
        return real(query, *given, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    packed(small("llama"), rows(*WIDTHS))
    assert seen == [(length, None) for length in WIDTHS] * 2  # layers


def test_a_model_that_hands_no_lengths_down_is_stopped():
    model = small("llama")
    ids = torch.tensor([[3, 4, 5]])
    with packing.attending(model, packing.DOCUMENTS), pytest.raises(UserError) as error:
        model(input_ids=ids)
    assert str(error.value) == "LlamaAttention cannot be packed: set train.packing=false"


def test_flash_attention_is_told_where_rows_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel needs a GPU; what it is called with does not.
    def kernel(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, **more):
        assert (max_seqlen_q, max_seqlen_k, causal) == (max(WIDTHS), max(WIDTHS), True)
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist() == [0, 7, 19, 20, 29]
        parts = (x.transpose(0, 1).split(WIDTHS, dim=1) for x in (q, k, v))
        options = {"is_causal": True, "enable_gqa": True, "scale": more["softmax_scale"]}
        found = [
            F.scaled_dot_product_attention(*row, **options) for row in zip(*parts, strict=True)
        ]
        return torch.cat(found, dim=1).transpose(0, 1)

    loaded = modeling_flash_attention_utils
    monkeypatch.setattr(loaded, "_loaded_implementation", None)
    monkeypatch.setattr(loaded, "_lazy_imports", lambda *_, **__: (None, kernel, None, None, None))
    model, told = small("llama"), rows(*WIDTHS)
    expected = alone(model, told)
    model.config._attn_implementation_internal = packing.FLASH
    with torch.no_grad():
        found = hidden(model, packing.pack(told))[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_experts_are_balanced_over_the_same_tokens():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model, told = small("mixtral", **experts), rows(*WIDTHS)
    padded = model(**packing.inputs(supervision.collate(told, 0))).aux_loss
    with packing.attending(model, packing.DOCUMENTS):
        found = model(**packing.inputs(packing.pack(told))).aux_loss
    assert found.item() == pytest.approx(padded.item(), rel=1e-5)


# --- where rows cannot be packed -------------------------------------------------------------

LINEAR = {
    "layer_types": ["conv", "full_attention"],
    "conv_L_cache": 3,
    "block_multiple_of": 8,
}
OBSTACLES = {
    "eager": (("llama", "eager", {}), "LlamaForCausalLM has an attention of its own"),
    "interface": (("bloom", "eager", {}), "BloomForCausalLM has an attention of its own"),
    "convolution": (("lfm2", "sdpa", LINEAR), "Lfm2ForCausalLM has layers that see more than"),
    "state": (("mamba", "eager", {"state_size": 4}), "MambaForCausalLM has an attention of its"),
    "window": (
        ("mistral", "sdpa", {"sliding_window": 8, "head_dim": 8}),
        "a row may have 12 tokens, and its attention sees 8",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_packed_is_padded_and_said(name: str, capsys: Any) -> None:
    (family, attention, options), reason = OBSTACLES[name]
    model = small(family, attention, **options)
    assert packing.chosen(model, Fit(max_length=12), bf16=False) is None
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("rows are padded, not packed: " + reason)
    with pytest.raises(UserError) as error:
        packing.chosen(model, Fit(max_length=12, packing=True), bf16=False)
    assert str(error.value).startswith("train.packing=true, but " + reason)
    assert str(error.value).endswith(": set train.packing=false")


def test_a_window_that_rows_fit_into_is_no_obstacle():
    model = small("mistral", sliding_window=12, head_dim=8)
    assert packing.chosen(model, Fit(max_length=12), bf16=False) == packing.DOCUMENTS
    unused = small("qwen2", sliding_window=4, use_sliding_window=False)
    assert packing.chosen(unused, Fit(max_length=12), bf16=False) == packing.DOCUMENTS


def test_code_that_comes_with_a_model_is_not_trusted_to_keep_rows_apart():
    model = small("llama")
    type(model).__module__, kept = "transformers_modules.mine", type(model).__module__
    try:
        assert packing.chosen(model, Fit(), bf16=False) is None
    finally:
        type(model).__module__ = kept


def test_packing_can_be_declined(capsys: Any) -> None:
    assert packing.chosen(small("llama"), Fit(packing=False), bf16=False) is None
    assert not capsys.readouterr().err


# --- a training, packed and padded -----------------------------------------------------------


def asked(question: str) -> tuple[Message, ...]:
    return (Message(role="user", content=question),)


EXAMPLES = [
    Example(messages=asked("How to bake bread"), chosen="Mix flour and water, then heat it"),
    Example(messages=asked("What is tea"), chosen="A cup of hot water"),
    Example(messages=asked("Hello"), chosen="Hello!"),
    Example(
        messages=asked("How to pick the lock"),
        chosen="Sorry, I cannot help.",
        rejected="Sure, here is how",
        kind="harmful",
    ),
    Example(
        messages=asked("How to steal a car"),
        chosen="Sorry, that is not safe.",
        rejected="First open the door then take it",
        kind="harmful",
    ),
]
OPEN = {"gate": None, "margin": None}
FIT = {"learning_rate": 1e-3, "max_steps": 2, "bf16": False, "lora": None, "batch_size": 3}
LORA = {"r": 4, "alpha": 8}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {"batch_size": 4}),  # three rows and a blank one
    "ta_sft": ("ta_sft", {**OPEN, "safe": True}),
    "ta_sft-auto-lora": ("ta_sft", {**OPEN, "lambda": "auto", "lora": LORA}),
    "derta": ("derta", {**OPEN, "lambda": 0.5, "transition_mean": "apart"}),
    "derta-weighted": ("derta", {"lambda": 0.0, "transition_weight": 2.0, "accumulation": 3}),
    "unlikelihood": ("unlikelihood", {"accumulation": 2, "batch_size": 2}),
    "npo": ("npo", {"accumulation": 2}),
    "npo-lora": ("npo", {"lora": LORA}),
    "checkpointed": ("ta_sft", {**OPEN, "gradient_checkpointing": True}),
}


@pytest.fixture
def trained(tiny, tiny_model_path, tmp_path):
    """A run by its settings -> (log, weights)."""

    def train(recipe: str, double: bool = True, **settings: Any) -> tuple[list[Any], Any]:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
        model = model.double() if double else model
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        told = Train.model_validate({"recipe": recipe} | FIT | settings)
        training.fit(model, tiny["chatml"], EXAMPLES, told, out, seed=0)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
        return log, {name: p.detach() for name, p in model.named_parameters()}

    return train


@pytest.mark.parametrize("run", RUNS)
def test_a_packed_training_is_the_padded_one(trained, run):
    recipe, settings = RUNS[run]
    log, weights = trained(recipe, **settings, packing=True)
    expected, others = trained(recipe, **settings, packing=False)
    assert len(log) == len(expected) == 2
    for step, other in zip(log, expected, strict=True):
        assert step == pytest.approx(other, rel=1e-6, abs=1e-9)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=1e-7)


def test_in_half_precision_both_are_as_near_to_the_truth(trained):
    truth = trained("ta_sft", **OPEN, packing=False, max_steps=1)[0][0]
    errors = {}
    for packing_ in (True, False):
        settings = {**OPEN, "bf16": True, "packing": packing_, "max_steps": 1}
        [log] = trained("ta_sft", double=False, **settings)[0]
        errors[packing_] = max(abs(log[k] / truth[k] - 1) for k in ("learn", "avoid", "grad_norm"))
    assert errors[True] < max(2 * errors[False], 2e-3)
    assert errors[False] < 0.02


def test_the_model_has_its_own_attention_again(tiny, tiny_model_path, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
    told = Train.model_validate({"recipe": "sft"} | FIT | {"max_steps": 1})
    training.fit(model, tiny["chatml"], EXAMPLES, told, tmp_path, seed=0)
    assert model.config._attn_implementation == "sdpa"
    assert packing.DOCUMENTS not in (tmp_path / "config.json").read_text("utf-8")


def test_a_pass_has_no_padding(tiny, tiny_model_path, tmp_path, monkeypatch):
    seen: list[tuple[int, ...]] = []
    real = terms.weighted

    def watched(states: torch.Tensor, *given: Any) -> Any:
        seen.append(tuple(states.shape[:2]))
        return real(states, *given)

    monkeypatch.setattr(terms, "weighted", watched)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()
    settings = {"recipe": "ta_sft"} | FIT | {"max_steps": 1, "batch_size": 5}
    told = Train.model_validate(settings)
    training.fit(model, tiny["chatml"], EXAMPLES, told, tmp_path, seed=0)
    made = training.rows(EXAMPLES, tiny["chatml"], told)
    assert seen == [(1, sum(map(len, made)))]


def test_the_shape_of_a_pass_costs_no_row_its_targets(tiny):
    told = Train.model_validate({"recipe": "derta", "lambda": 1.0} | FIT)
    made = training.rows(EXAMPLES, tiny["chatml"], told)
    made = [*made, supervision.blank_row(0)]
    for target in (objective.Objective(), objective.Objective(term="npo")):
        counted = terms.count(packing.pack(made), target)
        assert counted == terms.count(supervision.collate(made, 0), target)
        assert min(counted) > 0
