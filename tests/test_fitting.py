"""What a training's settings may be beside each other, and what the Trainer is told of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from demur import config, materials, training
from demur.errors import UserError
from demur.fitting import Fit, Train, variant
from demur.objective import of
from demur.supervision import Row


def train(**settings: Any) -> Train:
    return Train.model_validate(settings)


IDLE = [
    ({"term": "npo", "gate": 0.02}, "gate=0.02 .* any term but npo"),
    ({"term": "npo", "margin": 0.5}, "margin=0.5 .* any term but npo"),
    ({"beta": 0.2}, "beta=0.2 .* term: npo"),
    ({"bound_scale": "paper"}, "bound_scale=paper .* term: emd-bound"),
    ({"term": "unlikelihood", "margin": None, "embedding": "input"}, "embedding=input"),
    ({"term": "nlcl", "margin": None, "centre": True}, "centre=True .* emd-bound or a mar"),
    ({"lr_scheduler": "constant", "warmup_ratio": 0.1}, "warmup_ratio=0.1 .* warms up"),
]


@pytest.mark.parametrize(("settings", "said"), IDLE)
def test_a_setting_that_would_do_nothing_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"variants\.other\.{said}") as refused:
        variant("other", train(recipe="ta_sft"), settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"term": "npo", "gate": None, "margin": None, "beta": 0.2},
        {"term": "emd-bound", "bound_scale": "paper", "embedding": "input", "centre": True},
        {"term": "unlikelihood", "embedding": "input"},  # the margin is measured by it
        {"lr_scheduler": "constant", "warmup_ratio": 0.0},
        {"lr_scheduler": "constant_with_warmup", "warmup_ratio": 0.1},
    ],
)
def test_a_setting_that_does_something_may_stand(settings: dict[str, Any]) -> None:
    assert train(recipe="ta_sft", **settings).flat().items() >= settings.items()


def test_a_variant_can_take_back_what_it_inherits() -> None:
    base = train(recipe="ta_sft", gate=0.02)
    with pytest.raises(UserError, match=r"variants\.npo\.gate=0\.02"):
        variant("npo", base, {"term": "npo"})
    assert variant("npo", base, {"term": "npo", "gate": None}).method.gate is None


def test_npo_has_no_brakes_of_tasft() -> None:
    found = of(train(recipe="ta_sft", term="npo").method)
    assert (found.gate, found.margin) == (None, None)
    assert of(train(recipe="ta_sft").method).gate == 0.01


def test_the_learning_rate_is_by_what_is_trained() -> None:
    assert Fit().rate == 1e-4
    assert Fit(lora=None).rate == 2e-5
    assert Fit(lora=None, learning_rate=3e-4).rate == 3e-4
    base = train(recipe="sft")
    assert variant("full", base, {"lora": None}).fit.rate == 2e-5
    assert base.flat()["learning_rate"] == 1e-4  # a manifest has the number


def test_an_adapter_that_is_trained_on_keeps_its_shape(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_model.safetensors").touch()  # no weight is read
    rows = '{"instruction": "Hello", "output": "Hi"}\n'
    (tmp_path / "data.jsonl").write_text(rows)

    def run(**settings: Any) -> config.Run:
        tree = {
            "output": str(tmp_path / "out"),
            "model": {"name": str(tiny_model_path), "adapter": str(adapter)},
            "data": {"train": {"everyday": [str(tmp_path / "data.jsonl")]}},
            "train": {"recipe": "sft"},
            "variants": {"other": settings},
        }
        return config.build(tree)

    with pytest.raises(UserError, match=r"variants\.other\.lora\.r=64: the adapter /.*/adapter is"):
        materials.prepare(run(lora={"r": 64}))
    with pytest.raises(UserError, match=r"variants\.other\.lora"):
        materials.prepare(run(recipe="recaug", preset="reference"))
    for settings in ({}, {"lora": {}}, {"lora": None}):
        materials.prepare(run(**settings))


# Each setting at another value than its default, and what it has to become.
TOLD: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": (2.5, {"num_train_epochs": 2.5}),
    "max_steps": (7, {"max_steps": 7}),
    "learning_rate": (3e-4, {"learning_rate": 3e-4}),
    "lr_scheduler": ("linear", {"lr_scheduler_type": "linear"}),
    "warmup_ratio": (0.2, {"warmup_steps": 0.2}),
    "weight_decay": (0.1, {"weight_decay": 0.1}),
    "max_grad_norm": (0.5, {"max_grad_norm": 0.5}),
    "batch_size": (3, {"per_device_train_batch_size": 3}),
    "accumulation": (4, {"gradient_accumulation_steps": 4}),
    "bf16": (True, {"bf16": True}),
    "gradient_checkpointing": (True, {"activation_checkpointing": True}),
    "save_steps": (9, {"save_steps": 9}),
    "save_total_limit": (None, {"save_total_limit": None}),
    "report_to": ("tensorboard", {"report_to": "tensorboard"}),
}
ELSEWHERE = {"max_length", "mix", "lora", "packing"}  # what rows and model are made by


def test_every_setting_of_the_fit_reaches_the_trainer(tmp_path: Path) -> None:
    assert TOLD.keys() | ELSEWHERE == Fit.model_fields.keys()
    usual = training._arguments(train(recipe="sft", bf16=False), tmp_path, 5)
    assert (usual["output_dir"], usual["seed"]) == (str(tmp_path), 5)
    for name, (value, told) in TOLD.items():
        settings = {"bf16": False} | {name: value}
        found = training._arguments(train(recipe="sft", **settings), tmp_path, 5)
        assert {key: found[key] for key in told} == told
        assert found == usual | told and found != usual, name


# --- rows that would make another training of it -------------------------------------------------

LEARN = Row("learn", (1, 2), (-100, 2), (-100, -100))
AVOID = Row("avoid", (1, 2), (-100, -100), (-100, 2))


@pytest.mark.parametrize("recipe", ["ta_sft", "unlikelihood", "gradient_ascent", "npo"])
def test_avoiding_needs_something_to_avoid(recipe: str) -> None:
    wanted = train(recipe=recipe)
    with pytest.raises(UserError, match=f"recipe '{recipe}' moves away from unsafe answers"):
        training.check([LEARN], wanted)
    training.check([LEARN, AVOID], wanted)
    training.check([AVOID], wanted)
    left_out = train(recipe=recipe, mix={"learn": 1, "avoid": 0})
    with pytest.raises(UserError, match="moves away from unsafe answers and finds none"):
        training.check([LEARN, AVOID], left_out)


def test_an_automatic_weight_needs_both_gradients() -> None:
    wanted = train(recipe="ta_sft", **{"lambda": "auto"})
    with pytest.raises(UserError, match=r"train.lambda=auto is the ratio of two gradients"):
        training.check([AVOID], wanted)
    for order in itertools.permutations([LEARN, AVOID]):
        training.check(order, wanted)
