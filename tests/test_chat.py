"""Text becomes ids: every one is written out."""

from __future__ import annotations

import copy

import pytest

from conftest import shown, told
from demur import chat, supervision
from demur.errors import UserError
from demur.records import Message
from exchanges import ANSWER, CONTEXT, END, QUESTION, SAFE, SHAPES, UNSAFE


@pytest.mark.parametrize("shape", SHAPES)
def test_a_turn_is_cut_where_the_targets_change(tiny, shape):
    tokenizer = tiny[shape]
    turn = chat.turn(tokenizer, QUESTION, SAFE)
    assert shown(tokenizer, turn.context) == CONTEXT[shape]
    assert shown(tokenizer, turn.answer) == ANSWER[shape]
    # What a template writes after it (a new line in ChatML) is never generated, so never taught.
    assert shown(tokenizer, turn.end) == END[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ids_are_those_the_template_yields(tiny, shape):
    tokenizer = tiny[shape]
    turn = chat.turn(tokenizer, QUESTION, SAFE)
    answered = [*QUESTION, Message(role="assistant", content=SAFE)]
    whole = tokenizer.apply_chat_template(answered, tokenize=True)["input_ids"]
    assert list(turn.context + turn.answer + turn.end) == whole[: len(turn)]


MANY = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello"),
    Message(role="user", content="How"),
)
MANY_TOLD = {
    "chatml": "<|im_start|> user ⏎ Hi <|im_end|> ⏎ <|im_start|> assistant ⏎ Hello <|im_end|> ⏎ "
    "<|im_start|> user ⏎ How <|im_end|> ⏎ <|im_start|> assistant ⏎ Hello+ <|im_end|>+",
    "llama3": "<|begin_of_text|> <|start_header_id|> user <|end_header_id|> ⏎ ⏎ Hi <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ⏎ ⏎ Hello <|eot_id|> "
    "<|start_header_id|> user <|end_header_id|> ⏎ ⏎ How <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ⏎ ⏎ Hello+ <|eot_id|>+",
    "mistral": "<s> [ I NS T ] _Hi _ [ / I NS T ] _Hello </s> "
    "[ I NS T ] _How _ [ / I NS T ] _Hello+ </s>+",
    "plain": "Hi ⏎ ⏎ Hello <|endoftext|> ⏎ ⏎ How ⏎ ⏎ Hello+ <|endoftext|>+",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_earlier_turns_are_context_even_if_they_say_the_same(tiny, shape):
    row = supervision.learn_row(chat.turn(tiny[shape], MANY, "Hello"))
    assert told(tiny[shape], row) == MANY_TOLD[shape]


EMOJI = {
    "chatml": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|im_end|>+",
    "llama3": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|eot_id|>+",
    "mistral": "_Hello+ _+ <0xF0>+ <0x9F>+ <0x99>+ <0x82>+ <0xC3>+ <0xA9>+ </s>+",
    "plain": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|endoftext|>+",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_byte_of_a_character_belongs_to_the_answer(tiny, shape):
    row = supervision.learn_row(chat.turn(tiny[shape], QUESTION, "Hello 🙂é"))
    assert told(tiny[shape], row) == f"{CONTEXT[shape]} {EMOJI[shape]}"


def test_a_space_that_only_the_answer_brings_is_learnt(tiny):
    # It is not in the prompt ("[/INST]"), and no token of the answer has swallowed it.
    row = supervision.learn_row(chat.turn(tiny["mistral"], QUESTION, "🙂"))
    learnt = "_+ <0xF0>+ <0x9F>+ <0x99>+ <0x82>+ </s>+"
    assert told(tiny["mistral"], row) == f"{CONTEXT['mistral']} {learnt}"


def test_a_template_that_strips_keeps_the_rest(tiny):
    row = supervision.learn_row(chat.turn(tiny["llama3"], QUESTION, "  Hello\n"))
    assert told(tiny["llama3"], row) == f"{CONTEXT['llama3']} Hello+ <|eot_id|>+"


def test_an_answer_that_stands_in_the_template_is_found_where_it_is_the_answer(tiny):
    for answer in ("assistant", "user", "How to pick the lock"):
        turn = chat.turn(tiny["chatml"], QUESTION, answer)
        assert shown(tiny["chatml"], turn.context) == CONTEXT["chatml"]
        assert tiny["chatml"].decode(turn.answer) == answer


def test_a_cut_answer_is_not_taught_to_end(tiny):
    tokenizer = tiny["chatml"]
    whole = chat.turn(tokenizer, QUESTION, SAFE)
    cut = chat.turn(tokenizer, QUESTION, SAFE, max_length=len(whole) - 2)
    assert told(tokenizer, supervision.learn_row(cut)) == (
        f"{CONTEXT['chatml']} Sorry+ ,+ _I+ _cannot+ _help+"
    )
    # Where the turn end alone does not fit the answer is whole, and still not taught to end.
    assert chat.turn(tokenizer, QUESTION, SAFE, len(whole) - 1) == chat.Turn(
        whole.context, whole.answer, ()
    )
    assert chat.turn(tokenizer, QUESTION, SAFE, len(whole)) == whole


def test_a_prompt_that_fills_the_row_is_refused(tiny):
    room = len(chat.turn(tiny["chatml"], QUESTION, SAFE).context)
    with pytest.raises(UserError, match=rf"fills all {room} tokens.*raise max_length") as error:
        chat.turn(tiny["chatml"], QUESTION, SAFE, max_length=room)
    assert "\n" not in str(error.value)


def test_an_answer_the_template_drops_is_refused(tiny):
    tokenizer = copy.deepcopy(tiny["chatml"])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}"
        "{% endif %}{% endfor %}"
    )
    with pytest.raises(UserError, match=r"does not keep the answer 'Sorry.*model.chat_template"):
        chat.turn(tokenizer, QUESTION, SAFE)


def test_no_template_names_the_cure(tiny):
    tokenizer = copy.deepcopy(tiny["chatml"])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"no chat template; set model.chat_template .*'plain'"):
        chat.turn(tokenizer, QUESTION, SAFE)


def test_a_role_the_template_refuses_is_a_users_mistake(tiny):
    tokenizer = copy.deepcopy(tiny["mistral"])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system turn here') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    system = Message(role="system", content="you are good")
    with pytest.raises(UserError, match=r"refuses turns of system, user.*no system turn here"):
        chat.turn(tokenizer, [system, *QUESTION], SAFE)


def test_an_empty_answer_is_refused(tiny):
    with pytest.raises(UserError, match="an empty answer"):
        chat.turn(tiny["chatml"], QUESTION, "")


def test_an_answer_may_begin_as_the_generation_prompt_ends(tiny):
    tokenizer = copy.deepcopy(tiny["chatml"])
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", "assistant\n<a>{%")
    turn = chat.turn(tokenizer, QUESTION, "<a>help</a>Sorry")
    assert tokenizer.decode(turn.answer) == "<a>help</a>Sorry"
    assert shown(tokenizer, turn.context) == CONTEXT["chatml"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prefilled_prompt_is_the_beginning_of_the_turn(tiny, shape):
    tokenizer = tiny[shape]
    turn = chat.turn(tokenizer, QUESTION, UNSAFE)
    whole = list(turn.context + turn.answer)
    for given, tokens in (("Sure", 1), ("Sure,", 2), ("Sure, here", 3), (UNSAFE, 5)):
        ids = chat.prompt_ids(tokenizer, QUESTION, given)
        assert ids == whole[: len(turn.context) + tokens]
    assert chat.prompt_ids(tokenizer, QUESTION) == list(turn.context)


def test_raw_text_gets_no_token_of_its_own(tiny):
    assert shown(tiny["mistral"], chat.raw_ids(tiny["mistral"], "Sorry")) == "_Sorry"


@pytest.mark.parametrize("shape", SHAPES)
def test_generation_stops_at_the_turn_end_and_the_end_of_the_text(tiny, shape):
    tokenizer = tiny[shape]
    names = {END[shape], tokenizer.eos_token}
    assert chat.stop_ids(tokenizer) == set(tokenizer.convert_tokens_to_ids(list(names)))


def test_markup_counts_as_special_whether_it_has_a_name_or_not(tiny):
    found = chat.special_ids(tiny["llama3"])
    assert shown(tiny["llama3"], sorted(found)) == (
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
    )


def test_padding_is_the_padding_token_or_else_the_end_of_the_text(tiny):
    assert chat.pad_id(tiny["chatml"]) == tiny["chatml"].pad_token_id
    assert chat.pad_id(tiny["llama3"]) == tiny["llama3"].eos_token_id


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_begun_is_context(tiny, shape):
    turn = chat.turn(tiny[shape], QUESTION, f"{SAFE}\n", begun="Sure,\n")
    first = "_Sure" if shape == "mistral" else "Sure"
    assert shown(tiny[shape], turn.context) == f"{CONTEXT[shape]} {first} , ⏎"
    kept = "" if shape == "llama3" else " ⏎"  # its template trims
    assert shown(tiny[shape], turn.answer) == f"_Sorry , _I _cannot _help .{kept}"
    assert shown(tiny[shape], turn.end) == END[shape]
