"""Two processes and one, the same rows a step: the same losses and the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demur import records
from demur.records import Example, Message

SCRIPT = Path(__file__).with_name("fit_once.py")
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


def _run(command: list[str], job: Path) -> None:
    done = subprocess.run(
        [*command, str(SCRIPT), str(job)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _both(job: dict[str, object], folder: Path) -> tuple[Path, Path]:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    _run([sys.executable], path)
    _run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"], path)
    return Path(str(job["out"])) / "1", Path(str(job["out"])) / "2"


def _job(folder: Path, model: Path, train: dict[str, object], rows: int) -> dict[str, object]:
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


RECIPES = {
    "ta_sft": {"recipe": "ta_sft", "lambda": 2.0, "gate": None, "margin": None, "lora": None},
    "ta_sft-lora-auto": {"recipe": "ta_sft", "lambda": "auto", "safe": True},
    "derta": {"recipe": "derta", "lambda": 1.0, "transitions_kept": 0.5},
    "dpo": {"recipe": "dpo"},
    "dpo-full": {"recipe": "dpo", "lora": None},
}


@pytest.mark.parametrize(
    "name",
    ["ta_sft", *(pytest.param(n, marks=pytest.mark.slow) for n in RECIPES if n != "ta_sft")],
)
def test_two_processes_are_one(name: str, tmp_path: Path, tiny_model_path: Path) -> None:
    one, two = _both(_job(tmp_path, tiny_model_path, RECIPES[name], rows=4), tmp_path)
    for alone, together in zip(_logged(one), _logged(two), strict=True):
        assert together.keys() == alone.keys()
        for key in alone:
            assert together[key] == pytest.approx(alone[key], rel=1e-5, abs=1e-5), key
    file = "model.safetensors" if RECIPES[name].get("lora", 1) is None else None
    weights = [load_file(f / (file or "adapter_model.safetensors")) for f in (one, two)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-5, atol=1e-5)
