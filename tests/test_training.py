"""The one loop: what it computes, that it goes on after a kill, and what it teaches."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conftest import told
from demur import (
    batches,
    chat,
    fused,
    fused_table,
    fused_walk,
    losses,
    packing,
    pages,
    projection,
    supervision,
    supports,
    terms,
    training,
)
from demur.errors import UserError
from demur.fitting import Train
from demur.records import Example, Message
from demur.supervision import Row

LORA = {"r": 4, "alpha": 8}
# One step as plain as can be, in double precision, so that sums can be compared.
PLAIN = {
    "bf16": False,
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "warmup_ratio": 0.0,
    "max_grad_norm": 0.0,
    "max_steps": 1,
    "lora": None,
}


def asked(question: str) -> tuple[Message, ...]:
    return (Message(role="user", content=question),)


ORDINARY = [
    Example(messages=asked("How to bake bread"), chosen="Mix flour and water, then heat it"),
    Example(messages=asked("What is tea"), chosen="A cup of hot water"),
    Example(messages=asked("Write a poem"), chosen="The sea and the sun"),
    Example(messages=asked("Hello"), chosen="Hello!"),
]
PAIRS = [
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


@pytest.fixture(scope="module", autouse=True)
def _short_collections():
    """Each training collects garbage once: the imported libraries are no garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny["chatml"]


@pytest.fixture
def load(tiny_model_path):
    """The tiny model, each time anew."""

    def make(double: bool = True, **options: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_path, **options).eval()
        return model.double() if double else model

    return make


def fit(
    model: Any, tokenizer: Any, out: Path, recipe: str, examples: Sequence[Example], **settings: Any
) -> list[dict[str, Any]]:
    """Train and hand back the log."""
    train = Train.model_validate({"recipe": recipe} | PLAIN | settings)
    training.fit(model, tokenizer, examples, train, out, seed=0)
    return log_of(out)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    adapter = out / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else out / "model.safetensors")


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# --- what a step computes --------------------------------------------------------------------

OPEN = {"gate": None, "margin": None}  # a random model says nothing often enough for the gate
METHODS = [
    ("ta_sft", OPEN),
    ("derta", {"lambda": 0.5, "transition_mean": "apart", "transition_weight": 2.0, **OPEN}),
    ("npo", {}),
]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("recipe", "settings"), METHODS, ids=[recipe for recipe, _ in METHODS])
def test_accumulation_changes_nothing(load, tokenizer, tmp_path, recipe, settings, lora):
    # Micro-batches of one row lack one kind of target or the other, all of them.
    found = {}
    for size, steps in ((6, 1), (2, 3), (1, 6)):
        out = tmp_path / f"{size}x{steps}"
        log = fit(
            load(),
            tokenizer,
            out,
            recipe,
            ORDINARY + PAIRS if recipe != "derta" else ORDINARY[:2] + PAIRS,
            **settings,
            lora=lora,
            max_steps=2,
            batch_size=size,
            accumulation=steps,
        )
        found[size] = weights_of(out)
        assert {"learn", "avoid"} <= log[0].keys()
    assert apart(found[6], found[2]) < 1e-6
    assert apart(found[6], found[1]) < 1e-6
    fit(load(), tokenizer, tmp_path / "less", recipe, PAIRS, **settings, lora=lora, batch_size=6)
    assert apart(found[6], weights_of(tmp_path / "less")) > 1e-4  # what is compared does move


def whole_batch(model: Any, tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Every row in one pass through the model's own forward, and its targets flat."""
    batch = supervision.collate(rows, chat.pad_id(tokenizer))
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits[:, :-1]
    return {"logits": logits, **{k: batch[k][:, 1:] for k in ("labels", "avoid")}}


def by_hand(
    model: Any, tokenizer: Any, rows: Sequence[Row], **options: Any
) -> dict[str, torch.Tensor]:
    """The components of a step from the oracle: each a plain mean over its own positions."""
    ordinary = whole_batch(model, tokenizer, [row for row in rows if row.kind != "transition"])
    all_rows = whole_batch(model, tokenizer, rows)
    learnt = ordinary["labels"] >= 0
    found = {"learn": losses.learn(ordinary["logits"][learnt], ordinary["labels"][learnt]).mean()}
    moved = [row for row in rows if row.kind == "transition"]
    if moved:
        turned = whole_batch(model, tokenizer, moved)
        places = turned["labels"] >= 0
        found["transition"] = losses.learn(
            turned["logits"][places], turned["labels"][places]
        ).mean()
    away = all_rows["avoid"] >= 0
    if away.any():
        support = supports.support(
            model.get_output_embeddings().weight, chat.special_ids(tokenizer), len(tokenizer)
        )
        each = losses.avoid(all_rows["logits"][away], all_rows["avoid"][away], support, **options)
        watched = ("emd", "p_target", "entropy", "semantic_share")
        found |= {"avoid": each.term.mean()} | {n: getattr(each, n).mean() for n in watched}
        found["open"] = each.open.double().mean()
    return found


@pytest.mark.parametrize(
    ("term", "tables"), [("emd", 1), ("unlikelihood", 1), ("emd-bound", 0), ("npo", 0)]
)
def test_cosines_kept_from_step_to_step_cost_little(
    load, tokenizer, tmp_path, monkeypatch, term, tables
):
    """In single precision: within the 1/254 that a cosine in 8 bits may be off, and no slower."""
    made, found = [], {}
    table, cosines = fused_table.table, fused_table.cosines
    monkeypatch.setattr(fused_table, "table", lambda *a: made.append(table(*a)) or made[-1])
    for name in ("kept", "anew"):
        if name == "anew":
            monkeypatch.setattr(fused_table, "affordable", lambda *a: None)
        calls: list[int] = []
        for module in (fused_table, fused_walk):
            count = lambda *a, to=calls: to.append(1) or cosines(*a)  # noqa: E731
            monkeypatch.setattr(module, "cosines", count)
        settings = {"term": term, "max_steps": 3, **OPEN}
        log = fit(load(double=False), tokenizer, tmp_path / name, "ta_sft", PAIRS, **settings)
        found[name] = [step["loss"] for step in log], len(calls)
    assert found["kept"][0] == pytest.approx(found["anew"][0], abs=1 / 254)
    assert len(made) == tables == found["kept"][1]
    assert found["anew"][1] == 3 * tables


def drawn(tokenizer: Any, recipe: str, examples: Sequence[Example], **settings: Any) -> list:
    train = Train.model_validate({"recipe": recipe} | PLAIN | settings)
    return training.rows(examples, tokenizer, train)


@pytest.mark.parametrize("term", ["emd", "emd-bound", "unlikelihood", "gradient-ascent"])
def test_the_log_is_the_formula_on_the_whole_batch(load, tokenizer, tmp_path, term):
    settings = {"term": term, "gate": 0.001, "margin": 1.01, "lambda": 0.3}
    rows = drawn(tokenizer, "ta_sft", ORDINARY + PAIRS, **settings)
    expected = by_hand(load(), tokenizer, rows, term=term, gate=0.001, margin=1.01)
    [log] = fit(
        load(),
        tokenizer,
        tmp_path,
        "ta_sft",
        ORDINARY + PAIRS,
        **settings,
        batch_size=2,
        accumulation=len(rows) // 2,
    )
    for name, value in expected.items():
        assert log[name] == pytest.approx(value.item(), rel=1e-6, abs=1e-9), name
    total = expected["learn"] + 0.3 * expected["avoid"]
    assert log["loss"] == pytest.approx(total.item(), rel=1e-6)
    assert log["lambda"] == 0.3
    assert 0 < log["open"] < 1  # the brakes are on, for some


@pytest.mark.parametrize("mean", ["together", "apart"])
def test_transitions_share_the_mean_or_have_their_own(load, tokenizer, tmp_path, mean):
    settings = {"transition_mean": mean, "transition_weight": 3.0, "lambda": 0.7}
    rows = drawn(tokenizer, "derta", ORDINARY + PAIRS, **settings)
    expected = by_hand(load(), tokenizer, rows, gate=0.01, margin=0.9)
    [log] = fit(
        load(),
        tokenizer,
        tmp_path,
        "derta",
        ORDINARY + PAIRS,
        **settings,
        batch_size=2,
        accumulation=len(rows) // 2,
    )
    for name, value in expected.items():
        assert log[name] == pytest.approx(value.item(), rel=1e-6, abs=1e-9), name
    moved = sum(row.targets and row.kind == "transition" for row in rows)
    assert moved == 2
    learn_n = sum(sum(t >= 0 for t in r.labels) for r in rows if r.kind != "transition")
    moved_n = sum(sum(t >= 0 for t in r.labels) for r in rows if r.kind == "transition")
    learn, transition = expected["learn"].item(), expected["transition"].item()
    told_sum = {
        "together": (learn * learn_n + 3 * transition * moved_n) / (learn_n + moved_n),
        "apart": learn + 3 * transition,
    }
    assert log["loss"] == pytest.approx(told_sum[mean] + 0.7 * log["avoid"], rel=1e-6)


def test_lambda_scales_the_avoid_term_and_nothing_else(load, tokenizer, tmp_path):
    logs = [
        fit(
            load(),
            tokenizer,
            tmp_path / str(weight),
            "unlikelihood",
            ORDINARY + PAIRS,
            **{"lambda": weight},
        )[0]
        for weight in (0.0, 1.0, 2.5)
    ]
    none, one, more = (log["loss"] for log in logs)
    # The Trainer adds its loss up in float32, of which these are differences.
    assert more - none == pytest.approx(2.5 * (one - none), abs=2e-6)
    assert one - none == pytest.approx(logs[1]["avoid"], abs=2e-6)
    assert "avoid" not in logs[0]


def gradient_norms(model: Any, tokenizer: Any, rows: Sequence[Row]) -> tuple[float, float]:
    norms = []
    for part in ("learn", "avoid"):
        model.zero_grad()
        by_hand(model, tokenizer, rows, gate=None, margin=None)[part].backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    return norms[0], norms[1]


AUTO = {"lambda": "auto", **OPEN}


@pytest.mark.parametrize(("size", "steps"), [(6, 1), (2, 3)])
def test_an_automatic_lambda_balances_the_gradients(load, tokenizer, tmp_path, size, steps):
    rows = drawn(tokenizer, "ta_sft", ORDINARY + PAIRS)
    assert len(rows) == 6
    learn, avoid = gradient_norms(load(), tokenizer, rows)
    [log] = fit(
        load(),
        tokenizer,
        tmp_path,
        "ta_sft",
        ORDINARY + PAIRS,
        **AUTO,
        batch_size=size,
        accumulation=steps,
    )
    assert log["lambda"] == pytest.approx(learn / avoid, rel=1e-6)
    assert log["loss"] == pytest.approx(log["learn"] + learn / avoid * log["avoid"], rel=1e-6)


def test_an_automatic_lambda_waits_for_both_kinds_of_rows(load, tokenizer, tmp_path):
    examples = [*ORDINARY[:2], PAIRS[0]]
    log = fit(load(), tokenizer, tmp_path, "ta_sft", examples, **AUTO, batch_size=1, max_steps=6)
    kinds = ["avoid" if "avoid" in entry else "learn" for entry in log]
    both = max(kinds.index("avoid"), kinds.index("learn"))
    assert [entry["lambda"] > 0 for entry in log] == [i >= both for i in range(6)]
    assert len({entry["lambda"] for entry in log[both:]}) == 1


def test_a_lambda_without_its_checkpoint_is_found_anew(load, tokenizer, tmp_path):
    (tmp_path / "lambda.json").write_text('{"learn": 100.0, "avoid": 1.0}')
    [log] = fit(load(), tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS, **AUTO, batch_size=6)
    kept = json.loads((tmp_path / "lambda.json").read_text())
    assert log["lambda"] == kept["learn"] / kept["avoid"] < 100


def test_finding_lambda_leaves_the_training_as_it_is(load, tokenizer, tmp_path):
    lora = LORA | {"dropout": 0.5}
    common = {"lora": lora, "max_steps": 3, "gate": None, "margin": None, "batch_size": 6}
    [first, *_] = fit(
        load(), tokenizer, tmp_path / "a", "ta_sft", ORDINARY + PAIRS, **common | {"lambda": "auto"}
    )
    weight = first["lambda"]
    fit(
        load(), tokenizer, tmp_path / "b", "ta_sft", ORDINARY + PAIRS, **common | {"lambda": weight}
    )
    assert apart(weights_of(tmp_path / "a"), weights_of(tmp_path / "b")) == 0


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_npo_starts_at_its_reference_and_falls(load, tokenizer, tmp_path, lora):
    log = fit(
        load(),
        tokenizer,
        tmp_path,
        "npo",
        ORDINARY + PAIRS,
        beta=0.5,
        lora=lora,
        max_steps=8,
        learning_rate=3e-3,
        batch_size=3,
        accumulation=2,
    )
    assert log[0]["avoid"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-6)
    assert log[-1]["avoid"] < 0.9 * log[0]["avoid"]


def test_npo_measures_against_the_starting_model_after_a_resume_too(load, tokenizer, tmp_path):
    settings = {"batch_size": 6, "save_steps": 2, "learning_rate": 1e-2}
    first = fit(load(), tokenizer, tmp_path, "npo", ORDINARY + PAIRS, max_steps=2, **settings)
    later = fit(load(), tokenizer, tmp_path, "npo", ORDINARY + PAIRS, max_steps=4, **settings)
    assert later[:2] == first
    assert later[2]["avoid"] < first[1]["avoid"]


def test_embedding_statistics_stand_beside_the_model(load, tokenizer, tmp_path):
    model = load()
    rows = model.get_output_embeddings().weight.detach().clone()
    fit(model, tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS)
    support = supports.support(rows, chat.special_ids(tokenizer), len(tokenizer))
    assert int(support.allowed.sum()) == len(rows) - 5 - 3  # padding rows, special tokens
    written = json.loads((tmp_path / "embedding.json").read_text())
    assert written == pytest.approx(supports.cosine_statistics(support))


@pytest.mark.parametrize("recipe", ["sft", "stl", "recaug", "derta"])
def test_nothing_is_computed_for_an_avoid_term_that_is_not_there(load, tokenizer, tmp_path, recipe):
    [log] = fit(load(), tokenizer, tmp_path, recipe, ORDINARY + PAIRS, batch_size=12)
    assert not (tmp_path / "embedding.json").exists()
    assert "avoid" not in log
    assert "emd" not in log


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(load, tokenizer, tmp_path, lora):
    for name, choice in (("with", True), ("without", False)):
        model = load()
        fit(
            model,
            tokenizer,
            tmp_path / name,
            "ta_sft",
            ORDINARY + PAIRS,
            lora=lora,
            max_steps=2,
            batch_size=6,
            gradient_checkpointing=choice,
        )
        assert model.is_activation_checkpointing is choice
    assert apart(weights_of(tmp_path / "with"), weights_of(tmp_path / "without")) < 1e-6


def test_mixed_precision_is_that_of_the_models_own_forward(load, tokenizer, tmp_path):
    def loud() -> Any:
        model = load(double=False)  # large logits, for rounding to show
        model.get_output_embeddings().weight.data.mul_(20)
        return model

    options = {"batch_size": 6, "bf16": True}
    [log] = fit(loud(), tokenizer, tmp_path, "npo", ORDINARY + PAIRS, **options)
    model, rows = loud(), drawn(tokenizer, "npo", ORDINARY + PAIRS)
    full = by_hand(model, tokenizer, rows)["learn"].item()
    with torch.autocast("cpu", torch.bfloat16):
        half = by_hand(model, tokenizer, rows)["learn"].item()
    assert log["learn"] == pytest.approx(half, rel=1e-5)
    assert log["learn"] == pytest.approx(full, rel=1e-2)
    assert log["learn"] != pytest.approx(full, rel=1e-5)
    # Its reference is taken in the same precision, so that nothing has moved yet.
    assert log["avoid"] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-5)


FAMILIES = {
    "gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": None, "head_dim": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "hyperclovax": {"logits_scaling": 4.0},
    "recurrent_gemma": {"logits_soft_cap": 0.5, "lru_width": 32, "attention_window_size": 32},
    "qwen2": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_see_the_logits_that_generation_sees(tokenizer, tmp_path, family):
    model = small(tokenizer, family, **FAMILIES[family]).double()
    rows = drawn(tokenizer, "ta_sft", ORDINARY + PAIRS)
    options = {"gate": 0.01, "margin": 0.9}
    expected = {k: v.item() for k, v in by_hand(model, tokenizer, rows, **options).items()}
    [log] = fit(model, tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS, batch_size=6)
    assert {name: log[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def small(tokenizer: Any, family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    settings = AutoConfig.for_model(family, **shape | options)
    return AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()


EXPERTS = {
    "mixtral": {"router_aux_loss_coef": 0.5},
    "jetmoe": {"aux_loss_coef": 0.5, "kv_channels": 8},
}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("family", EXPERTS)
def test_a_mixture_of_experts_keeps_its_balancing_loss(tokenizer, tmp_path, family, steps):
    """Also with `output_router_logits` off, as it is published."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} | EXPERTS[family]
    model = small(tokenizer, family, **experts)
    size = len(ORDINARY) // steps
    log = fit(model, tokenizer, tmp_path, "sft", ORDINARY, batch_size=size, accumulation=steps)
    assert model.config.output_router_logits is False
    model = small(tokenizer, family, **experts)
    _, deal = packing.layout(None, chat.pad_id(tokenizer), size)
    draw = lambda epoch: drawn(tokenizer, "sft", ORDINARY)  # noqa: E731
    rows = batches.Epochs(draw, {}, 0, len(ORDINARY), None, deal).rows
    balances = []
    for some in (rows[i : i + size] for i in range(0, len(rows), size)):
        batch = supervision.collate(some, chat.pad_id(tokenizer))
        ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
        balances.append(model(**ids, output_router_logits=True).aux_loss.item())
    assert min(balances) > 0.1
    expected = log[0]["learn"] + 0.5 * sum(balances) / steps
    assert log[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_head_that_is_not_all_there_is_is_refused(tokenizer, tmp_path):
    llama = small(tokenizer, "llama", logit_scale=0.5)  # says what it does not do
    modern = small(tokenizer, "modernbert-decoder", bos_token_id=0)  # does more
    for model in (llama, modern):
        with pytest.raises(UserError, match=r"ForCausalLM does more .* than demur knows of"):
            fit(model, tokenizer, tmp_path, "sft", ORDINARY, batch_size=4)
        assert hooks_of(model) == 0
    assert not (tmp_path / "log.jsonl").exists()


# --- rows on their way through the loop ------------------------------------------------------


def test_blank_rows_change_nothing(load, tokenizer, tmp_path):
    examples = [*ORDINARY[:3], *PAIRS]
    for size in (5, 8):
        fit(load(), tokenizer, tmp_path / str(size), "ta_sft", examples, batch_size=size)
    assert apart(weights_of(tmp_path / "5"), weights_of(tmp_path / "8")) < 1e-6


@pytest.fixture
def trained_on(monkeypatch):
    """The rows the loop really asks for, in its order."""
    seen: list[Row] = []

    class Watched(batches.Epochs):
        def __getitem__(self, index: int) -> Row:
            seen.append(super().__getitem__(index))
            return seen[-1]

    monkeypatch.setattr(training, "Epochs", Watched)
    return seen


def test_each_epoch_trains_rows_drawn_anew(load, tokenizer, tmp_path, trained_on):
    settings = {"batch_size": 4, "max_steps": -1, "epochs": 3.0, "prefix": False, "lambda": 0.0}
    fit(load(), tokenizer, tmp_path / "a", "derta", PAIRS * 2, **settings)
    assert len(trained_on) == 12
    train = Train.model_validate({"recipe": "derta"} | PLAIN | settings)
    for epoch in range(3):
        drawn_now = training.rows(PAIRS * 2, tokenizer, train, seed=0, epoch=epoch)
        trained = trained_on[4 * epoch : 4 * epoch + 4]
        assert sorted(r.labels for r in trained) == sorted(r.labels for r in drawn_now)
    assert len({tuple(sorted(r.labels for r in trained_on[i : i + 4])) for i in (0, 4, 8)}) == 3
    first = list(trained_on)
    trained_on.clear()
    fit(load(), tokenizer, tmp_path / "b", "derta", PAIRS * 2, **settings)
    assert trained_on == first


def test_a_resumed_epoch_goes_on_with_its_own_rows(load, tokenizer, tmp_path, trained_on):
    settings = {"batch_size": 1, "save_steps": 3, "lambda": 0.0}
    fit(load(), tokenizer, tmp_path, "derta", PAIRS, **settings, max_steps=11)
    whole = list(trained_on)
    shutil.rmtree(tmp_path / "checkpoint-11")
    trained_on.clear()
    fit(load(), tokenizer, tmp_path, "derta", PAIRS, **settings, max_steps=11)
    assert trained_on[:2] == whole[9:11]
    assert whole[4:8] != whole[8:12]


def test_a_mix_is_held_in_every_step(load, tokenizer, tmp_path, trained_on):
    settings = {"mix": {"learn": 3, "avoid": 1}, "batch_size": 2, "accumulation": 2}
    fit(load(), tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS, **settings, max_steps=4)
    steps = [[row.kind for row in trained_on[i : i + 4]] for i in range(0, 16, 4)]
    assert all(sorted(step) == ["avoid", "learn", "learn", "learn"] for step in steps)


def test_a_wrong_mix_is_refused_before_anything_is_trained(load, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"train.mix names avoids.*of the kinds avoid, learn"):
        fit(load(), tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS, mix={"learn": 3, "avoids": 1})
    assert not (tmp_path / "log.jsonl").exists()


def test_what_is_cut_is_said(load, tokenizer, tmp_path, capsys):
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, max_length=21, batch_size=4)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "cut to train.max_length=21 tokens: 1 answers; a cut answer is not taught where to end"
        in said
    )


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    ("recipe", "settings", "why"),
    [
        ("ta_sft", {}, None),
        ("ta_sft", {"lora": {"target_modules": ["q_proj"]}}, None),
        ("ta_sft", {"lora": {"target_modules": ["lm_head"]}}, "the output layer has an adapter on"),
        ("npo", {}, "npo compares whole answers"),
    ],
)
def test_losses_that_are_taken_from_logits_are_said_to_be(
    recipe, settings, why, load, tokenizer, tmp_path, capsys
):
    model = load(tie_word_embeddings=False)
    fit(model, tokenizer, tmp_path, recipe, ORDINARY + PAIRS, **settings)
    said = " ".join(capsys.readouterr().err.split())
    assert ("the losses are taken from logits" in said) == bool(why)
    assert said.count(f"positions × vocabulary of them: {why}") == bool(why)


def test_the_model_is_saved_with_its_tokenizer(load, tokenizer, tmp_path):
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, batch_size=4)
    found = AutoTokenizer.from_pretrained(tmp_path)
    row = supervision.learn_row(chat.turn(found, asked("Hi"), "Hello"))
    assert told(found, row).endswith("assistant ⏎ Hello+ <|im_end|>+")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert trained.get_output_embeddings().weight.shape[0] == len(tokenizer) + 5


@pytest.mark.parametrize("recipe", ["sft", "kto"])
def test_no_pickle_stays_beside_the_weights(load, tokenizer, tmp_path, recipe):
    """Checkpoints keep what a resumed training needs; the folder itself is what people publish."""
    pytest.importorskip("trl")
    rows = ORDINARY + PAIRS
    fit(load(double=False), tokenizer, tmp_path, recipe, rows, batch_size=2, max_steps=1)
    left = {f.name for f in tmp_path.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".pkl")}
    assert (tmp_path / "model.safetensors").exists() and left == set()
    assert (tmp_path / "checkpoint-1" / "training_args.bin").exists()


@pytest.mark.parametrize("modules", [[], ["qproj"], ["norm"]])
def test_an_adapter_that_fits_nothing_is_one_line(load, tokenizer, tmp_path, modules):
    with pytest.raises(UserError, match=r"train.lora.target_modules=\[.* does not fit") as refused:
        lora = LORA | {"target_modules": modules}
        fit(load(), tokenizer, tmp_path, "sft", ORDINARY, lora=lora)
    assert "\n" not in str(refused.value)


def hooks_of(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_no_hook_stays_on_a_model_that_was_trained(load, tokenizer, tmp_path, monkeypatch):
    model = load()
    fit(model, tokenizer, tmp_path / "first", "ta_sft", ORDINARY + PAIRS)
    assert hooks_of(model) == 0
    during, taken = [], terms.weighted
    monkeypatch.setattr(terms, "weighted", lambda *a: during.append(hooks_of(model)) or taken(*a))
    fit(model, tokenizer, tmp_path / "second", "ta_sft", ORDINARY + PAIRS)
    assert set(during) == {2}
    monkeypatch.setattr(terms, "weighted", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, tokenizer, tmp_path / "third", "ta_sft", ORDINARY + PAIRS)
    assert hooks_of(model) == 0


# --- a model whose weights are split -----------------------------------------------------------


@pytest.fixture
def two_processes():
    """The first of two that are only said to be: what is asked of the other is counted."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*ackward hook:UserWarning")  # of the one who counts
@pytest.mark.parametrize("chunk", [1, 512])
def test_a_split_head_is_gathered_once_a_pass_and_for_no_chunk(
    chunk, load, tokenizer, tmp_path, monkeypatch, request
):
    monkeypatch.setitem(fused.CHUNK, "cpu", (1 << 20, chunk))
    train = Train.model_validate({"recipe": "ta_sft"} | PLAIN | OPEN)
    drawing = training.Drawing(ORDINARY + PAIRS, tokenizer, train, 0)
    told = training._arguments(train, tmp_path, 0)
    model, target = load(double=False), training._target(train)
    trainer = training._row_trainer(model, tokenizer, drawing, train, target, told)
    rows = trainer.data_collator(list(trainer.train_dataset))
    mesh = request.getfixturevalue("two_processes")
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh)
    chunks, within, seen = [], [], CommDebugMode()
    product, taken = projection.Head.logits, terms.weighted
    monkeypatch.setattr(projection.Head, "logits", lambda *a: chunks.append(1) or product(*a))

    def weighted(*given: Any) -> Any:
        before = seen.get_total_counts()
        found = taken(*given)
        within.append(seen.get_total_counts() - before)
        return found

    monkeypatch.setattr(terms, "weighted", weighted)
    with trainer._attached(), seen:
        loss, _, _ = trainer._weighted(model, rows, (1.0, 1.0, 1.0))
        loss.backward()
    assert len(chunks) > 20 if chunk == 1 else len(chunks) <= 2
    assert within == [0]
    gathers = sum(n for kind, n in seen.get_comm_counts().items() if "gather" in str(kind))
    assert gathers == 1 + 2 * len(model.model.layers), (
        "the head's group once, a layer's there and back"
    )


# --- going on after a kill -------------------------------------------------------------------

RUNS = {
    "derta-lora": (
        "derta",
        {"lora": LORA | {"dropout": 0.1}, "batch_size": 3, "accumulation": 2, **AUTO},
    ),
    "ta_sft-full": ("ta_sft", {"lora": None, "mix": {"learn": 1, "avoid": 1}, **AUTO}),
}
LONG = {
    "max_steps": 8,
    "save_steps": 2,
    "save_total_limit": None,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.2,
    "max_grad_norm": 1.0,
}


@pytest.mark.parametrize("run", RUNS)
def test_an_interrupted_run_ends_as_if_it_had_not_been(load, tokenizer, tmp_path, run):
    recipe, settings = RUNS[run]
    whole, half = tmp_path / "whole", tmp_path / "half"
    everything = {"recipe": recipe, "examples": ORDINARY + PAIRS, **LONG, **settings}
    fit(load(double=False), tokenizer, whole, **everything)
    # A kill in step 6 of 8, while checkpoint 6 was being written.
    shutil.copytree(whole, half)
    for left in ("checkpoint-8", "adapter_model.safetensors", "model.safetensors"):
        path = half / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (half / "checkpoint-6" / "trainer_state.json").unlink()
    (half / "checkpoint-best").mkdir()  # somebody's own
    fit(load(double=False), tokenizer, half, **everything)
    assert apart(weights_of(half), weights_of(whole)) == 0
    assert (half / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    assert len(log_of(half)) == 8
    assert log_of(half)[-1]["lambda"] > 0
    assert (half / "checkpoint-6" / "trainer_state.json").exists()  # written again, whole


@pytest.mark.parametrize("torn", ["missing", "empty", "half"])
def test_a_half_written_checkpoint_is_passed_over(load, tokenizer, tmp_path, torn):
    settings = {"batch_size": 6, "save_steps": 1, "save_total_limit": None}
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings, max_steps=2)
    expected = weights_of(tmp_path)
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    text = state.read_text()
    state.unlink()
    if torn != "missing":
        state.write_text(text[: len(text) // 2] if torn == "half" else "")
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings, max_steps=2)
    assert [entry["step"] for entry in log_of(tmp_path)] == [1, 2]
    assert apart(weights_of(tmp_path), expected) == 0


def test_a_run_that_had_ended_is_only_saved_again(load, tokenizer, tmp_path):
    settings = {"batch_size": 4, "max_steps": 3}
    log = fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings)
    expected = weights_of(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings) == log
    assert apart(weights_of(tmp_path), expected) == 0


KILLED = {
    "recipe": "derta",
    "lora": LORA | {"dropout": 0.1},
    "max_steps": 12,
    "save_steps": 5,
    "batch_size": 4,
}
SCRIPT = """
import os, signal, sys
from pathlib import Path
from test_training import KILLED, ORDINARY, PAIRS, fit
from demur import training
from transformers import AutoModelForCausalLM, AutoTokenizer

class LogFile(training.LogFile):
    def on_log(self, args, state, control, **more):
        super().on_log(args, state, control, **more)
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

training.LogFile = LogFile
model, out = sys.argv[1], Path(sys.argv[2])
loaded = AutoModelForCausalLM.from_pretrained(model).eval()
fit(loaded, AutoTokenizer.from_pretrained(model), out, examples=ORDINARY + PAIRS, **KILLED)
"""


def test_a_killed_process_goes_on_to_the_same_end(load, tokenizer, tiny_model_path, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model_path), str(killed)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [step.name for step in killed.glob("checkpoint-*")] == ["checkpoint-5"]
    assert len(log_of(killed)) == 8 and not (killed / "adapter_model.safetensors").exists()
    fit(load(double=False), tokenizer, killed, examples=ORDINARY + PAIRS, **KILLED)
    fit(load(double=False), tokenizer, whole, examples=ORDINARY + PAIRS, **KILLED)
    assert apart(weights_of(killed), weights_of(whole)) == 0
    assert (killed / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


# --- what is learnt --------------------------------------------------------------------------

TOPICS = ("bomb", "lock", "car", "door", "phone", "bank")
HELPFUL = [
    Example(messages=asked(f"Tell me about the {thing}"), chosen=f"The {thing} is good for you.")
    for thing in ("sea", "sun", "cat", "dog", "tea", "bread")
]
HARMFUL = [
    Example(
        messages=asked(f"How to steal the {thing}"),
        chosen=f"Sorry, I cannot help with the {thing}.",
        rejected=f"Sure, first take the {thing} then open it and pay.",
        kind="harmful",
    )
    for thing in TOPICS
]
HELD_HARMFUL, HELD_HELPFUL = HARMFUL[4:], HELPFUL[4:]
TAUGHT = {
    "learning_rate": 3e-3,
    "batch_size": 8,
    "max_steps": 40,
    "max_grad_norm": 1.0,
}


@pytest.fixture(scope="module")
def obedient(tokenizer, tiny_model_path, tmp_path_factory):
    """A model that answers everything: what a base model tuned on instructions does."""
    out = tmp_path_factory.mktemp("obedient")
    answered = [Example(messages=e.messages, chosen=e.rejected) for e in HARMFUL]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    fit(model, tokenizer, out, "sft", HELPFUL + answered, **TAUGHT | {"max_steps": 80})
    return out


def taught(obedient: Path, tokenizer: Any, out: Path, recipe: str, **settings: Any) -> Any:
    """The obedient model after a recipe; the held prompts are not among its examples."""
    model = AutoModelForCausalLM.from_pretrained(obedient)
    fit(model, tokenizer, out, recipe, HELPFUL[:4] + HARMFUL[:4], **TAUGHT | settings)
    return AutoModelForCausalLM.from_pretrained(out).eval()


@torch.no_grad()
def chances(model: Any, tokenizer: Any, examples: Sequence[Example], word: str = "") -> float:
    """Mean P(word) in the middle of the unsafe answers, or of the unsafe tokens themselves."""
    found = []
    for example in examples:
        turn = chat.turn(tokenizer, example.messages, example.rejected)
        p = model(torch.tensor([turn.context + turn.answer])).logits[0].softmax(-1)
        for place in range(2, len(turn.answer) - 1):
            token = tokenizer.convert_tokens_to_ids(word) if word else turn.answer[place]
            found.append(float(p[len(turn.context) + place - 1, token]))
    return sum(found) / len(found)


@torch.no_grad()
def nll(model: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
    rows = [supervision.learn_row(chat.turn(tokenizer, e.messages, e.chosen)) for e in examples]
    return by_hand(model, tokenizer, rows)["learn"].item()


def test_derta_refuses_in_the_middle_of_an_answer_and_safety_tuning_does_not(
    obedient, tokenizer, tmp_path
):
    before = AutoModelForCausalLM.from_pretrained(obedient).eval()
    assert chances(before, tokenizer, HELD_HARMFUL) > 0.5
    stl = taught(obedient, tokenizer, tmp_path / "stl", "stl")
    derta = taught(obedient, tokenizer, tmp_path / "derta", "derta")
    refusal = {
        name: chances(model, tokenizer, HELD_HARMFUL, "ĠSorry")
        for name, model in (("before", before), ("stl", stl), ("derta", derta))
    }
    assert refusal["before"] < 0.01
    assert refusal["stl"] < 0.02
    assert refusal["derta"] > 0.2


def test_ta_sft_unlearns_unsafe_tokens_and_keeps_the_ordinary_ones(obedient, tokenizer, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(obedient).eval()
    after = taught(obedient, tokenizer, tmp_path, "ta_sft")
    assert chances(after, tokenizer, HELD_HARMFUL) < 0.5 * chances(before, tokenizer, HELD_HARMFUL)
    assert nll(after, tokenizer, HELPFUL[:4]) < nll(before, tokenizer, HELPFUL[:4]) + 0.3
    assert nll(after, tokenizer, HELD_HELPFUL) < nll(before, tokenizer, HELD_HELPFUL) + 1.0


def test_every_recipe_trains(load, tokenizer, tmp_path):
    for name in pages.names("recipes"):
        log = fit(
            load(double=False),
            tokenizer,
            tmp_path / name,
            name,
            ORDINARY + PAIRS,
            max_steps=3,
            batch_size=16,
        )
        falling = "learn" if "learn" in log[0] else "loss"
        assert log[-1][falling] < log[0][falling], name
