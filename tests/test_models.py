"""Models are found, told apart and loaded, or refused in one line before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from demur import adapters, heads, identity, models, names, tokenizers
from demur.errors import UserError
from demur.fitting import Lora
from demur.settings import Model


@pytest.fixture
def copy(tiny_model_path: Path, tmp_path: Path) -> Path:
    """A model folder of one's own to damage."""
    return Path(shutil.copytree(tiny_model_path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapter(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter that does something, and nothing else."""
    folder = tmp_path_factory.mktemp("adapter")
    model = adapters.with_lora(models.load(Model(name=str(tiny_model_path))), Lora(r=2), seed=0)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.1)
    model.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20, device=model.device)[None]).logits


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT, of merging
def test_an_adapter_on_a_tied_head_is_not_split(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapted(*modules: str) -> Any:
        lora = Lora(r=2, target_modules=modules)
        return lambda: adapters.with_lora(models.load(Model(name=str(tiny_model_path))), lora, 0)

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert adapted("lm_head")()
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert adapted("q_proj")()
    told = refusal(adapted("lm_head"))
    assert told.startswith("train.lora.target_modules=['lm_head']: accelerate does not split")
    assert "leave lm_head out, or launch with fsdp_cpu_ram_efficient_loading: false" in told


def test_a_model_is_float32_on_a_cpu_and_in_eval_mode(tiny_model_path: Path) -> None:
    model = models.load(Model(name=str(tiny_model_path)))
    assert not model.training
    if not torch.cuda.is_available():
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = models.load(Model(name=str(tiny_model_path), dtype="bfloat16"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_loading_says_nothing(tiny_model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    models.load(Model(name=str(tiny_model_path)))
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == shown


def test_a_folder_with_an_adapter_alone_stands_for_both(
    tiny_model_path: Path, adapter: Path
) -> None:
    settings = Model(name=str(adapter))
    assert names.resolve(settings).name == str(tiny_model_path)
    model = models.load(settings)
    assert isinstance(model, PeftModel)
    named = models.load(Model(name=str(tiny_model_path), adapter=str(adapter)))
    torch.testing.assert_close(logits(model), logits(named))
    base = models.load(Model(name=str(tiny_model_path)))
    assert not torch.allclose(logits(model), logits(base), atol=0.01)
    assert tokenizers.load(settings).chat_template, "the tokenizer is the base model's"


def test_full_training_takes_an_adapter_into_the_weights(adapter: Path) -> None:
    settings = Model(name=str(adapter), dtype="float32")
    whole = models.load(settings, full=True)
    assert not isinstance(whole, PeftModel)
    assert not [name for name, _ in whole.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits(whole), logits(models.load(settings)), atol=1e-4, rtol=1e-4)


def test_an_adapter_upon_an_adapter_is_refused(adapter: Path) -> None:
    told = refusal(names.resolve, Model(name=str(adapter), adapter=str(adapter)))
    assert "is an adapter itself: drop model.adapter" in told


def test_an_adapter_without_a_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    lone = Path(shutil.copytree(adapter, tmp_path / "lone"))
    card = json.loads((lone / "adapter_config.json").read_text())
    (lone / "adapter_config.json").write_text(json.dumps(card | {"base_model_name_or_path": None}))
    assert "names no base model" in refusal(models.load, Model(name=str(lone)))


def test_low_rank_matrices_follow_the_seed(tiny_model_path: Path) -> None:
    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(99)
        torch.rand(seed + 5)
        model = adapters.with_lora(models.load(Model(name=str(tiny_model_path))), Lora(r=2), seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(fresh(1), fresh(1))
    assert not torch.equal(fresh(1), fresh(2))


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such", "./none", "../none", "~/no/such"])
def test_a_path_that_is_not_there_is_no_network_error(name: str) -> None:
    told = refusal(tokenizers.load, Model(name=name))
    assert told == f"model {name!r}: no such folder and not a hub id (org/name); mend the path"


def test_a_slip_in_a_path_beside_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "no such folder and not a hub id" in refusal(names.locate, "runs/mien")
    assert names.locate("org/mine") == "org/mine"
    (tmp_path / "model.gguf").touch()
    assert "is a file: name the folder" in refusal(names.locate, "model.gguf")


def test_a_hub_id_that_cannot_be_had_is_one_line() -> None:
    for call in (tokenizers.load, models.load):
        told = refusal(call, Model(name="no-such-org/no-such-model"))
        assert "no-such-org/no-such-model' (no such folder; as a hub id)" in told


def test_home_is_understood(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_model_path.parent))
    assert names.locate(f"~/{tiny_model_path.name}") == str(tiny_model_path)


@pytest.mark.parametrize(
    ("pattern", "content", "says"),
    [
        ("tokenizer*", None, "has no tokenizer: save it into that folder"),
        ("tokenizer.json", b"{", "has no usable tokenizer"),
        ("chat_template.jinja", None, "has no chat template"),
    ],
)
def test_a_model_without_a_usable_tokenizer(
    copy: Path, pattern: str, content: bytes | None, says: str
) -> None:
    for file in copy.glob(pattern):
        file.unlink() if content is None else file.write_bytes(content)
    assert says in refusal(tokenizers.load, Model(name=str(copy)))


def test_a_chat_template_of_ones_own(copy: Path, tmp_path: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    plain = tokenizers.load(Model(name=str(copy), chat_template="plain"))
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    own = tokenizers.load(Model(name=str(copy), chat_template=str(mine)))
    assert own.chat_template == mine.read_text()
    assert tokenizers.template_hash(plain) != tokenizers.template_hash(own)
    told = refusal(tokenizers.load, Model(name=str(copy), chat_template="none.jinja"))
    assert "model.chat_template='none.jinja': no such Jinja file" in told


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model.safetensors", None, "cannot be loaded: Error no file named model.safetensors"),
        ("model.safetensors", b"\0" * 100, "cannot be loaded"),
        ("config.json", b'{"model_type": "none such"}', "cannot be loaded"),
        ("config.json", b"{", "cannot be loaded"),
    ],
)
def test_weights_that_cannot_be_read(
    copy: Path, file: str, content: bytes | None, says: str
) -> None:
    (copy / file).unlink() if content is None else (copy / file).write_bytes(content)
    assert says in refusal(models.load, Model(name=str(copy)))


def test_weights_that_are_missing_are_not_made_up(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    settings = {k: v for k, v in settings.items() if k != "layer_types"} | {"num_hidden_layers": 3}
    (copy / "config.json").write_text(json.dumps(settings))
    told = refusal(models.load, Model(name=str(copy)))
    assert "lacks 9 of its weights, the first being 'model.layers.2." in told


def test_a_folder_without_weights_is_refused_unread(copy: Path) -> None:
    models.check(Model(name=str(copy)))
    (copy / "model.safetensors").unlink()
    assert "no weights in it" in refusal(models.check, Model(name=str(copy)))


def test_identity_is_what_a_folder_holds(copy: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    def mark(**more: Any) -> str:
        return identity.fingerprint_of(Model(name=str(copy), **more))

    first = mark()
    assert first == identity.fingerprint_of(Model(name=str(tiny_model_path))), "moved, the same"
    assert len({first, mark(dtype="float16"), mark(chat_template="plain")}) == 3
    (tmp_path / "t.jinja").write_text("a")
    before = mark(chat_template=str(tmp_path / "t.jinja"))
    (tmp_path / "t.jinja").write_text("b")
    assert mark(chat_template=str(tmp_path / "t.jinja")) != before
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert mark() != first
    assert identity.identity(Model(name="org/hub-id", revision="v1"))["name"] == "org/hub-id"


def test_identity_sees_an_adapter(tiny_model_path: Path, adapter: Path) -> None:
    lone, named = Model(name=str(adapter)), Model(name=str(tiny_model_path), adapter=str(adapter))
    assert identity.fingerprint_of(lone) == identity.fingerprint_of(named)
    bare = Model(name=str(tiny_model_path))
    assert identity.fingerprint_of(lone) != identity.fingerprint_of(bare)


def test_the_head_gives_the_models_own_logits(tiny_model_path: Path) -> None:
    model = models.load(Model(name=str(tiny_model_path), dtype="float32"))
    ids = torch.arange(12, device=model.device)[None]
    with torch.no_grad():
        hidden = model.get_decoder()(ids).last_hidden_state
        torch.testing.assert_close(heads.head(model)(hidden[0]), model(ids).logits[0])


def test_identity_does_not_see_how_a_tokenizer_was_loaded(copy: Path) -> None:
    card, first = copy / "tokenizer_config.json", identity.fingerprint_of(Model(name=str(copy)))
    told = json.loads(card.read_text())
    card.write_text(json.dumps(told | {"local_files_only": True, "is_local": True}))
    assert identity.fingerprint_of(Model(name=str(copy))) == first
    card.write_text(json.dumps(told | {"chat_template": "another"}))
    assert identity.fingerprint_of(Model(name=str(copy))) != first
