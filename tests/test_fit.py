"""What a training is told, and what it refuses, stops at or leaves behind."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, TrainingArguments

from demur import callbacks, progress, trainer, training
from demur.errors import UserError
from test_training import ORDINARY, PAIRS, apart, fit, log_of, weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Load = Callable[[], Any]


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tokenizer(tiny: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return tiny["chatml"]


@pytest.fixture
def load(tiny_model_path: Path) -> Load:
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model_path).eval()


# --- one process, one device -------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ta_sft", "dpo"])
def test_more_gpus_than_processes_are_left_alone(
    recipe: str,
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """transformers would cut packed rows in two; a machine with two GPUs is only said to be one."""
    settings = {"max_steps": 2, "batch_size": 2}
    fit(load(), tokenizer, tmp_path / "one", recipe, ORDINARY + PAIRS, **settings)
    capsys.readouterr()
    found = TrainingArguments._setup_devices.func

    def two(arguments: TrainingArguments) -> torch.device:
        device: torch.device = found(arguments)
        arguments._n_gpu = 2
        return device

    monkeypatch.setattr(TrainingArguments._setup_devices, "func", two)
    fit(load(), tokenizer, tmp_path / "two", recipe, ORDINARY + PAIRS, **settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "one of 2 GPUs is trained on" in said and "accelerate launch or torchrun" in said
    assert apart(weights_of(tmp_path / "one"), weights_of(tmp_path / "two")) == 0


def test_sums_are_kept_in_what_the_device_has() -> None:
    assert trainer.wide(torch.device("mps")) == torch.float32
    assert trainer.wide(torch.device("cpu")) == torch.float64


# --- going on ----------------------------------------------------------------------------------


def test_a_checkpoint_goes_on_with_its_rows_a_step(
    load: Load, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"batch_size": 2, "max_steps": 1, "save_steps": 1}
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **first)
    log = (tmp_path / "log.jsonl").read_text()
    monkeypatch.setattr(training.processes, "count", lambda: 2)
    told = r"checkpoint-1 was made with 2 rows a step, and batch_size × .* is 4 now"
    with pytest.raises(UserError, match=told):
        fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **first | {"max_steps": 2})
    monkeypatch.undo()
    assert (tmp_path / "log.jsonl").read_text() == log
    other = {"batch_size": 1, "accumulation": 2, "max_steps": 2}  # the same rows, dealt otherwise
    assert len(fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **first | other)) == 2


# --- a training that is lost ---------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_training(
    load: Load, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = load()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(UserError, match=r"step 1: loss is nan.*train.learning_rate") as refused:
        fit(model, tokenizer, tmp_path, "ta_sft", ORDINARY + PAIRS, max_steps=3, lora={"r": 4})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    assert [str(entry["loss"]) for entry in log_of(tmp_path)] == ["nan"]


def test_what_was_saved_before_a_loss_was_lost_stays(
    load: Load, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    settings = {"max_steps": 20, "save_steps": 1, "learning_rate": 1e18, "max_grad_norm": 1.0}
    with pytest.raises(UserError, match=r"(loss|grad_norm) is"):
        fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    assert len(log_of(tmp_path)) == int(last.name.split("-")[1]) + 1
    assert all(tensor.isfinite().all() for tensor in weights_of(last).values())


@pytest.mark.parametrize("recipe", ["sft", "dpo"])
def test_a_training_that_is_broken_off_gives_the_cursor_back(
    recipe: str,
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True))
    monkeypatch.setattr(callbacks.LogFile, "on_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(load(), tokenizer, tmp_path, recipe, ORDINARY + PAIRS, max_steps=2, batch_size=2)
    hidden, shown = (screen.getvalue().rfind(f"\x1b[?25{way}") for way in "lh")
    assert -1 < hidden < shown


# --- the learning rate -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [{"max_steps": 1}, {"max_steps": -1, "epochs": 1.0}])
def test_a_training_of_one_step_trains(
    length: dict[str, Any], load: Load, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    settings = {"warmup_ratio": 0.03, "lr_scheduler": "cosine", "batch_size": 4} | length
    [log] = fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings)
    assert log["learning_rate"] == 1e-3
    before = dict(load().named_parameters())
    assert (weights_of(tmp_path)["model.norm.weight"] != before["model.norm.weight"]).any()


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
        ("constant", [1] * 6),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    scheduler: str,
    expected: list[float],
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    settings = {"lr_scheduler": scheduler, "learning_rate": 1e-2, "max_steps": 6}
    settings |= {"warmup_ratio": 0.3} if scheduler != "constant" else {}
    log = fit(load(), tokenizer, tmp_path, "sft", ORDINARY, **settings)
    assert [entry["learning_rate"] for entry in log] == pytest.approx(
        [1e-2 * part for part in expected], abs=1e-8
    )


def test_the_steps_are_kept_for_whoever_goes_on(
    load: Load, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    fit(load(), tokenizer, tmp_path, "sft", ORDINARY, batch_size=2, accumulation=3)
    assert json.loads((tmp_path / "step.json").read_text()) == {"rows": 6}
