"""Pickles that would leave a trace if anybody read them, wherever weights are looked for."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demur import adapters, models, weights
from demur.errors import UserError
from demur.fitting import Lora
from demur.judges import classifier
from demur.records import Completion
from demur.settings import Model, page_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = Completion(
    attempt="a", behavior="b", kind="harmful", attack="direct", prompt="How?", text="So."
)
CURE = "pickled weights can run code as they are read"


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return io.open, (str(self.trace), "w")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "somebody-read-it"


@pytest.fixture
def trap(trace: Path) -> bytes:
    """A pickle; that it would go off is shown here, or no test below could fail."""
    found = pickle.dumps(Trap(trace))
    pickle.loads(found).close()
    trace.unlink()
    return found


@pytest.fixture
def copy(tiny_model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_path, tmp_path / "copy"))


@pytest.fixture
def adapter(copy: Path, tmp_path: Path) -> Path:
    made = adapters.with_lora(models.load(Model(name=str(copy))), Lora(r=2), seed=0)
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def judge(tiny: dict[str, PreTrainedTokenizerBase], tmp_path: Path) -> Path:
    """A classifier with one output."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_labels": 1}
    made = LlamaConfig(vocab_size=len(tiny["plain"]), pad_token_id=None, **sizes | heads)
    LlamaForSequenceClassification(made).save_pretrained(tmp_path / "judge")
    tiny["plain"].save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def pickled(folder: Path, trap: bytes, file: str, instead: str) -> None:
    (folder / instead).unlink()
    (folder / file).write_bytes(trap)


def refusal(verb: Callable[..., Any], *given: Any) -> str:
    with pytest.raises(UserError) as caught:
        verb(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def judged(folder: Path) -> list[Any]:
    settings = page_settings(classifier, {"model": str(folder)}, "evaluate.judges.classifier")
    return list(classifier.judge([ANSWER], settings))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_pickled_model_is_refused(copy: Path, trap: bytes, trace: Path, file: str) -> None:
    (copy / file).write_bytes(trap)
    models.load(Model(name=str(copy)))  # beside safetensors nobody reads it
    (copy / "model.safetensors").unlink()
    for verb in (models.check, models.load):
        told = refusal(verb, Model(name=str(copy)))
        assert told.startswith(f"{copy / file}: {CURE}")
    assert not trace.exists()


def test_a_pickled_adapter_is_refused(copy: Path, adapter: Path, trap: bytes, trace: Path) -> None:
    """Also where other safetensors lie beside it: PEFT does not read those."""
    pickled(adapter, trap, "adapter_model.bin", "adapter_model.safetensors")
    shutil.copy(copy / "model.safetensors", adapter)
    for settings in (Model(name=str(copy), adapter=str(adapter)), Model(name=str(adapter))):
        for verb in (models.check, models.load):
            assert f"{adapter / 'adapter_model.bin'}: {CURE}" in refusal(verb, settings)
    assert not trace.exists()


def test_an_index_may_not_lead_to_a_pickle(copy: Path, trap: bytes, trace: Path) -> None:
    pickled(copy, trap, "shard.bin", "model.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "shard.bin"}}))
    for verb in (weights.refuse_pickled, lambda where: models.load(Model(name=str(where)))):
        assert f"{copy / 'shard.bin'}: {CURE}" in refusal(verb, copy)
    assert not trace.exists()
    index.write_text("[]")
    assert "no index of weights" in refusal(weights.refuse_pickled, copy)


def test_a_pickled_classifier_is_refused_as_it_is_named(
    judge: Path, trap: bytes, trace: Path
) -> None:
    (judge / "pytorch_model.bin").write_bytes(trap)
    assert [verdict.judge for verdict in judged(judge)] == ["classifier"]
    (judge / "model.safetensors").unlink()
    given = ({"model": str(judge)}, "evaluate.judges.classifier")
    assert f"{judge / 'pytorch_model.bin'}: {CURE}" in refusal(page_settings, classifier, *given)
    assert not trace.exists()


def test_a_classifiers_pickled_adapter_is_refused(
    judge: Path, adapter: Path, trap: bytes, trace: Path
) -> None:
    pickled(adapter, trap, "adapter_model.bin", "adapter_model.safetensors")
    for file in ("adapter_config.json", "adapter_model.bin"):
        shutil.copy(adapter / file, judge)
    assert f"{judge / 'adapter_model.bin'}: {CURE}" in refusal(judged, judge)
    assert not trace.exists()


OF_A_HUB = """
import json, sys
from demur import adapters, models
from demur.errors import UserError
from demur.judges import classifier
from demur.records import Completion
from demur.settings import Model, page_settings

def classify():
    settings = page_settings(classifier, {"model": "org/adapter"}, "judge")
    answer = Completion(attempt="a", behavior="b", kind="harmful", attack="direct", prompt="How?",
                        text="So.")
    return list(classifier.judge([answer], settings))

for load in (
    lambda: models.load(Model(name=sys.argv[1], adapter="org/adapter")),
    lambda: models.load(Model(name="org/adapter")),
    lambda: models.load(Model(name="org/model")),
    classify,
):
    try:
        load()
    except UserError as error:
        print(error)
"""


def test_pickles_of_a_hub_are_refused(
    copy: Path, adapter: Path, trap: bytes, trace: Path, tmp_path: Path
) -> None:
    """As a hub's files lie once they are fetched; a process of its own knows that cache alone."""
    pickled(adapter, trap, "adapter_model.bin", "adapter_model.safetensors")
    base = Path(shutil.copytree(copy, tmp_path / "base"))
    pickled(copy, trap, "pytorch_model.bin", "model.safetensors")
    for name, folder in (("adapter", adapter), ("model", copy)):
        held = tmp_path / "hub" / "hub" / f"models--org--{name}"
        shutil.copytree(folder, held / "snapshots" / ("0" * 40))
        (held / "refs").mkdir()
        (held / "refs" / "main").write_text("0" * 40)
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", OF_A_HUB, str(base)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third, fourth = done.stdout.splitlines()
    for told in (first, second, fourth):
        assert f"adapter 'org/adapter' has no adapter_model.safetensors: {CURE}" in told
    assert third.startswith("model 'org/model' (no such folder; as a hub id) cannot be loaded")
    assert not trace.exists()
