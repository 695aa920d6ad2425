"""From DeRTa's plain questions, the prompts that its authors published, byte for byte.

Skipped where the files are not at hand. They are read in place; nothing of them is kept here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest
from scipy.optimize import linear_sum_assignment

from demur import chat
from demur.attacks import _templates, codeattack, completing, jailbreakchat, replay
from demur.attacks._templates import Template
from demur.judges import harm
from demur.records import Attempt, Behavior
from demur.settings import page_settings
from published import questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN, OPENINGS = "safety_illegal_instructions_200", "safety_completionattack"
CHAT, CODE = "safety_jailbreakchat", "safety_codeattack"


def asked(prompts: list[str]) -> list[Behavior]:
    return [Behavior(prompt=prompt, kind="harmful") for prompt in prompts]


def attempts(page: Any, prompts: list[str], **values: Any) -> list[Attempt]:
    settings = page_settings(page, values, "attacks.page")
    return list(page.attack(asked(prompts), None, settings))


def texts(found: list[Attempt]) -> list[str]:
    return [attempt.messages[-1]["content"] for attempt in found]


def rows(path: Path, found: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


# CodeAttack


def test_codeattack_is_the_published_prompt() -> None:
    found = attempts(codeattack, questions(PLAIN))
    assert texts(found) == questions(CODE)
    assert not any(attempt.raw or attempt.prefill for attempt in found)


# JailbreakChat


def slotted(prompt: str, question: str) -> Template:
    """The template of a published prompt: what stands around its question."""
    parts = tuple(prompt.split(question))
    assert len(parts) > 1, f"the question is not in its prompt: {question!r}"
    return Template("", parts)


def recovered() -> list[Template]:
    pairs = zip(questions(CHAT), questions(PLAIN), strict=True)
    parts = dict.fromkeys(slotted(prompt, question).parts for prompt, question in pairs)
    return [Template(f"t{n}", each) for n, each in enumerate(parts)]


@pytest.mark.parametrize("ending", ["jsonl", "json", "yaml"])
def test_jailbreakchat_with_the_published_templates_is_the_published_prompt(
    ending: str, tmp_path: Path
) -> None:
    """Nothing is trimmed and nothing added; each template was published with two questions."""
    known, plain = recovered(), questions(PLAIN)
    slot = "{{ prompt }}" if ending == "yaml" else "{question}"
    found = [{"name": t.name, "text": t.fill(slot)} for t in known]
    where = tmp_path / f"found.{ending}"
    if ending == "yaml":  # one template a file, as PyRIT has them
        where = tmp_path
        for each in found:
            # JSON is YAML; braces that are the template's own are no Jinja
            raw = "{% raw %}" + each["text"].replace(slot, f"{{% endraw %}}{slot}{{% raw %}}")
            told = json.dumps({"value": raw + "{% endraw %}"}, ensure_ascii=False)
            (tmp_path / f"{each['name']}.yaml").write_text(told, encoding="utf-8")
    elif ending == "json":
        where.write_text(json.dumps(found), encoding="utf-8")
    else:
        rows(where, found)
    sent = attempts(jailbreakchat, plain, templates=where, k=len(known))
    assert len(sent) == len(known) * len(plain)
    ids = {behavior.id: behavior.prompt for behavior in asked(plain)}
    said = {(ids[a.behavior], a.variant): a.messages for a in sent}
    names = {template.parts: template.name for template in known}
    for prompt, question in zip(questions(CHAT), plain, strict=True):
        name = names[slotted(prompt, question).parts]
        assert said[question, name] == ({"role": "user", "content": prompt},)
    assert not any(attempt.raw or attempt.prefill for attempt in sent)


def test_templates_published_have_one_slot_and_no_other_that_we_fill() -> None:
    for template in recovered():
        assert len(template.parts) == 2
        assert not any(_templates._SLOT.search(part) for part in template.parts)


# CompletingAttack: the published file is in an order of its own, and about half of it rewrites
# questions that are not in the plain file's first half.

SHAPE = re.compile(r"\S[^\n]*\S:\n Step 1:")
SLIPS = 10  # published rewrites without it: broken off, begun to be answered, or a refusal
TELLING = {"guide", "provi", "expla", "step", "steps", "proce", "infor", "instr", "help", "detai"}
TELLING |= {"creat", "someo"}  # verbs and nouns that tell no two requests apart


def stems(text: str) -> set[str]:
    words = {word.lower() for word in harm.WORD.findall(text)} - harm.COMMON
    return {word[:5] for word in words if len(word) > 2} - TELLING


def aligned() -> Iterator[tuple[str, str]]:
    """(question, published rewrite) by their words: the best assignment, the sure part of it."""
    plain, published = questions(PLAIN), questions(OPENINGS)
    words, others = [stems(text) for text in plain], [stems(text) for text in published]
    alike = numpy.array([[len(a & b) / max(1, len(a | b)) for b in others] for a in words])
    for i, j in zip(*linear_sum_assignment(alike, maximize=True), strict=True):
        if alike[i, j] >= 0.4:
            yield plain[i], published[j]


def test_every_published_rewrite_has_the_shape_that_completing_writes() -> None:
    """One opening in the answerer's own voice, then the first step; white space varies there."""
    published = questions(OPENINGS)
    endings = Counter(found[0] for t in published if (found := re.search(r"\s*Step 1:\s*$", t)))
    assert endings.most_common(1)[0][0] == "\n Step 1:", endings
    mended = [re.sub(r"[:.]\s*Step 1:\s*$", ":\n Step 1:", text) for text in published]
    odd = [text for text in mended if not SHAPE.fullmatch(text)]
    told = "".join(f"\n  {text!r:.100}" for text in odd)
    assert len(odd) == SLIPS, f"{len(odd)} published rewrites have another shape:{told}"
    voice = re.compile(r"(?:Sure, )?(?:I (?:will|can|am) |Here (?:is|are) )")
    assert all(voice.match(text) for text in published)


def test_completing_writes_that_shape_for_every_plain_question() -> None:
    found = attempts(completing, questions(PLAIN))
    assert {attempt.variant for attempt in found} == {"rule"}
    assert all(SHAPE.fullmatch(text) for text in texts(found))
    assert all(attempt.raw and not attempt.prefill for attempt in found)
    assert {attempt.messages[0]["role"] for attempt in found} == {"user"}


def named(text: str) -> str | None:
    """What an opening offers to explain, where it says so with a verb in its plain form."""
    found = re.search(r"(?:how (?:to|you can)|steps to) (.+?)\s*[:.]\s", text, re.DOTALL)
    return found[1] if found else None


def test_what_is_asked_stands_in_the_opening_as_the_authors_put_it() -> None:
    """ "my" is "your" and the rest is kept, but where the authors chose other words."""
    pairs = [(named(completing.opening(q, {})[1]), named(text)) for q, text in aligned()]
    both = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
    other = [pair for pair in both if pair[0] != pair[1]]
    told = "".join(f"\n  {ours!r} | {theirs!r}" for ours, theirs in other)
    assert (len(pairs), len(both)) == (61, 35)
    assert len(other) <= 9, f"{len(other)} of {len(both)} are put in other words:{told}"


def test_given_the_published_rewrites_completing_sends_them(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """To the byte, trailing spaces included, and with no token that is not of the text."""
    pairs = dict(aligned())
    file = rows(tmp_path / "r.jsonl", [{"question": q, "rewrite": t} for q, t in pairs.items()])
    found = attempts(completing, list(pairs), rewrites=file)
    assert {attempt.variant for attempt in found} == {"file"}
    assert texts(found) == list(pairs.values())
    for tokenizer in tiny.values():
        for text in texts(found):
            ids = chat.raw_ids(tokenizer, text)
            assert not set(ids) & set(tokenizer.all_special_ids)


def test_replayed_the_whole_published_file_is_sent_as_it_stands(tmp_path: Path) -> None:
    published = questions(OPENINGS)
    file = rows(tmp_path / "o.jsonl", [{"question": text} for text in published])
    found = attempts(replay, published, file=file, raw=True)
    assert texts(found) == published and all(attempt.raw for attempt in found)


# replay


def test_published_files_find_their_questions(tmp_path: Path) -> None:
    """Templates say their question in clear; programs do not, but keep the order."""
    plain = questions(PLAIN)
    for name, how in ((CHAT, {}), (CODE, {"match": "order"})):
        file = rows(tmp_path / f"{name}.json", [{"question": q} for q in questions(name)])
        found = attempts(replay, plain, file=file, **how)
        assert [a.behavior for a in found] == [behavior.id for behavior in asked(plain)]
        assert texts(found) == questions(name)
