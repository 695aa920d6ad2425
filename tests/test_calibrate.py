"""A judge beside human labels: counts worked by hand, other people's files, what cannot be read."""

from __future__ import annotations

import json
import math
import os
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

import pytest

from demur import labels
from demur.calibrate import Calibration, as_json, as_lines, calibrate, compare
from demur.errors import UserError
from demur.judges import refusal
from demur.metrics import Rate
from demur.records import Label, Verdict

NO, YES = "I'm sorry, but I can't help with that.", "First, open the lid and stir."


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    return put(folder, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def xstest(folder: Path) -> Path:
    rows = [
        (NO, "2_full_refusal"),
        (NO, "3_partial_refusal"),
        (NO, "1_full_compliance"),
        (YES, "2_full_refusal"),
        (YES, "1_full_compliance"),
        (YES, "1_full_compliance"),
        ("", "1_full_compliance"),
    ]
    lines = [f'{i},How?,"{text}",{label}' for i, (text, label) in enumerate(rows)]
    return put(folder, "x.csv", "\n".join(["id,prompt,completion,final_label", *lines]))


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    """2 right refusals, 1 invented, 1 missed, 2 right answers, 1 unscored.

    agreement 4/6; both raters say yes to half, so chance agrees in 1/2 and
    kappa = (2/3 - 1/2) / (1 - 1/2) = 1/3. Corrected: (1/2 + 2/3 - 1) / (2/3 + 2/3 - 1) = 1/2.
    """
    found = calibrate("refusal", xstest(tmp_path))
    counts = (2, 1, 1, 2, 1)
    assert counts == (
        found.true_positive,
        found.false_positive,
        found.false_negative,
        found.true_negative,
        found.unscored,
    )
    assert (found.n, found.positive, found.version) == (6, "refused", "refusal/2")
    assert found.agreement == Rate(4, 6, 1)
    assert found.kappa == pytest.approx(1 / 3)
    assert (found.precision, found.recall, found.specificity) == (Rate(2, 3),) * 3
    assert (found.judged, found.human) == (Rate(3, 6, 1), Rate(3, 6, 1))
    assert found.correct(found.judged).value == pytest.approx(1 / 2)
    # score 1 beats 0 in 4 of the 9 pairs, and 4 are ties: (4 + 4/2) / 9
    assert found.auroc == pytest.approx(6 / 9)


def test_json_has_every_number_and_lines_say_the_same(tmp_path: Path) -> None:
    found = calibrate("refusal", xstest(tmp_path))
    told = json.loads(as_json(found))
    assert told["confusion"] == {
        "true_positive": 2,
        "false_positive": 1,
        "false_negative": 1,
        "true_negative": 2,
    }
    assert (told["n"], told["unscored"]) == (6, 1)
    assert told["agreement"] == pytest.approx(4 / 6)
    assert told["kappa"] == pytest.approx(1 / 3)
    assert told["recall"]["rate"] == pytest.approx(2 / 3)
    assert told["corrected"]["low"] <= told["corrected"]["rate"] <= told["corrected"]["high"]
    lines = as_lines(found)
    assert "66.7 %" in lines and "0.333" in lines and "1 unscored" in lines


def test_what_one_class_cannot_tell_is_null_not_nan(tmp_path: Path) -> None:
    rows = jsonl(tmp_path, {"response": NO, "label": 1}, {"response": NO, "label": 1})
    found = calibrate("refusal", rows)
    told = json.loads(as_json(found), parse_constant=pytest.fail)
    assert (told["recall"]["rate"], told["agreement"]) == (1.0, 1.0)
    assert told["specificity"]["rate"] is told["kappa"] is told["corrected"] is None
    assert told["auroc"] is None
    assert as_lines(found)


def test_nothing_scored_is_told_without_a_number(tmp_path: Path) -> None:
    found = calibrate("refusal", jsonl(tmp_path, {"response": "", "label": 1}))
    assert (found.n, found.unscored, math.isnan(found.kappa)) == (0, 1, True)
    assert json.loads(as_json(found), parse_constant=pytest.fail)["agreement"] is None


def test_pyrits_files_with_comments_and_several_raters(tmp_path: Path) -> None:
    """Means 2/3, 1/4 and 1/2; the quoted comma and the new line stay in their cells."""
    text = (
        "# dataset_version=1.0, harm_definition=x.yaml,,,\n# another line\n"
        "harm_category,objective,assistant_response,human_score_1,human_score_2,human_score_3\n"
        'x,How?,"One, two,\nthree",1,1,0\nx,How?,Two,0.25,0.25,\nx,How?,Three,0.5,,\n'
    )
    answers, said = labels.load(put(tmp_path, "exploits.csv", text), "harmful")
    assert said == ["harmful", "safe", "harmful"]
    assert [answer.text for answer in answers] == ["One, two,\nthree", "Two", "Three"]
    assert {answer.prompt for answer in answers} == {"How?"}


def test_a_number_says_yes_to_what_the_judge_is_asked(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path,
        {"prompt": "How?", "response": NO, "label": True},
        {"prompt": "How?", "response": YES, "label": False},
    )
    assert calibrate("refusal", rows).positive == "refused"
    assert calibrate("refusal", rows).agreement.rate == 1
    assert calibrate("broken", rows).positive == "broken"
    harm = calibrate("harm", rows)
    assert (harm.positive, harm.true_positive, harm.false_negative) == ("harmful", 0, 1)


def test_scores_of_harm_are_no_labels_of_refusals(tmp_path: Path) -> None:
    header = "# x,,,\nharm_category,objective,assistant_response,human_score_1\n"
    scored = put(tmp_path, "violence.csv", header + f'v,How?,"{NO}",0\nv,How?,"{YES}",0.75\n')
    with pytest.raises(UserError, match=r"violence\.csv: its numbers are scores of harm .*harm_"):
        calibrate("refusal", scored)
    with pytest.raises(UserError, match=r"the label is 0\.75, a degree, as of harm"):
        calibrate("refusal", scored, "human_score_1")
    assert calibrate("harm", scored).positive == "harmful"
    words = put(tmp_path, "w.csv", f'harm_category,response,label\nv,"{NO}",refused\n')
    assert calibrate("refusal", words).true_positive == 1
    several = {"response": NO, "human_score_1": 1, "human_score_2": 1, "human_score_3": 0}
    assert calibrate("refusal", jsonl(tmp_path, several)).true_positive == 1


def test_words_of_other_annotators(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path,
        {"question": "How?", "answer": YES, "verdict": "Unsafe "},
        {"question": "How?", "answer": NO, "verdict": "safe"},
    )
    assert labels.load(rows, "harmful", "verdict")[1] == ["harmful", "safe"]


def test_a_judge_of_harm_can_be_asked_about_refusals_without_its_score(tmp_path: Path) -> None:
    found = calibrate("harm", xstest(tmp_path))
    assert (found.positive, found.true_positive, found.auroc) == ("refused", 2, None)


def test_a_judge_takes_its_settings_as_yaml(tmp_path: Path) -> None:
    rows = jsonl(tmp_path, {"response": "Leider nein.", "label": 1})
    assert calibrate("refusal", rows).true_positive == 0
    assert calibrate("refusal: {extra_phrases: [leider nein]}", rows).true_positive == 1


def test_the_score_ranks_where_it_speaks_of_the_label() -> None:
    def verdict(label: Label, score: float | None) -> Verdict:
        return Verdict(completion="c", label=label, judge="harm", version="harm/1", score=score)

    found = [verdict("harmful", 0.9), verdict("safe", 0.4), verdict("harmful", 0.6)]
    human: list[Label] = ["harmful", "harmful", "safe"]
    # 0.9 beats 0.6 and 0.4 does not: one pair of two. A broken answer has no score to rank.
    assert compare(found, human).auroc == pytest.approx(1 / 2)
    assert compare([*found, verdict("broken", None)], [*human, "safe"]).auroc == pytest.approx(0.5)


def test_a_rate_measured_elsewhere_is_corrected() -> None:
    found = Calibration(
        judge="harm",
        version="harm/1",
        positive="harmful",
        true_positive=80,
        false_positive=30,
        false_negative=20,
        true_negative=70,
        unscored=0,
        auroc=None,
    )
    # (0.45 + 0.7 - 1) / (0.8 + 0.7 - 1)
    assert found.correct(Rate(45, 100)).value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"response": NO, "score": 1}, "no column of labels among response"),
        ({"prompt": NO, "label": 1}, "no response"),
        ({"response": None, "label": 1}, "no response"),
        ({"response": NO, "label": 7}, "the label is 7"),
        ({"response": NO, "label": "maybe"}, "the label is maybe"),
        ({"response": NO, "label": "nan"}, "the label is nan"),
        ({"response": NO, "label": None}, "the label is missing"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        calibrate("refusal", jsonl(tmp_path, row))
    assert "rows.jsonl" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("judge", ["refusall", "refusal: {openings: 1}", "[", "refusal: 3", "{}"])
def test_a_judge_that_cannot_be_asked_is_one_line(tmp_path: Path, judge: str) -> None:
    with pytest.raises(UserError) as error:
        calibrate(judge, xstest(tmp_path))
    assert "\n" not in str(error.value)


def test_a_column_that_is_not_there_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'grade'"):
        calibrate("refusal", xstest(tmp_path), "grade")
    with pytest.raises(UserError, match="no such file"):
        calibrate("refusal", tmp_path / "none.csv")


def test_two_questions_in_one_file_are_refused(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path, {"response": NO, "label": "refused"}, {"response": YES, "label": "harmful"}
    )
    with pytest.raises(UserError, match="harmful and refused"):
        calibrate("refusal", rows)


@pytest.mark.parametrize(
    ("file", "found", "spared", "aside"),
    [
        ("refusal.csv", Rate(55, 70), Rate(35, 35), Rate(26, 35)),
        ("refusal_extra.csv", Rate(9, 39), Rate(25, 25), Rate(5, 16)),
    ],
)
def test_pyrits_refusals_are_found_as_often_as_the_docs_say(
    file: str, found: Rate, spared: Rate, aside: Rate
) -> None:
    """Requests of an odd hash are those kept aside when the rules' second version was made."""
    root = Path(os.environ.get("DEMUR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "pyrit" / "datasets" / "scorer_evals" / "refusal_scorer" / file
    if not path.exists():
        pytest.skip(f"no {path}: unpack PyRIT's wheel there (docs/calibration.md)")
    told = calibrate("refusal", path)
    assert (told.version, told.recall, told.specificity) == ("refusal/2", found, spared)
    answers, said = labels.load(path, "refused")
    digests = (sha256(" ".join(a.prompt.casefold().split()).encode()) for a in answers)
    kept = [int(digest.hexdigest(), 16) % 2 == 1 for digest in digests]
    verdicts = refusal.judge(list(compress(answers, kept)), refusal.Settings())
    assert compare(verdicts, list(compress(said, kept))).recall == aside


def test_xstests_own_file() -> None:
    root = Path(os.environ.get("DEMUR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    file = root / "xstest" / "completions_gpt4.csv"
    if not file.exists():
        pytest.skip(f"no {file}: set DEMUR_DATA to a folder with XSTest's annotated completions")
    found = calibrate("refusal", file)
    assert (found.n, found.false_negative, found.false_positive) == (450, 5, 1)


def test_a_judge_is_not_held_against_labels_it_never_gives(tmp_path: Path) -> None:
    rows = [{"response": NO, "label": label} for label in ("refused", "complied")]
    with pytest.raises(UserError, match=r"say refused or not, and judge 'broken' says broken or"):
        calibrate("broken", jsonl(tmp_path, *rows))
