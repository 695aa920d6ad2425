"""What a recipe is told of an exchange, and what of it was cut."""

from __future__ import annotations

import copy

import pytest

from conftest import shown, told
from demur import chat, supervision
from demur.encoder import Encoder
from exchanges import CONTEXT, QUESTION, SAFE, SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_continued_has_a_space_and_an_opening_may_not(tiny, shape):
    encode = Encoder(tiny[shape], 64)
    assert shown(tiny[shape], encode.continued(SAFE)) == "_Sorry , _I _cannot _help ."


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("after", "needed"), [("how", True), (",", True), ("🙂", True), ("how ", False), ("\n", False)]
)
def test_a_space_is_needed_after_all_but_a_space(tiny, shape, after, needed):
    token = chat.raw_ids(tiny[shape], "a" + after)[-1]
    assert Encoder(tiny[shape], 64).needs_space(token) is needed


def test_an_encoder_counts_what_it_cut_and_renders_nothing_twice(tiny):
    encode = Encoder(tiny["chatml"], 16)
    cut = encode(QUESTION, SAFE)
    assert len(cut) == 16
    assert encode.cut["answers"] == 1
    assert encode(QUESTION, SAFE) is cut
    assert encode.cut["answers"] == 1
    encode(QUESTION, "Sorry")
    assert encode.cut["answers"] == 1


def test_a_template_without_a_turn_end_cuts_nothing(tiny):
    tokenizer = copy.deepcopy(tiny["plain"])
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "")
    encode = Encoder(tokenizer, 64)
    assert encode(QUESTION, SAFE).end == ()
    assert encode.cut["answers"] == 0


def test_an_unfinished_answer_is_learnt_without_its_end(tiny):
    encode = Encoder(tiny["chatml"], 64)
    row = supervision.learn_row(encode(QUESTION, SAFE, unfinished=True))
    assert told(tiny["chatml"], row) == (f"{CONTEXT['chatml']} Sorry+ ,+ _I+ _cannot+ _help+ .+")
    assert encode(QUESTION, SAFE).end  # the same words, finished elsewhere
    assert encode.cut["answers"] == 0
