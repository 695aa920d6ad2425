"""Two processes and one, the same rows a step: the same losses and the same weights.

Whole copies of the model (DDP) and, by the configuration that comes with demur, shards (FSDP2).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import talkative
from demur import config, manifest, pipeline, records
from demur.records import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCRIPT = Path(__file__).with_name("fit_once.py")
ACCELERATE = Path(__file__).parents[1] / "configs" / "accelerate"
ALONE = [sys.executable]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
DDP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FSDP2 = [*LAUNCH, "--config_file", str(ACCELERATE / "fsdp2.yaml"), "--num_processes", "2"]
# Adam turns rounding in a vanishing gradient into a step of this size, so it is kept small.
FIT = {"max_steps": 3, "learning_rate": 1e-3, "bf16": False, "lr_scheduler": "constant"}


def _examples() -> list[Example]:
    """Seven, so that a last batch is uneven and some process has nothing to learn or avoid."""
    words = ["bread", "tea", "cat", "dog", "sea", "car", "lock"]
    return [
        Example(
            messages=(Message(role="user", content=f"Tell me how to make {word}"),),
            kind="harmful" if word in {"car", "lock"} else "everyday",
            chosen="Sorry, I cannot help with that." if word in {"car", "lock"} else f"Take {word}",
            rejected=f"Sure, first pick the {word}" if word in {"car", "lock"} else None,
        )
        for word in words
    ]


def _run(command: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *more],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _fit(command: list[str], job: dict[str, object], folder: Path) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = _run(command, str(SCRIPT), str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(str(job["out"])) / ("1" if command is ALONE else "2")


def _job(folder: Path, model: Path, train: dict[str, object], rows: int = 4) -> dict[str, object]:
    data = folder / "data.jsonl"
    records.write(data, _examples())
    return {
        "model": str(model),
        "data": str(data),
        "out": str(folder / "out"),
        "train": FIT | train,
        "rows_per_step": rows,
    }


def _logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = [*folder.glob("*model.safetensors")]
    return load_file(file)


def _same(one: Path, two: Path) -> None:
    for alone, together in zip(_logged(one), _logged(two), strict=True):
        assert together.keys() == alone.keys()
        for key in alone:
            assert together[key] == pytest.approx(alone[key], rel=1e-5, abs=1e-5), key
    weights = _weights(two)
    for key, value in _weights(one).items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-5)


OPEN = {"gate": None, "margin": None}
RECIPES: dict[str, dict[str, object]] = {
    "ta_sft": {"recipe": "ta_sft", "lambda": 2.0, "lora": None} | OPEN,
    "ta_sft-lora": {"recipe": "ta_sft", "lambda": 2.0, "safe": True} | OPEN,
    "ta_sft-auto": {"recipe": "ta_sft", "lambda": "auto", "safe": True, "lora": None} | OPEN,
    "ta_sft-head": {"recipe": "ta_sft", "lora": {"target_modules": ["lm_head", "q_proj"]}} | OPEN,
    "derta": {"recipe": "derta", "lambda": 1.0, "transitions_kept": 0.5, "lora": None},
    "derta-lora": {"recipe": "derta", "lambda": 1.0, "transitions_kept": 0.5},
    "sft": {"recipe": "sft"},
    "stl": {"recipe": "stl"},
    "recaug": {"recipe": "recaug"},
    "unlikelihood": {"recipe": "unlikelihood"},
    "gradient_ascent": {"recipe": "gradient_ascent", "lambda": 0.1},
    "npo": {"recipe": "npo", "lora": None},
    "npo-lora": {"recipe": "npo"},
    "dpo": {"recipe": "dpo"},
    "dpo-full": {"recipe": "dpo", "lora": None},
}


def _cases(quick: str, names: Iterable[str] = RECIPES) -> list[Any]:
    return [pytest.param(n, marks=() if n == quick else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", _cases("ta_sft"))
def test_two_processes_are_one(name: str, tmp_path: Path, tiny_model_path: Path) -> None:
    job = _job(tmp_path, tiny_model_path, RECIPES[name])
    _same(_fit(ALONE, job, tmp_path), _fit(DDP, job, tmp_path))


@pytest.mark.parametrize("name", _cases("derta"))
def test_two_shards_are_one_model(name: str, tmp_path: Path, tiny_model_path: Path) -> None:
    job = _job(tmp_path, tiny_model_path, RECIPES[name])
    _same(_fit(ALONE, job, tmp_path), _fit(FSDP2, job, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ta_sft", "derta-lora"])
def test_two_shards_whose_head_is_no_embedding(
    name: str, tmp_path: Path, tiny_model_path: Path
) -> None:
    job = _job(tmp_path, _untied(tiny_model_path, tmp_path / "model"), RECIPES[name])
    _same(_fit(ALONE, job, tmp_path), _fit(FSDP2, job, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DDP, FSDP2], ids=["ddp", "fsdp2"])
def test_accumulated_passes_are_one(
    launcher: list[str], tmp_path: Path, tiny_model_path: Path
) -> None:
    job = _job(tmp_path, tiny_model_path, RECIPES["ta_sft"])
    whole = _fit(ALONE, job, tmp_path)
    told = {"train": {**FIT, **RECIPES["ta_sft"], "accumulation": 2}, "rows_per_step": 2}
    _same(whole, _fit(launcher, job | told, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DDP, FSDP2], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["ta_sft", "ta_sft-lora"])
def test_processes_go_on_from_a_checkpoint(
    name: str, launcher: list[str], tmp_path: Path, tiny_model_path: Path
) -> None:
    job = _job(tmp_path, tiny_model_path, RECIPES[name] | {"save_steps": 1})
    whole = _fit(launcher, job, tmp_path)
    kept = tmp_path / "whole"
    shutil.copytree(whole, kept)
    shutil.rmtree(whole / "checkpoint-3")
    (whole / "checkpoint-2" / "trainer_state.json").rename(whole / "kept.json")  # half-written
    shutil.copytree(whole / "checkpoint-2", whole / "checkpoint-1", dirs_exist_ok=True)
    (whole / "kept.json").rename(whole / "checkpoint-1" / "trainer_state.json")
    _same(kept, _fit(launcher, job, tmp_path))


@pytest.mark.slow
def test_the_rank_that_has_nothing_to_learn_waits_for_nobody(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    """Three rows a step at most, so that one of two processes gets blank rows alone."""
    job = _job(tmp_path, tiny_model_path, RECIPES["ta_sft"] | {"max_steps": 4}, rows=2)
    for launcher in (DDP, FSDP2):
        _same(_fit(ALONE, job, tmp_path), _fit(launcher, job, tmp_path))


@pytest.mark.slow
def test_many_processes_train_what_one_has_collected(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    tree = talkative.run(tmp_path / "data", talkative.save(tmp_path / "talker", tiny["chatml"]))
    run, path = config.build(tree), str(talkative.write(tmp_path, tree))
    pipeline.collect(run)
    done = _run([*DDP, "-m", "demur", "train"], path, "train.max_steps=2")
    assert done.returncode == 0, done.stderr[-3000:]
    out = run.output / "train" / "after"
    assert done.stdout.split() == [str(out)]  # one speaks for both
    assert manifest.read(out)["status"] == "done"
    assert [entry["step"] for entry in _logged(out)] == [1, 2]
    assert not [*run.output.rglob("*.part")]
    again = _run([*DDP, "-m", "demur", "train"], path, "train.max_steps=2")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    refused = _run([*DDP, "-m", "demur", "run"], path, "train.max_steps=2")
    assert "demur: `demur run` runs on one process and 2 were started" in refused.stderr


def _untied(tied: Path, folder: Path) -> Path:
    """The same model with an output layer of its own, which differs from the embedding."""
    shutil.copytree(tied, folder)
    model = AutoModelForCausalLM.from_pretrained(tied)
    settings = AutoConfig.from_pretrained(tied, tie_word_embeddings=False)
    own = AutoModelForCausalLM.from_config(settings)
    own.load_state_dict(model.state_dict())
    own.lm_head.weight.data.mul_(1.5).roll(1, 0)
    own.save_pretrained(folder)
    return folder
