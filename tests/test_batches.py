"""The order of rows: kinds in their proportion, epochs redrawn from the seed, blanks at the end."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from demur.batches import Epochs, alike, even, order
from demur.errors import UserError
from demur.supervision import Row, blank_row

BLANK = blank_row(0)


def rows(**numbers: int) -> list[Row]:
    """So many rows of each kind, each told its own number."""
    return [Row(kind).tell([n], learn=[n]) for kind, count in numbers.items() for n in range(count)]


def kinds(found: list[Row]) -> Counter[str]:
    return Counter(row.kind for row in found)


def test_without_a_mix_rows_are_shuffled_and_all_there():
    given = rows(learn=40, avoid=10)
    ordered = order(given, {}, Random(0))
    assert ordered != given
    assert Counter(ordered) == Counter(given)


def test_a_mix_is_held_in_every_batch():
    ordered = order(rows(learn=30, avoid=4, safe=7), {"learn": 3, "avoid": 2, "safe": 1}, Random(0))
    batches = [ordered[i : i + 6] for i in range(0, len(ordered), 6)]
    assert len(batches) == 10
    assert all(kinds(batch) == {"learn": 3, "avoid": 2, "safe": 1} for batch in batches)
    assert len({tuple(row.kind for row in batch) for batch in batches}) > 1  # shuffled inside


def test_the_longest_kind_is_passed_once_and_the_others_start_over_evenly():
    ordered = order(rows(learn=30, avoid=4), {"learn": 3, "avoid": 1}, Random(0))
    times = Counter(ordered)
    assert {times[row] for row in rows(learn=30)} == {1}
    assert {times[row] for row in rows(avoid=4)} == {2, 3}  # ten places, four rows


def test_a_part_of_nothing_leaves_a_kind_out():
    ordered = order(rows(learn=6, avoid=4), {"learn": 1, "avoid": 0}, Random(0))
    assert kinds(ordered) == {"learn": 6}


@pytest.mark.parametrize(
    ("mix", "complaint"),
    [
        ({"learn": 3, "avoids": 1}, "the rows are of the kinds avoid, learn"),
        ({"learn": 3, "avoids": 1}, "train.mix names avoids and says nothing of avoid, but"),
        ({"learn": 3}, r"or take every row with train\.mix=\{\}$"),
        ({"learn": 3, "avoid": 1, "safe": 1}, "train.mix names safe, but"),
        ({"learn": 0, "avoid": 0}, "leaves every kind out"),
        ({"learn": 3, "avoid": -1}, "a part cannot be negative"),
    ],
)
def test_a_wrong_mix_is_refused_in_one_line(mix, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        order(rows(learn=3, avoid=3), mix, Random(0))
    assert str(error.value).startswith("train.mix")
    assert "\n" not in str(error.value)


def drawn(epoch: int) -> list[Row]:
    return [Row("learn").tell([epoch, n], learn=[epoch, n]) for n in range(10)]


def in_epoch(epoch: int, seed: int = 0) -> list[Row]:
    data = Epochs(drawn, {}, seed, 4, BLANK)
    data.set_epoch(epoch)
    return [data[i] for i in range(len(data))]


def test_an_epoch_is_drawn_anew_and_the_same_for_the_same_seed():
    assert in_epoch(0) == in_epoch(0)
    assert in_epoch(3) == in_epoch(3)
    numbers = [[row.input_ids[1] for row in in_epoch(e)[:10]] for e in (0, 1)]
    assert numbers[0] != numbers[1]  # another order
    assert {row.input_ids[0] for row in in_epoch(1)[:10]} == {1}  # and other rows
    assert [row.input_ids for row in in_epoch(0, seed=1)] != [r.input_ids for r in in_epoch(0)]


def test_the_last_batch_is_filled_with_blank_rows():
    found = in_epoch(0)
    assert len(found) == 12
    assert found[10:] == [BLANK, BLANK]
    assert BLANK not in found[:10]


def test_an_epoch_announced_twice_is_drawn_once():
    seen: list[int] = []

    def draw(epoch: int) -> list[Row]:
        seen.append(epoch)
        return drawn(epoch)

    data = Epochs(draw, {}, 0, 4, BLANK)
    for epoch in (0, 0, 1, 1, 0):
        data.set_epoch(epoch)
    assert seen == [0, 1, 0]


def of_lengths(*lengths: int) -> list[Row]:
    return [Row("learn").tell(range(n)) for n in lengths]


def passes(step: list[Row], size: int) -> list[list[int]]:
    lengths = [len(row) for row in step]
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


def test_even_passes_have_as_many_rows_and_nearly_as_many_tokens():
    step = of_lengths(9, 1, 8, 2, 7, 3, 30, 1)
    assert sorted(map(len, even(step, 4))) == sorted(map(len, step))
    assert sorted(passes(even(step, 2), 2)) == [[7, 3], [8, 2], [9, 1], [30, 1]]
    random = Random(0)
    lengths = [random.randint(5, 100) for _ in range(64)]
    sums = [sum(dealt) for dealt in passes(even(of_lengths(*lengths), 8), 8)]
    assert len(sums) == 8
    assert max(sums) - min(sums) < 0.02 * sum(sums) / 8


def test_rows_alike_in_length_are_padded_together():
    assert passes(alike(of_lengths(9, 1, 8, 2)), 2) == [[1, 2], [8, 9]]


def test_dealing_moves_no_row_to_another_step():
    plain = Epochs(drawn, {}, 0, 4, BLANK)
    dealt = Epochs(drawn, {}, 0, 4, BLANK, lambda step: list(reversed(step)))
    steps = [[data[i] for i in range(n, n + 4)] for data in (plain, dealt) for n in (0, 4, 8)]
    assert [list(reversed(step)) for step in steps[:3]] == steps[3:]
