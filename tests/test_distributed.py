"""Two processes and one, the same rows a step: the same losses and the same weights.

Whole copies of the model (DDP) and, by the configuration that comes with demur, shards (FSDP2).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import talkative
from demur import config, manifest, pipeline, records, supervision, training
from demur.batches import Epochs
from demur.fitting import Train
from demur.records import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCRIPT = Path(__file__).with_name("fit_once.py")
ACCELERATE = Path(__file__).parents[1] / "configs" / "accelerate"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
DDP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCHERS = {
    "alone": [sys.executable],
    "ddp": DDP,
    "fsdp2": [*LAUNCH, "--config_file", str(ACCELERATE / "fsdp2.yaml"), "--num_processes", "2"],
}
# Adam turns rounding in a vanishing gradient into a step of this size, so it is kept small.
FIT = {"max_steps": 3, "learning_rate": 1e-3, "bf16": False, "lr_scheduler": "constant"}
OPEN = {"gate": None, "margin": None}
RECIPES: dict[str, dict[str, Any]] = {
    "ta_sft": {"recipe": "ta_sft", "lambda": 2.0, "lora": None} | OPEN,
    "derta": {"recipe": "derta", "lambda": 1.0, "transitions_kept": 0.5, "lora": None},
    "ta_sft-lora": {"recipe": "ta_sft", "lambda": 2.0, "safe": True} | OPEN,
    "ta_sft-auto": {"recipe": "ta_sft", "lambda": "auto", "safe": True, "lora": None} | OPEN,
    "ta_sft-head": {"recipe": "ta_sft", "lora": {"target_modules": ["lm_head", "q_proj"]}} | OPEN,
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
# Variants of these: a head with weights of its own; a row for each process and step.
UNTIED = {f"{name}-untied": RECIPES[name] for name in ("ta_sft", "ta_sft-head", "derta-lora")}
APART = {"ta_sft-apart": RECIPES["ta_sft"] | {"max_steps": 4}}
QUICK = ("ta_sft", "derta")
SLOW = tuple(name for name in {**RECIPES, **UNTIED, **APART} if name not in QUICK)


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


def _run(command: list[str], *more: str, seconds: int = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *more],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _job(out: Path, model: Path, train: dict[str, Any], rows: int = 4) -> dict[str, Any]:
    return {"model": str(model), "out": str(out), "train": FIT | train, "rows_per_step": rows}


def _launch(launcher: str, jobs: list[dict[str, Any]], folder: Path) -> str:
    """Fit what the jobs say, one after another in the same processes; what these said of it."""
    data, path = folder / "data.jsonl", folder / "jobs.json"
    records.write(data, _examples())
    path.write_text(json.dumps([job | {"data": str(data)} for job in jobs]))
    done = _run(LAUNCHERS[launcher], str(SCRIPT), str(path), seconds=600 + 120 * len(jobs))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


class Fits:
    """Folders of what was fitted; a launch fits all that is quick, or all that is slow.

    Most of a launch is the import of the libraries.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.model, self._folder = model, folder
        self._said: dict[tuple[str, bool], str] = {}

    def __call__(self, launcher: str, name: str) -> Path:
        group = launcher, name in QUICK
        if group not in self._said:
            jobs = [self._of(launcher, job) for job in (QUICK if name in QUICK else SLOW)]
            self._said[group] = _launch(launcher, jobs, self._folder)
        assert [*(self._folder / launcher / name).glob("*model.safetensors")], self._said[group]
        return self._folder / launcher / name

    def _of(self, launcher: str, name: str) -> dict[str, Any]:
        train = (RECIPES | UNTIED | APART)[name]
        model = self._untied if name in UNTIED else self.model
        return _job(self._folder / launcher / name, model, train, rows=2 if name in APART else 4)

    @cached_property
    def _untied(self) -> Path:
        """The same model with an output layer of its own, which differs from the embedding."""
        folder = Path(shutil.copytree(self.model, self._folder / "untied"))
        model = AutoModelForCausalLM.from_pretrained(self.model)
        settings = AutoConfig.from_pretrained(self.model, tie_word_embeddings=False)
        own = AutoModelForCausalLM.from_config(settings)
        own.load_state_dict(model.state_dict())
        own.lm_head.weight.data = 1.5 * model.lm_head.weight.data.roll(1, 0)
        own.save_pretrained(folder)
        return folder


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Fits:
    return Fits(tmp_path_factory.mktemp("fits"), tiny_model_path)


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


def _cases() -> list[Any]:
    refused = [("ta_sft-head", "fsdp2")]  # an adapter on a tied head
    pairs = [pair for pair in product((*QUICK, *SLOW), ("ddp", "fsdp2")) if pair not in refused]
    slow = pytest.mark.slow
    return [pytest.param(*pair, marks=[] if pair[0] in QUICK else slow) for pair in pairs]


@pytest.mark.parametrize(("name", "launcher"), _cases())
def test_two_processes_are_one(name: str, launcher: str, fits: Fits) -> None:
    _same(fits("alone", name), fits(launcher, name))


def _steps(tokenizer: PreTrainedTokenizerBase, name: str, rows: int) -> list[list[str]]:
    """The kinds of the rows of each step of an epoch, as `training.fit` orders them."""
    train = Train.model_validate(FIT | (RECIPES | APART)[name])
    drawing = training.Drawing(_examples(), tokenizer, train, seed=0)
    kinds = [row.kind for row in Epochs(drawing, {}, 0, rows, supervision.blank_row(0)).rows]
    return [kinds[i : i + rows] for i in range(0, len(kinds), rows)]


OURS = [name for name in RECIPES if not name.startswith("dpo")]


@pytest.mark.parametrize("name", OURS)
def test_a_last_step_is_uneven(name: str, tiny: dict[str, PreTrainedTokenizerBase]) -> None:
    *_, last = _steps(tiny["chatml"], name, 4)
    assert 0 < last.count("blank") < 4
    assert len(_steps(tiny["chatml"], name, 4)) <= FIT["max_steps"]


def test_a_process_may_have_nothing_to_learn_to_avoid_or_to_do(
    tiny: dict[str, PreTrainedTokenizerBase],
) -> None:
    told = {frozenset(step) for step in _steps(tiny["chatml"], "ta_sft-apart", 2)}
    assert {"learn", "avoid"} in told
    assert any("blank" in step for step in told)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "fsdp2"])
def test_accumulated_passes_are_one(launcher: str, fits: Fits, tmp_path: Path) -> None:
    settings = RECIPES["ta_sft"] | {"accumulation": 2}
    _launch(launcher, [_job(tmp_path / "two", fits.model, settings, rows=2)], tmp_path)
    _same(fits("alone", "ta_sft"), tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "fsdp2"])
def test_processes_go_on_from_a_checkpoint(
    launcher: str, tmp_path: Path, tiny_model_path: Path
) -> None:
    names = ("ta_sft", "ta_sft-lora")
    jobs = [
        _job(tmp_path / name, tiny_model_path, RECIPES[name] | {"save_steps": 1}) for name in names
    ]
    _launch(launcher, jobs, tmp_path)
    for name in names:
        whole = tmp_path / name
        shutil.copytree(whole, tmp_path / "whole" / name)
        shutil.rmtree(whole / "checkpoint-3")
        (whole / "checkpoint-2" / "trainer_state.json").rename(whole / "kept.json")  # half-written
        shutil.copytree(whole / "checkpoint-2", whole / "checkpoint-1", dirs_exist_ok=True)
        (whole / "kept.json").rename(whole / "checkpoint-1" / "trainer_state.json")
    _launch(launcher, jobs, tmp_path)
    for name in names:
        _same(tmp_path / "whole" / name, tmp_path / name)


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
