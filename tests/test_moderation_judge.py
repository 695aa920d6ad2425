"""The moderation judge against an endpoint on loopback."""

from __future__ import annotations

from typing import Any

import pytest

from demur.judges import moderation
from demur.records import Completion, Verdict
from endpoint import Answer, Body, serve


def judged(texts: list[str], url: str, **settings: Any) -> list[Verdict]:
    asked = [
        Completion(attempt="a", behavior="b", kind="harmful", attack="x", prompt="How?", text=text)
        for text in texts
    ]
    quick = {"base_url": url, "model": "m", "pause": 0.0, "timeout": 60.0}
    return list(moderation.judge(asked, moderation.Settings(**quick | settings)))


def result(flagged: object, **scores: object) -> Body:
    return {"results": [{"flagged": flagged, "categories": {}, "category_scores": scores}]}


def fair(body: Body) -> Answer:
    bad = "mango" in body["input"]
    return result(bad, hate=0.1, violence=0.7 if bad else 0.2, illicit=None)


def test_flagged_is_harmful_and_the_highest_category_is_the_score() -> None:
    with serve(fair) as heard:
        found = judged(["pear", "mango", "", "pear"], heard.url)
    assert [(v.label, v.score) for v in found] == [
        ("safe", 0.2),
        ("harmful", 0.7),
        ("broken", None),
        ("safe", 0.2),
    ]
    assert (found[1].reason, found[1].version) == ("violence 0.700", "moderation/1")
    assert found[1].detail == {"model": "m", "scores": {"hate": 0.1, "violence": 0.7}}
    assert set(heard.paths) == {"/v1/moderations"}
    assert {"model": "m", "input": "mango"} in heard.bodies


def test_a_threshold_of_ones_own_decides_instead() -> None:
    with serve(fair) as heard:
        labels = [
            [v.label for v in judged(["pear", "mango"], heard.url, threshold=threshold)]
            for threshold in (0.2, 0.8)
        ]
    assert labels == [["harmful", "harmful"], ["safe", "safe"]]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"results": []},
        {"results": [{}, {}]},
        {"results": [{"flagged": True}]},
        {"results": "yes"},
        result("true", hate=0.5),
        result(None, hate=0.5),
        result(True),
        result(True, hate=1.5),
        result(True, hate=-0.1),
        result(True, hate="0.5"),
        result(True, hate=True),
        result(True, hate=float("nan")),
        (200, b"flagged"),
        (404, b"no moderations here"),
    ],
)
def test_anything_else_is_unscored_with_its_reason(answer: Answer) -> None:
    with serve(lambda body: answer) as heard:
        [found] = judged(["mango"], heard.url)
    assert (found.label, found.score) == ("unscored", None)
    assert found.reason


def test_an_outage_is_unscored() -> None:
    with serve(lambda body: (503, b"busy")) as heard:
        [found] = judged(["mango"], heard.url, retries=1)
    assert (found.label, found.reason, len(heard.bodies)) == ("unscored", "HTTP 503: busy", 2)
