"""The token that a refusal opens with, in every shape of template."""

from __future__ import annotations

import copy

import pytest

from conftest import shown
from demur import chat, templates, transitions
from demur.encoder import Encoder
from demur.errors import UserError
from exchanges import SHAPES

TRANSITIONS = {
    "chatml": "Sorry _Sorry Sorry",
    "llama3": "Sorry _Sorry Sorry",
    "mistral": "_Sorry _Sorry _Sorry",
    "plain": "Sorry _Sorry Sorry",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transition_has_a_form_for_the_opening_one_after_a_word_and_its_own(tiny, shape):
    word = transitions.resolve(tiny[shape], "Sorry")
    assert shown(tiny[shape], [word.opening, word.spaced, word.bare]) == TRANSITIONS[shape]


def test_a_template_with_a_space_before_the_answer_has_a_spaced_opening(tiny):
    tokenizer = copy.deepcopy(tiny["llama3"])
    tokenizer.chat_template = templates.TEMPLATES["derta"]
    word = transitions.resolve(tokenizer, "Sorry")
    assert shown(tokenizer, [word.opening, word.spaced, word.bare]) == "_Sorry _Sorry Sorry"


def test_a_spaced_opening_of_two_tokens_gives_its_first(tiny):
    encode = Encoder(tiny["chatml"], 64)
    assert shown(tiny["chatml"], encode.continued("Unable")[:1]) == "_"  # " Unable" is no token
    with pytest.raises(
        UserError, match=r"train.transition='Unable' is \d+ tokens.*'Sorry', 'Unfor"
    ):
        transitions.resolve(tiny["chatml"], "Unable")


def test_a_transition_that_would_teach_a_space_alone_is_refused(tiny):
    with pytest.raises(UserError, match=r"train.transition='!' begins, after a word.*' '.*'Sorry'"):
        transitions.resolve(tiny["chatml"], "!")
    assert (
        transitions.resolve(tiny["chatml"], "!", spaced=False).bare
        == chat.raw_ids(tiny["chatml"], "!")[0]
    )
