"""Text becomes ids and targets: every position is written out."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import demur
from conftest import shown, told
from demur import chat
from demur.errors import UserError
from demur.records import Message

SHAPES = ("chatml", "llama3", "mistral", "plain")
QUESTION = (Message(role="user", content="How to pick the lock"),)
SAFE, UNSAFE = "Sorry, I cannot help.", "Sure, here is how"

CONTEXT = {
    "chatml": "<|im_start|> user ⏎ How _to _pick _the _lock <|im_end|> ⏎ <|im_start|> assistant ⏎",
    "llama3": "<|begin_of_text|> <|start_header_id|> user <|end_header_id|> ⏎ ⏎ "
    "How _to _pick _the _lock <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ⏎ ⏎",
    "mistral": "<s> [ I NS T ] _How _to _pick _the _lock _ [ / I NS T ]",
    "plain": "How _to _pick _the _lock ⏎ ⏎",
}
ANSWER = {
    "chatml": "Sorry , _I _cannot _help .",
    "llama3": "Sorry , _I _cannot _help .",
    "mistral": "_Sorry , _I _cannot _help .",
    "plain": "Sorry , _I _cannot _help .",
}
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "plain": "<|endoftext|>"}


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


LEARNT = {
    "chatml": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|im_end|>+",
    "llama3": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|eot_id|>+",
    "mistral": "_Sorry+ ,+ _I+ _cannot+ _help+ .+ </s>+",
    "plain": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|endoftext|>+",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_sft_learns_the_answer_and_the_turn_end(tiny, shape):
    row = chat.learn_row(chat.turn(tiny[shape], QUESTION, SAFE))
    assert told(tiny[shape], row) == f"{CONTEXT[shape]} {LEARNT[shape]}"
    assert row.targets == 7


AVOIDED = {
    "chatml": "Sure- ,- _here- _is- _how- <|im_end|>",
    "llama3": "Sure- ,- _here- _is- _how- <|eot_id|>",
    "mistral": "_Sure- ,- _here- _is- _how- </s>",
    "plain": "Sure- ,- _here- _is- _how- <|endoftext|>",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_turn_end_of_an_avoided_answer_is_left_alone(tiny, shape):
    tokenizer = tiny[shape]
    turn = chat.turn(tokenizer, QUESTION, UNSAFE)
    row = chat.avoid_row(turn, chat.special_ids(tokenizer))
    assert told(tokenizer, row) == f"{CONTEXT[shape]} {AVOIDED[shape]}"


@pytest.mark.parametrize("shape", SHAPES)
def test_special_tokens_inside_an_answer_are_not_avoided(tiny, shape):
    tokenizer, mark = tiny[shape], END[shape]
    turn = chat.turn(tokenizer, QUESTION, f"Sure{mark}Sure")
    row = chat.avoid_row(turn, chat.special_ids(tokenizer))
    assert f"Sure- {mark} " in told(tokenizer, row)
    assert mark + "-" not in told(tokenizer, row)


def test_a_prefix_row_learns_the_safe_answer_alone(tiny):
    tokenizer = tiny["chatml"]
    safe = chat.turn(tokenizer, QUESTION, SAFE)
    row = chat.prefix_row(chat.turn(tokenizer, QUESTION, UNSAFE), 2, safe.answer + safe.end)
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} Sure , {LEARNT['chatml']}"


def test_a_transition_row_teaches_another_word_where_it_is_kept(tiny):
    tokenizer = tiny["chatml"]
    turn, word = chat.turn(tokenizer, QUESTION, UNSAFE), tokenizer.convert_tokens_to_ids("Sorry")
    keep = [True, False, False, True, False]
    row = chat.transition_row(turn, [word] * 5, keep)
    told_row = "Sure>Sorry , _here _is>Sorry _how <|im_end|>"
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} {told_row}"


def test_both_in_one_row_avoid_every_unsafe_token_and_teach_where_kept(tiny):
    tokenizer = tiny["chatml"]
    turn, word = chat.turn(tokenizer, QUESTION, UNSAFE), tokenizer.convert_tokens_to_ids("Sorry")
    keep = [True, False, False, True, False]
    row = chat.transition_row(turn, [word] * 5, keep, chat.special_ids(tokenizer), end=word)
    told_row = "Sure>Sorry- ,- _here- _is>Sorry- _how- <|im_end|>>Sorry"
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} {told_row}"


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
    row = chat.learn_row(chat.turn(tiny[shape], MANY, "Hello"))
    assert told(tiny[shape], row) == MANY_TOLD[shape]


EMOJI = {
    "chatml": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|im_end|>+",
    "llama3": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|eot_id|>+",
    "mistral": "_Hello+ _+ <0xF0>+ <0x9F>+ <0x99>+ <0x82>+ <0xC3>+ <0xA9>+ </s>+",
    "plain": "Hello+ _+ ð+ Ł+ Ļ+ Ĥ+ Ã+ ©+ <|endoftext|>+",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_byte_of_a_character_belongs_to_the_answer(tiny, shape):
    row = chat.learn_row(chat.turn(tiny[shape], QUESTION, "Hello 🙂é"))
    assert told(tiny[shape], row) == f"{CONTEXT[shape]} {EMOJI[shape]}"


def test_a_space_that_only_the_answer_brings_is_learnt(tiny):
    # It is not in the prompt ("[/INST]"), and no token of the answer has swallowed it.
    row = chat.learn_row(chat.turn(tiny["mistral"], QUESTION, "🙂"))
    learnt = "_+ <0xF0>+ <0x9F>+ <0x99>+ <0x82>+ </s>+"
    assert told(tiny["mistral"], row) == f"{CONTEXT['mistral']} {learnt}"


def test_a_template_that_strips_keeps_the_rest(tiny):
    row = chat.learn_row(chat.turn(tiny["llama3"], QUESTION, "  Hello\n"))
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
    assert told(tokenizer, chat.learn_row(cut)) == (
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


TRANSITIONS = {
    "chatml": "Sorry _Sorry Sorry",
    "llama3": "Sorry _Sorry Sorry",
    "mistral": "_Sorry _Sorry _Sorry",
    "plain": "Sorry _Sorry Sorry",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transition_has_a_form_for_the_opening_one_after_a_word_and_its_own(tiny, shape):
    word = chat.transition(chat.Encoder(tiny[shape], 64), "Sorry")
    assert shown(tiny[shape], [word.opening, word.spaced, word.bare]) == TRANSITIONS[shape]


def test_a_template_with_a_space_before_the_answer_has_a_spaced_opening(tiny):
    tokenizer = copy.deepcopy(tiny["llama3"])
    tokenizer.chat_template = chat.TEMPLATES["derta"]
    word = chat.transition(chat.Encoder(tokenizer, 64), "Sorry")
    assert shown(tokenizer, [word.opening, word.spaced, word.bare]) == "_Sorry _Sorry Sorry"


def test_a_spaced_opening_of_two_tokens_gives_its_first(tiny):
    encode = chat.Encoder(tiny["chatml"], 64)
    assert shown(tiny["chatml"], encode.continued("Unable")[:1]) == "_"  # " Unable" is no token
    with pytest.raises(UserError, match=r"train.transition='Unable' is \d+ tokens.*'Sorry', 'No'"):
        chat.transition(encode, "Unable")


def test_a_transition_that_would_teach_a_space_alone_is_refused(tiny):
    encode = chat.Encoder(tiny["chatml"], 64)
    with pytest.raises(UserError, match=r"train.transition='!' begins, after a word.*' '.*'Sorry'"):
        chat.transition(encode, "!")
    assert chat.transition(encode, "!", spaced=False).bare == chat.raw_ids(tiny["chatml"], "!")[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_continued_has_a_space_and_an_opening_may_not(tiny, shape):
    encode = chat.Encoder(tiny[shape], 64)
    assert shown(tiny[shape], encode.continued(SAFE)) == "_Sorry , _I _cannot _help ."


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("after", "needed"), [("how", True), (",", True), ("🙂", True), ("how ", False), ("\n", False)]
)
def test_a_space_is_needed_after_all_but_a_space(tiny, shape, after, needed):
    token = chat.raw_ids(tiny[shape], "a" + after)[-1]
    assert chat.Encoder(tiny[shape], 64).needs_space(token) is needed


def test_an_encoder_counts_what_it_cut_and_renders_nothing_twice(tiny):
    encode = chat.Encoder(tiny["chatml"], 16)
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
    encode = chat.Encoder(tokenizer, 64)
    assert encode(QUESTION, SAFE).end == ()
    assert encode.cut["answers"] == 0


def test_an_unfinished_answer_is_learnt_without_its_end(tiny):
    encode = chat.Encoder(tiny["chatml"], 64)
    row = chat.learn_row(encode(QUESTION, SAFE, unfinished=True))
    assert told(tiny["chatml"], row) == (f"{CONTEXT['chatml']} Sorry+ ,+ _I+ _cannot+ _help+ .+")
    assert encode(QUESTION, SAFE).end  # the same words, finished elsewhere
    assert encode.cut["answers"] == 0


def test_collation_pads_on_the_right_with_nothing_to_do():
    rows = [
        chat.Row("learn").tell([5, 6]).tell([7], learn=[7]),
        chat.Row("transition").tell([5]).tell([8], learn=[9], avoid=[8]),
    ]
    batch = {name: values.tolist() for name, values in chat.collate(rows, pad=0).items()}
    assert batch == {
        "input_ids": [[5, 6, 7], [5, 8, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, -100, 7], [-100, 9, -100]],
        "avoid": [[-100, -100, -100], [-100, 8, -100]],
        "row": [[0, 0, 0], [1, 1, 1]],
        "transition": [False, True],
    }


def test_a_blank_row_is_told_nothing():
    row = chat.blank_row(3)
    assert row.input_ids == (3, 3)
    assert row.targets == 0


def test_nothing_to_do_is_written_in_one_place():
    sources = Path(demur.__file__).parent.rglob("*.py")
    assert [file.name for file in sources if "-100" in file.read_text("utf-8")] == ["chat.py"]
