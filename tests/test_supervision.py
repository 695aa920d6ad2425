"""What every position of a row is told, written out."""

from __future__ import annotations

from pathlib import Path

import pytest

import demur
from conftest import told
from demur import chat, supervision
from demur.supervision import Row
from exchanges import CONTEXT, END, LEARNT, QUESTION, SAFE, SHAPES, UNSAFE


@pytest.mark.parametrize("shape", SHAPES)
def test_sft_learns_the_answer_and_the_turn_end(tiny, shape):
    row = supervision.learn_row(chat.turn(tiny[shape], QUESTION, SAFE))
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
    row = supervision.avoid_row(turn, chat.special_ids(tokenizer))
    assert told(tokenizer, row) == f"{CONTEXT[shape]} {AVOIDED[shape]}"


@pytest.mark.parametrize("shape", SHAPES)
def test_special_tokens_inside_an_answer_are_not_avoided(tiny, shape):
    tokenizer, mark = tiny[shape], END[shape]
    turn = chat.turn(tokenizer, QUESTION, f"Sure{mark}Sure")
    row = supervision.avoid_row(turn, chat.special_ids(tokenizer))
    assert f"Sure- {mark} " in told(tokenizer, row)
    assert mark + "-" not in told(tokenizer, row)


def test_a_prefix_row_learns_the_safe_answer_alone(tiny):
    tokenizer = tiny["chatml"]
    safe = chat.turn(tokenizer, QUESTION, SAFE)
    row = supervision.prefix_row(chat.turn(tokenizer, QUESTION, UNSAFE), 2, safe.answer + safe.end)
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} Sure , {LEARNT['chatml']}"


def test_a_transition_row_teaches_another_word_where_it_is_kept(tiny):
    tokenizer = tiny["chatml"]
    turn, word = chat.turn(tokenizer, QUESTION, UNSAFE), tokenizer.convert_tokens_to_ids("Sorry")
    keep = [True, False, False, True, False]
    row = supervision.transition_row(turn, [word] * 5, keep)
    told_row = "Sure>Sorry , _here _is>Sorry _how <|im_end|>"
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} {told_row}"


def test_both_in_one_row_avoid_every_unsafe_token_and_teach_where_kept(tiny):
    tokenizer = tiny["chatml"]
    turn, word = chat.turn(tokenizer, QUESTION, UNSAFE), tokenizer.convert_tokens_to_ids("Sorry")
    keep = [True, False, False, True, False]
    row = supervision.transition_row(turn, [word] * 5, keep, chat.special_ids(tokenizer), end=word)
    told_row = "Sure>Sorry- ,- _here- _is>Sorry- _how- <|im_end|>>Sorry"
    assert told(tokenizer, row) == f"{CONTEXT['chatml']} {told_row}"


def test_collation_pads_on_the_right_with_nothing_to_do():
    rows = [
        Row("learn").tell([5, 6]).tell([7], learn=[7]),
        Row("transition").tell([5]).tell([8], learn=[9], avoid=[8]),
    ]
    batch = {name: values.tolist() for name, values in supervision.collate(rows, pad=0).items()}
    assert batch == {
        "input_ids": [[5, 6, 7], [5, 8, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, -100, 7], [-100, 9, -100]],
        "avoid": [[-100, -100, -100], [-100, 8, -100]],
        "row": [[0, 0, 0], [1, 1, 1]],
        "transition": [False, True],
    }


def test_a_blank_row_is_told_nothing():
    row = supervision.blank_row(3)
    assert row.input_ids == (3, 3)
    assert row.targets == 0


def test_nothing_to_do_is_written_in_one_place():
    sources = Path(demur.__file__).parent.rglob("*.py")
    assert [file.name for file in sources if "-100" in file.read_text("utf-8")] == [
        "supervision.py"
    ]
