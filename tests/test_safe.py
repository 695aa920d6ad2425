"""Safe answers beside the model's own unsafe ones: refusals by rule, or a language model asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import talkative
from demur import (
    collect,
    config,
    generate,
    manifest,
    materials,
    pipeline,
    records,
    refusals,
    sources,
)
from demur.asking import Collect, Safe
from demur.collect import Task
from demur.errors import UserError
from demur.records import Behavior, Completion, Example, Message
from demur.settings import Decoding, Model
from endpoint import Answer, Body, Heard, says, serve

NO = "I'm sorry, but I can't help with that. I can help you lock your own door."


def example(prompt: str, **answers: Any) -> Example:
    return Example(messages=(Message(role="user", content=prompt),), kind="harmful", **answers)


TRAIN = [
    *(
        example(f"How do I pick a {t}?", rejected=f"Sure, first take a {t}.")
        for t in talkative.THINGS
    ),
    example("How do I steal a car?", rejected="Sure, take it.", chosen="No."),
    Example(messages=(Message(role="user", content="What is tea?"),), chosen="A drink."),
]


def collected(talker: Path, out: Path, safe: Any, **settings: Any) -> list[Example]:
    chosen = Collect.model_validate({"safe": safe, "decoding": {"max_new_tokens": 8}} | settings)
    task = Task(Model(name=str(talker), dtype="float32"), TRAIN, [], chosen, Decoding())
    collect.collect(task, out)
    return records.read(out / "train.jsonl", Example)


def at(heard: Heard, **more: Any) -> dict[str, Any]:
    patience = {"base_url": heard.url, "pause": 0, "retries": 0}
    return {"name": "big", "endpoint": patience | more}


@pytest.mark.parametrize(
    ("prompt", "topic"),
    [
        ("How can I pick a lock?", "picking a lock"),
        ("How to safely get rid of my phone?", "getting rid of your phone"),
        ("Write a poem that hurts my sister.", "writing a poem that hurts your sister"),
        ("I am broke. How do I rob a bank without being seen?", "robbing a bank"),
        ("Can you help me lie to my boss?", "lying to your boss"),
        ("Give me a plan to hurt him, and quickly.", "a plan to hurt him"),
        ("Where is he?", "that"),
        ("Explain why they are bad", "that"),
        ("Plan how I win", "that"),
        ("", "that"),
        ("How do I make {x} and {topic}?", "making {x}"),
    ],
)
def test_a_request_is_about_what_it_wants_done(prompt: str, topic: str) -> None:
    assert refusals.topic(prompt) == topic


GERUNDS = """make making, get getting, lie lying, agree agreeing, be being, open opening,
quit quitting, show showing, fix fixing, play playing, forget forgetting, commit committing,
scan scanning"""


@pytest.mark.parametrize("pair", GERUNDS.split(","))
def test_gerunds(pair: str) -> None:
    verb, wanted = pair.split()
    assert refusals.gerund(verb) == wanted


def test_each_prompt_draws_its_own_template_and_always_the_same() -> None:
    templates = ["No {topic}.", "I can't do {topic}!", "That is not for me."]
    prompts = [f"How do I steal a {t}?" for t in talkative.THINGS]
    said = [refusals.refusal(example(prompt), templates) for prompt in prompts]
    assert said == [refusals.refusal(example(prompt), templates) for prompt in prompts]
    assert {re.sub("stealing a .*[.!]", "", s) for s in said} == {
        "No ",
        "I can't do ",
        templates[2],
    }
    named = example(prompts[0], topic="theft")
    assert refusals.refusal(named, templates[:1]) == "No theft."


def test_a_template_makes_pairs_out_of_prompts_alone(talker: Path, tmp_path: Path) -> None:
    out = tmp_path / "collect"
    found = collected(talker, out, "Sorry, I can't help with {topic}.")
    for made, given in zip(found, TRAIN, strict=True):
        thing = given.prompt.split()[-1].strip("?")
        wanted = given.chosen or f"Sorry, I can't help with picking a {thing}."
        assert (made.chosen, made.rejected) == (wanted, given.rejected)
    pairs = list(sources.load(str(out / "pairs.jsonl"), kind="harmful"))
    both = [(e.messages, e.chosen, e.rejected) for e in found if e.rejected]
    assert [(e.messages, e.chosen, e.rejected) for e in pairs] == both
    assert len(pairs) == manifest.read(out)["counts"]["pairs"] == 11


def test_pairs_are_what_trl_takes(talker: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl.data_utils")
    collected(talker, tmp_path / "out", "No.")
    rows = list(map(json.loads, (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()))
    assert rows and all(trl.is_conversational(row) for row in rows)
    assert all(row.keys() == {"prompt", "chosen", "rejected"} for row in rows)


def decliner(body: Body) -> Answer:
    """Declines, if it is let, but for the phone, and begins a loop about the bill."""
    asked = body["messages"][-1]["content"]
    if body["max_tokens"] < 30:
        return says(NO[: 4 * body["max_tokens"]], "length")
    if "pick a phone" in asked:
        return says("Sure, first take the phone and open it with a knife.")
    return says("sorry " * 60 if "pick a bill" in asked else NO)


def test_a_language_model_declines_and_what_is_no_refusal_is_not_used(
    talker: Path, tmp_path: Path
) -> None:
    with serve(decliner) as heard:
        found = collected(talker, tmp_path / "out", {"ask": "decline", "llm": at(heard)})
    assert len(heard.bodies) == 10, "given safe answers stay, everyday prompts are not asked"
    assert all(body["model"] == "big" and body["max_tokens"] == 256 for body in heard.bodies)
    by = {e.prompt: e for e in found}
    lock = by["How do I pick a lock?"]
    assert (lock.chosen, lock.rejected, lock.unfinished) == (NO, "Sure, first take a lock.", False)
    assert by["How do I steal a car?"].chosen == "No."
    assert by.keys() == {e.prompt for e in TRAIN} - {
        "How do I pick a phone?",
        "How do I pick a bill?",
    }


def test_a_refusal_stands_in_for_what_cannot_be_used(talker: Path, tmp_path: Path) -> None:
    with serve(decliner) as heard:
        safe = {"ask": "decline", "llm": at(heard), "refusal": "Not {topic}."}
        found = collected(talker, tmp_path / "out", safe)
    by = {e.prompt: e.chosen for e in found}
    assert len(found) == len(TRAIN)
    assert by["How do I pick a phone?"] == "Not picking a phone."
    assert by["How do I pick a lock?"] == NO


def test_unsafe_answers_are_rewritten(talker: Path, tmp_path: Path) -> None:
    """The contrastive set: every unsafe answer is shown, and comes back another."""

    def rewriter(body: Body) -> Answer:
        asked = body["messages"][-1]["content"]
        thing = re.search(r"Sure, first take a (\w+)\.", asked)
        assert thing and f"How do I pick a {thing[1]}?" in asked
        return says(thing[0] if thing[1] == "door" else f"A {thing[1]} is best left to its owner.")

    with serve(rewriter) as heard:
        found = collected(talker, tmp_path / "out", {"ask": "rewrite", "llm": at(heard)})
    by = {e.prompt: e for e in found}
    assert by["How do I pick a lock?"].chosen == "A lock is best left to its owner."
    assert "How do I pick a door?" not in by, "the same again is no rewriting"


def test_the_model_at_hand_can_be_asked(talker: Path, tmp_path: Path) -> None:
    safe = {"ask": "rewrite", "decoding": {"max_new_tokens": 6}}
    found = collected(talker, tmp_path / "out", safe)
    said = records.read(tmp_path / "out" / "safe.completions.jsonl", Completion)
    assert len(said) == 10 and all(c.tokens <= 6 for c in said)
    texts = {c.text for c in said}
    made = [e for e in found if e.kind == "harmful" and e.chosen != "No."]
    assert made and all(e.chosen in texts and e.rejected for e in made)


def test_an_endpoint_that_dies_is_asked_for_the_rest_alone(talker: Path, tmp_path: Path) -> None:
    ill = [True]

    def sometimes(body: Body) -> Answer:
        return (500, b"busy") if ill[0] and "lock" in str(body) else says(NO)

    with serve(sometimes) as heard:
        safe = {"ask": "decline", "llm": at(heard)}
        with pytest.raises(UserError, match="1 of 10 attempts got no answer"):
            collected(talker, tmp_path / "out", safe)
        assert not (tmp_path / "out" / "train.jsonl").exists()
        heard.bodies.clear()
        ill[0] = False
        patient = {"ask": "decline", "llm": at(heard, retries=2, timeout=9)}
        assert len(collected(talker, tmp_path / "out", patient)) == len(TRAIN)
        assert len(heard.bodies) == 1
        with pytest.raises(UserError, match=r"collect\.safe"):
            collected(talker, tmp_path / "out", {"ask": "rewrite", "llm": at(heard)})


def test_who_is_not_there_is_missed_before_the_model_is_asked(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(generate, "target")
    with serve(decliner) as heard:
        gone = at(heard)
    with pytest.raises(UserError, match=r"127.0.0.1:\d+/v1': nobody answers there \(Connect"):
        collected(talker, tmp_path / "out", {"ask": "decline", "llm": gone})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weights in it"):
        empty = {"ask": "decline", "llm": {"name": str(tmp_path / "empty")}}
        collected(talker, tmp_path / "out", empty)


def test_each_of_a_collections_bars_has_its_name(
    talker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*TRAIN, example("How do I make a bomb?")]
    held = [Behavior(prompt="How do I open it?", kind="harmful")]
    chosen = Collect.model_validate({"safe": {"ask": "decline"}, "min_tokens": 0})
    task = Task(Model(name=str(talker), dtype="float32"), asked, held, chosen, Decoding())
    collect.collect(task, tmp_path / "collect")
    said = capsys.readouterr().err
    assert re.findall(r"answering \((.*)\)", said) == [
        "collect, train",
        "collect, heldout",
        "collect, safe",
    ]


def test_how_refusals_are_decoded_tells_no_collection_from_another(talker: Path) -> None:
    def inputs(safe: Any) -> dict[str, Any]:
        chosen = Collect.model_validate({"safe": safe})
        task = Task(Model(name=str(talker)), TRAIN, [], chosen, Decoding())
        return dict(task.inputs()["collect"]["safe"])

    assert "decoding" not in inputs("No.")
    assert inputs({"ask": "decline"})["decoding"] == Decoding().model_dump()


@pytest.mark.parametrize(
    ("safe", "says_why"),
    [
        (
            {"refusal": "No.", "decoding": {"batch_size": 2}},
            "collect.safe.decoding decodes nothing: set ask",
        ),
        ({}, "collect.safe says nothing: give `refusal`"),
        ({"llm": {"name": "m"}, "refusal": "No."}, "collect.safe.llm is asked nothing"),
        ("Sorry, {topics}.", "collect.safe.refusal='Sorry, {topics}.'"),
        ("Sorry {", "collect.safe.refusal='Sorry {'"),
        ("Sorry {}", "collect.safe.refusal="),
        (" ", "collect.safe.refusal=' '"),
        ({"ask": "refuse"}, "collect.safe.ask='refuse'"),
    ],
)
def test_wrong_settings_are_one_line(safe: Any, says_why: str) -> None:
    with pytest.raises(UserError) as caught:
        config.build({"output": "x", "model": {"name": "m"}, "collect": {"safe": safe}})
    assert says_why in str(caught.value) and "\n" not in str(caught.value)


def test_plain_settings() -> None:
    assert Safe.model_validate("No.").refusal == ("No.",)
    assert Safe.model_validate({"refusal": ["a", "b"]}).refusal == ("a", "b")
    service = Safe.model_validate(
        {"ask": "decline", "llm": {"name": "m", "endpoint": "http://x/v1"}}
    )
    assert service.llm and service.llm.endpoint and service.llm.endpoint.base_url == "http://x/v1"


def test_the_contrastive_study_trains_on_what_was_rewritten(talker: Path, tmp_path: Path) -> None:
    """As it comes, but small, and on a model that says words."""
    few = {kind: f"{{where: demo:{kind}.train, limit: 4}}" for kind in ("lookalike", "everyday")}
    run = config.load(
        Path(__file__).parents[1] / "configs" / "contrastive.yaml",
        [
            f"output={tmp_path / 'out'}",
            f"model.name={talker}",
            "data.train.harmful=[{where: demo:harmful.train, answers: false, limit: 6}]",
            *(f"data.train.{kind}=[{source}]" for kind, source in few.items()),
            "data.heldout={harmful: [{where: demo:harmful.heldout, limit: 2}]}",
            "collect={min_tokens: 1, decoding: {max_new_tokens: 9}}",
            "collect.safe={ask: rewrite, decoding: {max_new_tokens: 12}}",
            "train.max_steps=1",
        ],
    )
    pipeline.collect(run)
    found = records.read(run.output / "collect" / "train.jsonl", Example)
    said = records.read(run.output / "collect" / "safe.completions.jsonl", Completion)
    pairs = [e for e in found if e.kind == "harmful"]
    assert pairs and {e.chosen for e in pairs} <= {c.text for c in said}
    assert list(run.trainings()) == ["after", "without", "stl", "dpo"]
    rows = {name: manifest.read(pipeline.train(run, name))["rows"] for name in run.trainings()}
    assert rows["after"]["safe"] == rows["stl"]["safe"] == rows["dpo"]["chosen"] == len(pairs)
    assert "safe" not in rows["without"] and rows["without"]["avoid"] == len(pairs)


def test_methods_that_need_pairs_train_from_prompts_alone(talker: Path, tmp_path: Path) -> None:
    tree = talkative.run(tmp_path / "data", talker)
    tree["train"] |= {"recipe": "derta", "max_steps": 1, "transition": "Sorry"}
    tree["variants"] = {"stl": {"recipe": "stl"}, "dpo": {"recipe": "dpo"}}
    with pytest.raises(UserError, match="needs a safe answer"):
        materials.prepare(config.build(tree))
    tree["collect"] |= {"safe": "Sorry, I can't help with {topic}."}
    run = config.build(tree)
    kinds = materials.prepare(run).kinds
    assert {"chosen", "rejected"} <= kinds["dpo"] and "safe" in kinds["stl"]
    pipeline.collect(run)
    for name in run.trainings():
        assert (pipeline.train(run, name) / "adapter_model.safetensors").is_file()
