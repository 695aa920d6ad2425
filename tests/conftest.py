"""Fixtures every test may use: four tokenizers and a model, made here and small.

Nothing is downloaded, and one thread does all the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import talkative

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from demur.supervision import Row

# Before anything imports torch or the hub, which read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_PROXY": "127.0.0.1",  # where tests serve
}
# Typer takes these, which a hosted test machine sets, for a terminal with colours, at import.
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)
# Of a launcher that somebody left: demur would take itself for one process of many.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
    os.environ.pop(name, None)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)

# Each word becomes one token, at the start of a text and after a space alike.
WORDS = """
Sorry sorry I cannot can not help with that No Unfortunately Sure Certainly Yes Hello Hi
Here here is are how to steps first then mix take add pour the a an it and of in for you
powder acid bottle lock door knife phone bill bread bake dough flour water oven heat salt
make bomb pick open steal car money bank pay write poem about sea cat dog sun rain tea cup
What what How Why when who Tell me tell Give give do does safe unsafe harmful bad good
system user assistant INST one two three four five six seven eight nine ten
"""


TEXT = [text for word in WORDS.split() for text in (word, f"a {word}")] * 2


def _byte_level(*special: str) -> Tokenizer:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    return core


def _metaspace(*special: str) -> Tokenizer:
    """A SentencePiece-like BPE: a space is part of the word, unknown characters are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=list("\n▁[]/.,:!?'-"),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    return core


def _chatml() -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


def _llama3() -> PreTrainedTokenizerBase:
    """No padding token, and a turn end that is no named special token, as in the original."""
    from transformers import PreTrainedTokenizerFast

    marks = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level("<|begin_of_text|>", "<|end_of_text|>", *marks),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template=LLAMA3,
    )


def _mistral() -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_metaspace("<unk>", "<s>", "</s>"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=MISTRAL,
    )


def _plain() -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    from demur import templates

    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level("<|endoftext|>"),
        eos_token="<|endoftext|>",
        chat_template=templates.PLAIN,
    )


@pytest.fixture(scope="session")
def tiny() -> dict[str, PreTrainedTokenizerBase]:
    """Tokenizers by the shape of their template: chatml, llama3, mistral, plain."""
    return {"chatml": _chatml(), "llama3": _llama3(), "mistral": _mistral(), "plain": _plain()}


@pytest.fixture(scope="session")
def tiny_model_path(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a random Llama of two layers and the ChatML tokenizer.

    Its embedding is tied and has five rows more than the tokenizer has tokens, as many have.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("tiny-model"), tiny["chatml"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + 5,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talker(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a random model that says words, see `talkative`."""
    return talkative.save(tmp_path_factory.mktemp("talkative"), tiny["chatml"])


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The page of the large world of `worlds` and the folder it is in; written once, only read."""
    import worlds

    return worlds.large(tmp_path_factory.mktemp("large"))


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """The small world of `worlds`, whose counts are made by hand."""
    import worlds

    return worlds.small(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unpacked models go to a folder of this session, never to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMUR_CACHE", str(tmp_path_factory.mktemp("demur-cache")))
        yield


def shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Ids as text to read: tokens apart by spaces, a space of their own as _, a new line as ⏎."""
    tokens = " ".join(tokenizer.convert_ids_to_tokens(list(ids)))
    return tokens.translate(str.maketrans("ĠĊ▁\n", "_⏎_⏎"))


def told(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """A row as text: token+ is learnt, token>word teaches another word, token- is avoided."""
    return " ".join(
        shown(tokenizer, [token]) + _taught(tokenizer, token, learn) + ("-" if avoid >= 0 else "")
        for token, learn, avoid in zip(row.input_ids, row.labels, row.avoid, strict=True)
    )


def _taught(tokenizer: PreTrainedTokenizerBase, token: int, learn: int) -> str:
    if learn < 0:
        return ""
    return "+" if learn == token else ">" + shown(tokenizer, [learn])
