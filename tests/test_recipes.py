"""Each recipe's rows, position by position under four templates, and what every page owes."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from textwrap import dedent

import pytest

from conftest import told
from demur import chat, pages, sources, templates, training
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.fitting import Fit, Train
from demur.objective import Objective
from demur.preference import Preference
from demur.recipes import derta
from demur.records import Example, Message
from demur.settings import Settings, page_settings
from demur.supervision import IGNORE, Row
from test_chat import CONTEXT, END, QUESTION, SAFE, SHAPES, UNSAFE

ORDINARY = Example(messages=QUESTION, chosen="Hello.")
LOOKALIKE = Example(messages=QUESTION, chosen="Hello.", kind="lookalike")
PAIR = Example(messages=QUESTION, chosen=SAFE, rejected=UNSAFE, kind="harmful")
UNPAIRED = replace(PAIR, chosen=None)
WRONGFUL = replace(LOOKALIKE, rejected=SAFE)  # a look-alike that was declined


def setting(recipe: str, **settings: object) -> Train:
    return Train.model_validate({"recipe": recipe} | settings)


def made(
    tokenizer, recipe: str, example: Example, seed: int = 0, place: int = 0, **settings: object
) -> list[Row]:
    """The rows of one example, with everything drawn from ``seed``."""
    train = setting(recipe, **settings)
    encode = Encoder(tokenizer, train.fit.max_length)
    page = pages.find("recipes", recipe)
    return list(page.rows(example, encode, train.method, Draws(seed, place)))


# What follows the context: byte-level tokens (three templates), then SentencePiece's.
HELLO = ("Hello+ .+ END+", "_Hello+ .+ END+")
REFUSED = ("Sorry+ ,+ _I+ _cannot+ _help+ .+ END+", "_Sorry+ ,+ _I+ _cannot+ _help+ .+ END+")
MOVED_AWAY = ("Sure- ,- _here- _is- _how- END", "_Sure- ,- _here- _is- _how- END")
AFTER_ONE = (
    "Sure _Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
    "_Sure _Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
)
AFTER_FOUR = (
    "Sure , _here _is _Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
    "_Sure , _here _is _Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
)
GLUED = (
    "Sure Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
    "_Sure _Sorry+ ,+ _I+ _cannot+ _help+ .+ END+",
)
TURNED = (
    "Sure>Sorry ,>_Sorry _here>_Sorry _is>_Sorry _how>_Sorry END",
    "_Sure>_Sorry ,>_Sorry _here>_Sorry _is>_Sorry _how>_Sorry END",
)
TURNED_BARE = (
    "Sure>Sorry ,>Sorry _here>Sorry _is>Sorry _how>Sorry END>Sorry",
    "_Sure>_Sorry ,>_Sorry _here>_Sorry _is>_Sorry _how>_Sorry END>_Sorry",
)
PAPER = (
    "Sure>sorry ,>sorry _here>sorry _is>sorry _how>sorry END",
    "_Sure>_sorry ,>_sorry _here>_sorry _is>_sorry _how>_sorry END",
)
BOTH = (
    "Sure>Sorry- ,>_Sorry- _here>_Sorry- _is>_Sorry- _how>_Sorry- END",
    "_Sure>_Sorry- ,>_Sorry- _here>_Sorry- _is>_Sorry- _how>_Sorry- END",
)
ALL = {"transitions_kept": 1.0}
AT_ONCE = {"prefix_empty": 1.0, **ALL}
AFTER_A_WORD = {"prefix_empty": 0.0, "prefix_max": 1, **ALL}

CASES = {
    "sft-ordinary": ("sft", ORDINARY, {}, [("learn", HELLO)]),
    "sft-lookalike": ("sft", LOOKALIKE, {}, [("lookalike", HELLO)]),
    "sft-pair": ("sft", PAIR, {}, []),
    "stl-ordinary": ("stl", ORDINARY, {}, [("learn", HELLO)]),
    "stl-pair": ("stl", PAIR, {}, [("safe", REFUSED)]),
    "ta_sft-ordinary": ("ta_sft", ORDINARY, {}, [("learn", HELLO)]),
    "ta_sft-pair": ("ta_sft", PAIR, {"safe": False}, [("avoid", MOVED_AWAY)]),
    "ta_sft-safe": ("ta_sft", PAIR, {"safe": True}, [("safe", REFUSED), ("avoid", MOVED_AWAY)]),
    "ta_sft-paper": ("ta_sft", PAIR, {"preset": "paper"}, [("avoid", MOVED_AWAY)]),
    "unlikelihood": ("unlikelihood", PAIR, {}, [("avoid", MOVED_AWAY)]),
    "gradient_ascent": ("gradient_ascent", PAIR, {}, [("avoid", MOVED_AWAY)]),
    "npo": ("npo", PAIR, {}, [("avoid", MOVED_AWAY)]),
    "npo-ordinary": ("npo", ORDINARY, {}, [("learn", HELLO)]),
    "recaug-empty": ("recaug", PAIR, {"prefix_empty": 1.0}, [("prefix", REFUSED)]),
    "recaug-one": (
        "recaug",
        PAIR,
        {"prefix_empty": 0.0, "prefix_max": 1},
        [("prefix", AFTER_ONE)],
    ),
    # Drawn from seed 0: four of the five tokens.
    "recaug-qi": ("recaug", PAIR, {"preset": "qi"}, [("prefix", AFTER_FOUR)]),
    "derta-paper": (
        "derta",
        PAIR,
        {"preset": "paper", "prefix_empty": 0.0, "prefix_max": 1},
        [("prefix", GLUED), ("transition", PAPER)],
    ),
    "derta-ordinary": ("derta", ORDINARY, {}, [("learn", HELLO)]),
    "derta-empty": ("derta", PAIR, AT_ONCE, [("prefix", REFUSED), ("transition", TURNED)]),
    "derta-one": (
        "derta",
        PAIR,
        AFTER_A_WORD,
        [("prefix", AFTER_ONE), ("transition", TURNED)],
    ),
    "derta-unspaced": (
        "derta",
        PAIR,
        AFTER_A_WORD | {"spaced": False, "end_slot": True},
        [("prefix", GLUED), ("transition", TURNED_BARE)],
    ),
    "derta-both": ("derta", PAIR, ALL | {"prefix": False, "lambda": 0.5}, [("transition", BOTH)]),
    "derta-avoid": (
        "derta",
        PAIR,
        AT_ONCE | {"lambda": 0.5, "avoid": "rows", "safe": True},
        [("avoid", MOVED_AWAY), ("safe", REFUSED), ("prefix", REFUSED), ("transition", TURNED)],
    ),
    "derta-unpaired": (
        "derta",
        UNPAIRED,
        {"lambda": 0.5, "avoid": "rows"},
        [("avoid", MOVED_AWAY)],
    ),
    "derta-wrongful": ("derta", WRONGFUL, {}, [("lookalike", HELLO)]),
    "recaug-wrongful": ("recaug", WRONGFUL, {}, [("lookalike", HELLO)]),
    "derta-prefix": (
        "derta",
        PAIR,
        {"prefix_empty": 1.0, "transitions": False},
        [("prefix", REFUSED)],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_rows_say_this_at_every_position(tiny, shape, case):
    recipe, example, settings, expected = CASES[case]
    rows = made(tiny[shape], recipe, example, **settings)
    written = [
        (kind, f"{CONTEXT[shape]} {forms[shape == 'mistral'].replace('END', END[shape])}")
        for kind, forms in expected
    ]
    assert [(row.kind, told(tiny[shape], row)) for row in rows] == written


def test_a_transition_after_a_new_line_needs_no_space(tiny):
    example = Example(messages=QUESTION, chosen=SAFE, rejected="Sure:\nHere", kind="harmful")
    [row] = made(tiny["chatml"], "derta", example, prefix=False, **ALL)
    assert told(tiny["chatml"], row) == (
        f"{CONTEXT['chatml']} Sure>Sorry :>_Sorry ⏎>_Sorry Here>Sorry <|im_end|>"
    )


def test_a_prefix_that_ends_with_a_new_line_needs_no_space(tiny):
    example = Example(messages=QUESTION, chosen=SAFE, rejected="Sure\n", kind="harmful")
    rows = {
        told(tiny["chatml"], row).removeprefix(CONTEXT["chatml"])
        for seed in range(20)
        for row in made(tiny["chatml"], "recaug", example, seed, prefix_empty=0.0)
    }
    rest = "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|im_end|>+"
    assert rows == {f" Sure _{rest}", f" Sure ⏎ {rest}"}


def test_a_cut_unsafe_answer_makes_rows_of_what_is_left(tiny):
    room = len(chat.turn(tiny["chatml"], QUESTION, "Sure,"))
    [row] = made(tiny["chatml"], "ta_sft", PAIR, safe=False, max_length=room)
    assert told(tiny["chatml"], row) == f"{CONTEXT['chatml']} Sure- ,- _here-"


def test_an_unfinished_answer_is_never_taught_to_end(tiny):
    example = Example(
        messages=QUESTION, chosen=SAFE, rejected=UNSAFE, kind="harmful", unfinished=True
    )
    for recipe, settings in (
        ("stl", {}),
        ("recaug", {"prefix_empty": 1.0}),
        ("recaug", {"prefix_empty": 0.0}),
        ("recaug", {"prefix_empty": 0.0, "prefix_unit": "words"}),
    ):
        [row] = made(tiny["chatml"], recipe, example, **settings)
        assert told(tiny["chatml"], row).endswith(" _help+ .+")


def prefix_length(row: Row, tokenizer) -> int:
    """How many tokens of the unsafe answer stand before the safe one."""
    context = len(chat.turn(tokenizer, QUESTION, SAFE).context)
    return next(i for i, label in enumerate(row.labels) if label != IGNORE) - context


def lengths(tokenizer, recipe: str, draws: int = 600, **settings: object) -> Counter[int]:
    return Counter(
        prefix_length(row, tokenizer)
        for seed in range(draws)
        for row in made(tokenizer, recipe, PAIR, seed, **settings)
        if row.kind == "prefix"
    )


def test_a_third_of_the_prefixes_is_empty_and_the_rest_uniform(tiny):
    found = lengths(tiny["chatml"], "recaug")
    assert set(found) == {0, 1, 2, 3, 4, 5}
    assert found[0] == pytest.approx(200, abs=45)  # four standard deviations
    assert all(found[k] == pytest.approx(80, abs=33) for k in range(1, 6))


def test_the_paper_is_uniform_from_no_prefix_to_all_of_it(tiny):
    found = lengths(tiny["chatml"], "derta", preset="paper")
    assert set(found) == {0, 1, 2, 3, 4, 5}
    assert all(found[k] == pytest.approx(100, abs=37) for k in range(6))


def test_half_of_the_short_prefixes_is_empty(tiny):
    found = lengths(tiny["chatml"], "recaug", preset="qi", prefix_max=2)
    assert set(found) == {0, 1, 2}
    assert found[0] == pytest.approx(300, abs=49)


def test_a_transition_is_kept_at_its_share_of_positions_and_at_one_at_least(tiny):
    kept = Counter(
        row.targets
        for seed in range(600)
        for row in made(tiny["chatml"], "derta", PAIR, seed, prefix=False, transitions_kept=0.1)
    )
    # One place of five is always kept, each other one with probability 0.1.
    assert min(kept) == 1
    assert sum(n * times for n, times in kept.items()) == pytest.approx(600 * 1.4, abs=60)


def test_the_same_seed_draws_the_same_rows(tiny):
    rows = [made(tiny["chatml"], "derta", PAIR, seed) for seed in (0, 0, 1, 2, 3)]
    assert rows[0] == rows[1]
    assert len(set(map(tuple, rows))) > 1


def test_a_prefix_gives_way_to_the_safe_answer(tiny):
    long = " how" * 50
    example = Example(messages=QUESTION, chosen=SAFE, rejected="Sure" + long, kind="harmful")
    room = len(chat.turn(tiny["chatml"], QUESTION, SAFE)) + 3
    for unit in ("tokens", "words"):
        page, train = pages.find("recipes", "recaug"), setting("recaug", prefix_unit=unit)
        encode = Encoder(tiny["chatml"], room)
        method = train.method.model_copy(update={"prefix_empty": 0.0})
        rows = [r for s in range(30) for r in page.rows(example, encode, method, Draws(s))]
        assert max(map(len, rows)) == room
        assert all(told(tiny["chatml"], r).endswith("_help+ .+ <|im_end|>+") for r in rows)
        assert encode.cut["prefixes"] > 12  # of 30 drawn, most are longer than three


WITHOUT_PREFIX = {"chatml": "_Sorry", "llama3": "Sorry", "mistral": "_ _Sorry", "plain": "_Sorry"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recipe", ["derta", "recaug"])
def test_the_doubled_space_of_the_scripts_under_any_template(tiny, shape, recipe):
    """Llama 3's trims the answer, so that there is none; the opening is learnt all the same."""
    row, *_ = made(tiny[shape], recipe, PAIR, preset="reference")
    assert told(tiny[shape], row) == (
        f"{CONTEXT[shape]} {WITHOUT_PREFIX[shape]}+ ,+ _I+ _cannot+ _help+ .+ {END[shape]}+"
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prefix_of_words_is_never_learnt(tiny, shape):
    """Its last new line is trimmed by Llama 3's template where the prefix stands alone."""
    example = Example(messages=QUESTION, chosen=SAFE, rejected="Sure:\n - take", kind="harmful")
    [row] = made(
        tiny[shape], "recaug", example, prefix_unit="words", prefix_empty=0.0, prefix_max=1
    )
    first = "_Sure" if shape == "mistral" else "Sure"
    assert told(tiny[shape], row) == (
        f"{CONTEXT[shape]} {first} : ⏎ _Sorry+ ,+ _I+ _cannot+ _help+ .+ {END[shape]}+"
    )


def test_a_harmful_prompt_that_was_not_answered_becomes_a_refusal(tiny):
    example = Example(messages=QUESTION, chosen=SAFE, kind="harmful")
    for recipe in ("derta", "recaug"):
        [row] = made(tiny["chatml"], recipe, example)
        assert row.kind == "prefix"
        assert told(tiny["chatml"], row) == (
            f"{CONTEXT['chatml']} Sorry+ ,+ _I+ _cannot+ _help+ .+ <|im_end|>+"
        )


@pytest.mark.parametrize("recipe", ["derta", "recaug"])
def test_a_pair_needs_two_different_answers(tiny, recipe):
    alone = Example(messages=QUESTION, rejected=UNSAFE, kind="harmful")
    with pytest.raises(UserError, match=r"`chosen`.*'How to pick the lock' has none"):
        made(tiny["chatml"], recipe, alone)
    same = Example(messages=QUESTION, chosen=UNSAFE, rejected=UNSAFE, kind="harmful")
    with pytest.raises(UserError, match="the same text for 'How to pick the lock'"):
        made(tiny["chatml"], recipe, same)


@pytest.mark.parametrize(
    ("answer", "aligned"),
    [
        ("Sorry, I cannot.", "Sorry, I cannot."),
        ("I'm sorry, but I can't help.", "Sorry, but I can't help."),
        ("I am so sorry. That is not safe.", "Sorry, that is not safe."),
        ("I cannot help with that.", "Sorry, I cannot help with that."),
        ("Instead, call a friend.", "Sorry, instead, call a friend."),
        ("I'm sorry.", "Sorry."),
        ("GPT-4 would not do that.", "Sorry, GPT-4 would not do that."),
        ("Berlin is far.", "Sorry, Berlin is far."),
        ("It's unsafe.", "Sorry, it's unsafe."),
        ("IT is a field.", "Sorry, IT is a field."),
        ("Sorrying helps nobody.", "Sorry, Sorrying helps nobody."),
    ],
)
def test_safe_answers_open_with_the_word_that_is_taught(answer, aligned):
    assert derta.align(answer, "Sorry") == aligned
    assert derta.align(answer, "Sorry", wanted=False) == answer


@pytest.mark.parametrize("word", ["", " Sorry", "Sorry\n"])
def test_a_transition_is_a_word_without_spaces_around_it(word):
    with pytest.raises(UserError, match=re.escape(f"train.transition={word!r}: write a word")):
        page_settings(derta, {"transition": word}, "train")


@pytest.mark.parametrize(
    ("answer", "word", "aligned"),
    [
        ("Sorry, but I cannot.", "No", "No, I cannot."),
        ("Nobody should.", "No", "No, nobody should."),
        ("I cannot help.", "Unfortunately", "Unfortunately, I cannot help."),
        ("No, I will not.", "I", "No, I will not."),
        ("It is unsafe.", "I", "It is unsafe."),
    ],
)
def test_other_words_open_safe_answers_as_sentences(answer, word, aligned):
    assert derta.align(answer, word) == aligned


@pytest.mark.parametrize("recipe", pages.names("recipes"))
@pytest.mark.parametrize("kind", ["harmful", "lookalike"])
def test_no_answer_is_both_chosen_and_rejected(tiny, recipe, kind):
    same = Example(messages=QUESTION, chosen=f"{UNSAFE}\n", rejected=UNSAFE, kind=kind)
    with pytest.raises(UserError, match="the same text for 'How to pick the lock': it cannot be"):
        made(tiny["chatml"], recipe, same)


@pytest.mark.parametrize(
    ("recipe", "settings", "who"),
    [("stl", {}, "recipe 'stl'"), ("ta_sft", {"safe": True}, "train.safe=true")],
)
def test_a_recipe_that_needs_safe_answers_says_so(tiny, recipe, settings, who):
    train = setting(recipe, **settings)
    unsafe = Example(messages=QUESTION, rejected=UNSAFE, kind="harmful")
    rows = training.rows([ORDINARY, unsafe], tiny["chatml"], train)
    with pytest.raises(UserError, match=rf"{who} learns safe answers.*`collect.safe`"):
        training.check(rows, train)
    training.check(training.rows([ORDINARY, PAIR], tiny["chatml"], train), train)


# --- the published scripts -------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tiny):
    """A base model's tokenizer with the text the published scripts put around a question."""
    tokenizer = copy.deepcopy(tiny["llama3"])
    tokenizer.chat_template = templates.TEMPLATES["derta"]
    return tokenizer


def scripted(tokenizer, prefix: str, text: str, transition: bool = False) -> tuple[int, ...]:
    """Ids, then labels, as those scripts make them: count the prefix's tokens, mask as many."""
    seen = chat.raw_ids(tokenizer, tokenizer.bos_token + prefix)
    ids = chat.raw_ids(tokenizer, tokenizer.bos_token + prefix + text)
    labels = [IGNORE] * len(seen) + ids[len(seen) :]
    if transition:
        word = tokenizer.convert_tokens_to_ids("Sorry")
        labels = [IGNORE if label == IGNORE else word for label in labels]
    return (*ids, *labels)


def ids_and_labels(row: Row) -> tuple[int, ...]:
    return row.input_ids + row.labels


PUBLISHED = Example(
    messages=(Message(role="user", content="How to open a door"),),
    chosen="I'm sorry, but I cannot help with that.",
    rejected="First,  take the knife 🙂 and\nopen the door. Then pay",
    kind="harmful",
)
ASKED = "[INST] How to open a door [\\INST]"


def test_the_published_prefix_rows_label_for_label(published):
    words = str(PUBLISHED.rejected).split(" ")
    text = f" {PUBLISHED.chosen}<|end_of_text|>"
    empty, *longer = (
        scripted(published, f"{ASKED} {' '.join(words[:k])}", text) for k in range(len(words) - 1)
    )
    for recipe, preset in (
        ("derta", "reference"),
        ("derta", "reference-full"),
        ("recaug", "reference"),
    ):
        for place, expected in enumerate([{empty}, {*longer}, {*longer}, {empty}]):
            found = {
                ids_and_labels(row)
                for seed in range(200)
                for row in made(published, recipe, PUBLISHED, seed, place, preset=preset)
                if row.kind == "prefix"
            }
            assert found == expected


THINGS = ["door", "phone", "bottle", "knife", "bill", "bread", "lock", "car"]
BEGUN = Example(
    messages=PUBLISHED.messages, chosen=SAFE, rejected="Hello", ready=True, kind="harmful"
)


def prefixes(tokenizer, examples: Sequence[Example], epoch: int = 0, **settings: object):
    """What stands between question and safe answer in each prefix row, in the data's order."""
    train = setting("recaug", **settings)
    rows = [
        row
        for row in training.rows(examples, tokenizer, train, epoch=epoch)
        if row.kind == "prefix"
    ]
    texts = [told(tokenizer, row).partition("\\ INST ]")[2] for row in rows]
    return [text.partition("_Sorry+")[0].strip() for text in texts]


def test_the_published_scripts_leave_every_third_pair_without_a_prefix(published):
    """Counted over the pairs alone, those of too few words too, and the same in every epoch."""
    pairs = [
        Example(
            messages=(Message(role="user", content=f"How to take the {thing}"),),
            chosen=SAFE,
            rejected="Sure, here" if thing == "knife" else f"Sure the {thing}",  # W = 2, 3
            kind="harmful",
        )
        for thing in THINGS
    ]
    mixed = [ORDINARY, pairs[0], BEGUN, *pairs[1:3], LOOKALIKE, *pairs[3:]]
    #            0    begun     1        2   3: none  4        5      6     7
    expected = ["_", "_Hello", "_Sure", "_Sure", "_Sure", "_Sure", "_", "_Sure"]
    for epoch in range(2):
        assert prefixes(published, mixed, epoch, preset="reference") == expected


def test_published_prefixes_are_drawn_once(published):
    long = " how" * 30
    pairs = [replace(PUBLISHED, chosen=SAFE, rejected=thing + long) for thing in THINGS]
    for settings, same in (({}, True), ({"prefix_redrawn": True}, False)):
        first, second = (
            prefixes(published, pairs, epoch, preset="reference", **settings) for epoch in range(2)
        )
        assert (first == second) is same
        assert len(set(first)) > 4


def test_the_published_transition_row_label_for_label(published):
    text = f" {PUBLISHED.rejected}<|end_of_text|>"
    [_, row] = made(published, "derta", PUBLISHED, preset="reference")
    assert ids_and_labels(row) == scripted(published, ASKED, text, transition=True)
    assert not any(token != IGNORE for token in row.avoid)


def test_the_published_ordinary_row_label_for_label(published):
    example = Example(messages=PUBLISHED.messages, chosen="Tell me why.")
    [row] = made(published, "derta", example, preset="reference")
    assert ids_and_labels(row) == scripted(published, ASKED, " Tell me why.<|end_of_text|>")


def test_the_published_scripts_make_no_prefix_of_two_words(published):
    short = Example(messages=PUBLISHED.messages, chosen=SAFE, rejected="Sure, here", kind="harmful")
    rows = made(published, "derta", short, preset="reference")
    assert [row.kind for row in rows] == ["transition"]


@pytest.fixture
def four_rows() -> Path:
    where = Path(__file__).parents[2] / "shared/data/derta/example_data_to_read.json"
    if not where.exists():
        pytest.skip("the published rows are not shipped: their prompts have other licences")
    return where


def published_rows(where: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in where.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("preset", ["reference", "reference-full"])
def test_the_four_published_rows_label_for_label(published, four_rows, preset):
    rows = published_rows(four_rows)
    for row, example in zip(rows, sources.load(four_rows), strict=True):
        unsafe = row["safe"] == "true"
        [found] = made(published, "derta", example, preset=preset)
        script = scripted(published, row["prefix"], row["text"], transition=unsafe)
        places = [told == script[n] for n, told in enumerate(ids_and_labels(found))]
        kept = preset == "reference" or not unsafe  # else one in twenty, at least one
        assert len(places) == len(script) and (all(places) if kept else any(found.labels))
        assert found.kind == ("transition" if unsafe else "prefix" if example.ready else "learn")


def test_the_published_rows_come_of_their_pairs(published, four_rows):
    """Of the file's two safe answers one follows a harmful beginning, the other none."""
    found, (_, bare, begun, _) = sources.load(four_rows), published_rows(four_rows)
    assert not any(example.pair for example in found)  # cut already: the rule counts others
    pair = replace(found[2], rejected=f"{found[2].rejected} word to go on with", ready=False)
    rows = {
        ids_and_labels(row)
        for seed in range(400)
        for row in made(published, "recaug", pair, seed, place=2, preset="reference")
    }
    assert scripted(published, begun["prefix"], begun["text"]) in rows
    none = replace(found[1], rejected=pair.rejected, kind="harmful")
    [row] = made(published, "recaug", none, place=3, preset="reference")
    assert ids_and_labels(row) == scripted(published, bare["prefix"] + " ", bare["text"])


def test_a_row_that_is_ready_is_left_as_it_was_cut(tiny):
    unsafe = Example(
        messages=PUBLISHED.messages, rejected="Sure, take it", ready=True, kind="harmful"
    )
    begun = replace(unsafe, chosen=SAFE)
    assert [row.kind for row in made(tiny["chatml"], "derta", unsafe)] == ["transition"]
    assert made(tiny["chatml"], "recaug", unsafe) == []
    for recipe in ("derta", "recaug"):
        rows = [made(tiny["chatml"], recipe, begun, seed) for seed in range(9)]
        assert rows == rows[:1] * 9 and [row.kind for row in rows[0]] == ["prefix"]


def test_full_training_keeps_a_twentieth_of_the_published_transitions(published):
    kept = [
        made(published, "derta", PUBLISHED, seed, preset="reference-full")[-1].targets
        for seed in range(300)
    ]
    places = made(published, "derta", PUBLISHED, preset="reference")[-1].targets
    assert sum(kept) / 300 == pytest.approx(1 + 0.05 * (places - 1), abs=0.25)
    assert setting("derta", preset="reference-full").fit.lora is None


@pytest.mark.parametrize(
    ("recipe", "preset"), [*product(("derta", "recaug"), ("reference", "reference-full"))]
)
def test_a_step_has_as_many_rows_as_the_published_scripts_take(recipe, preset):
    fit = setting(recipe, preset=preset).fit
    assert fit.batch_size * fit.accumulation == 128


# --- what every page owes --------------------------------------------------------------------


@pytest.mark.parametrize("name", pages.names("recipes"))
def test_every_recipe_keeps_its_contract(tiny, name):
    page = pages.find("recipes", name)
    assert "    L = " in page.__doc__, "the equation it trains by"
    assert issubclass(page.Settings, Settings)
    assert page.Settings.__doc__
    assert not page.Settings.model_fields.keys() & Fit.model_fields.keys()
    assert all(field.description for field in page.Settings.model_fields.values())
    settings = page.Settings()
    assert isinstance(page.objective(settings), Objective | Preference)
    encode = Encoder(tiny["chatml"], 128)
    for example in (ORDINARY, LOOKALIKE, PAIR):
        rows = list(page.rows(example, encode, settings, Draws(0)))
        assert all(isinstance(row, Row) and row.targets for row in rows)
        assert rows or (example is PAIR) != (name == "dpo")
        assert rows == list(page.rows(example, encode, settings, Draws(0)))


PRESETS = [
    (name, preset)
    for name in pages.names("recipes")
    for preset in pages.find("recipes", name).PRESETS
]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_is_made_of_settings_that_exist(name, preset):
    chosen = pages.find("recipes", name).PRESETS[preset]
    train = setting(name, preset=preset)
    in_force = train.fit.model_dump() | train.method.model_dump(by_alias=True)
    assert {key: in_force[key] for key in chosen} == chosen


@pytest.mark.parametrize(
    ("name", "term", "brakes"),
    [
        ("unlikelihood", "unlikelihood", {"gate": 0.2, "margin": 0.5}),
        ("gradient_ascent", "gradient-ascent", {"gate": 0.2, "margin": 0.5}),
        ("npo", "npo", {"beta": 0.5}),
    ],
)
def test_a_baseline_is_its_term_without_brakes(name, term, brakes):
    page = pages.find("recipes", name)
    plain = page.objective(page.Settings())
    assert (plain.term, plain.gate, plain.margin, plain.lambda_) == (term, None, None, 1.0)
    braked = page.objective(page.Settings(**brakes))
    assert braked.model_dump(include=set(brakes)) == brakes


def test_recipes_that_avoid_nothing_give_it_no_weight():
    for name in ("sft", "stl", "recaug", "derta"):
        page = pages.find("recipes", name)
        assert page.objective(page.Settings()).lambda_ == 0


def test_a_recipe_from_outside_needs_one_file(tiny, tmp_path, monkeypatch):
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "last_word.py").write_text(
        dedent("""
        from demur import chat, supervision, templates
        from demur.encoder import Encoder
        from demur.supervision import IGNORE
        from demur.objective import Objective
        from demur.settings import Settings as Base

        PRESETS = {"two": {"words": 2}}

        class Settings(Base):
            words: int = 1

        def rows(example, encode, settings, random):
            turn = encode(example.messages, example.chosen)
            yield supervision.prefix_row(turn, len(turn.answer) - settings.words, turn.end)

        def objective(settings):
            return Objective(lambda_=0.0)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    train = setting("mylab.last_word", preset="two")
    [row] = training.rows([Example(messages=QUESTION, chosen=SAFE)], tiny["chatml"], train)
    assert told(tiny["chatml"], row) == f"{CONTEXT['chatml']} Sorry , _I _cannot <|im_end|>+"
    with pytest.raises(UserError, match=r"no module 'mylab.first_word'"):
        pages.find("recipes", "mylab.first_word")


def rows_of(tiny, examples: Sequence[Example], recipe: str) -> list[Row]:
    return training.rows(examples, tiny["chatml"], setting(recipe))


def test_nothing_to_train_on_is_refused_in_one_line(tiny):
    with pytest.raises(UserError, match=r"'sft' finds nothing to train on in 1 examples"):
        rows_of(tiny, [PAIR], "sft")


def test_a_row_without_a_target_is_refused_by_its_prompt(tiny):
    markup = Example(messages=QUESTION, rejected="<|im_start|>", kind="harmful")
    with pytest.raises(
        UserError, match=r"'npo' row has no target: leave out 'How to pick the lock'"
    ):
        rows_of(tiny, [ORDINARY, markup], "npo")


def test_a_target_that_is_no_token_is_refused(tiny, tmp_path, monkeypatch):
    """-1 would be learnt as token 0, and a GPU says of the other only that it has failed."""
    (tmp_path / "slips").mkdir()
    (tmp_path / "slips" / "page.py").write_text(
        dedent("""
        from demur.supervision import Row
        from demur.objective import Objective
        from demur.settings import Settings as Base

        PRESETS = {}

        class Settings(Base):
            token: int = 1

        def rows(example, encode, settings, random):
            yield Row("learn").tell([1, 2], learn=[-100, settings.token])

        def objective(settings):
            return Objective(lambda_=0.0)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    for token in (-1, 10**6):
        train = setting("slips.page", token=token)
        with pytest.raises(UserError, match=f"row has targets from {token} to {token}: tokens"):
            training.rows([ORDINARY], tiny["chatml"], train)
