"""Every format is read from a file as a user would have it; every error names file and line."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demur import pages, records, sources
from demur.errors import UserError
from demur.records import Behavior, Example
from demur.rows import rows

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
NAMES = pages.names("sources")
PAGES = {name: pages.find("sources", name) for name in NAMES}


def shown(name: str) -> list[dict[str, Any]]:
    """The rows in a page's docstring."""
    lines = (inspect.getdoc(PAGES[name]) or "").splitlines()
    return [json.loads(line) for line in lines if line.strip().startswith("{")]


def documented() -> list[tuple[str, dict[str, Any]]]:
    """The (format, row) of the table in docs/data.md."""
    table = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \| `(\{.*?\})` \|", table, re.MULTILINE)
    return [(name, json.loads(row.replace(r"\|", "|"))) for name, row in found]


def save(folder: Path, *found: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def one(folder: Path, row: dict[str, Any], **wanted: Any) -> Example:
    [example] = sources.load(save(folder, row), **wanted)
    return example


def said(where: Path | str, **wanted: Any) -> str:
    """What a user is told; always one line."""
    with pytest.raises(UserError) as error:
        sources.load(where, **wanted)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_rows_in_its_docstring_that_it_alone_recognises_and_reads(name: str) -> None:
    page = PAGES[name]
    assert list(inspect.signature(page.matches).parameters) == ["row"]
    assert list(inspect.signature(page.examples).parameters) == ["row", "kind"]
    assert shown(name)
    for row in shown(name):
        assert [other for other in NAMES if PAGES[other].matches(row)] == [name], row
        kinds = {example.kind for example in page.examples(row, kind="lookalike")}
        assert kinds == {"lookalike"}, row


def test_the_documentation_shows_every_format() -> None:
    assert {name for name, _ in documented()} == set(NAMES)
    for name, row in documented():
        assert sources.detect("docs", row) is PAGES[name]
        assert list(PAGES[name].examples(row, kind="lookalike"))


# --- TRL


USER = {"role": "user", "content": "How do I pick a lock?"}
NO = {"role": "assistant", "content": "Sorry, no."}
YES = {"role": "assistant", "content": "Take a pin."}


@pytest.mark.parametrize(
    ("row", "chosen", "rejected"),
    [
        ({"prompt": USER["content"]}, None, None),
        ({"prompt": [USER]}, None, None),
        ({"prompt": USER["content"], "completion": "Sorry, no."}, "Sorry, no.", None),
        ({"prompt": [USER], "completion": [NO]}, "Sorry, no.", None),
        ({"prompt": [USER], "completion": [NO], "label": True}, "Sorry, no.", None),
        ({"prompt": USER["content"], "completion": "Take a pin.", "label": False}, None, YES),
        ({"prompt": USER["content"], "completion": "Take a pin.", "label": "false"}, None, YES),
        ({"prompt": USER["content"], "chosen": "Sorry, no.", "rejected": "Take a pin."}, NO, YES),
        ({"prompt": [USER], "chosen": [NO], "rejected": [YES]}, NO, YES),
        ({"chosen": [USER, NO], "rejected": [USER, YES]}, NO, YES),
        ({"prompt": USER["content"], "chosen": [USER, NO], "rejected": [USER, YES]}, NO, YES),
    ],
)
def test_trl(tmp_path: Path, row: dict[str, Any], chosen: Any, rejected: Any) -> None:
    answers = [a["content"] if isinstance(a, dict) else a for a in (chosen, rejected)]
    example = one(tmp_path, row, kind="harmful")
    assert example.messages == (USER,)
    assert [example.chosen, example.rejected] == answers
    assert (example.kind, example.source) == ("harmful", "rows.jsonl")


def test_messages_give_one_example_per_answer_with_all_turns_before_it(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": ""}, USER, NO, {"role": "user", "content": "Why?"}, YES]
    first, second = sources.load(save(tmp_path, {"messages": turns}))
    assert (first.messages, first.chosen) == (tuple(turns[:2]), "Sorry, no.")
    assert (second.messages, second.chosen) == (tuple(turns[:4]), "Take a pin.")
    assert second.prompt == "Why?"


def test_messages_without_an_answer_are_a_question(tmp_path: Path) -> None:
    assert one(tmp_path, {"messages": [USER]}) == Example(messages=(USER,), source="rows.jsonl")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"chosen": [USER, NO], "rejected": [YES, YES]}, "differ before their last turn"),
        ({"chosen": "Sorry", "rejected": "Take"}, "no 'prompt'"),
        ({"prompt": "Hi", "chosen": "Sorry"}, "no 'rejected' among the keys prompt, chosen"),
        ({"prompt": "Hi", "rejected": "Take"}, "no 'chosen' among the keys prompt, rejected"),
        ({"prompt": "Hi", "chosen": [USER, NO], "rejected": [USER, YES]}, "another question"),
        ({"chosen": [USER], "rejected": [USER]}, "ends with a user turn"),
        ({"prompt": [USER, NO], "completion": "Sorry"}, "turn 3 would answer no user turn"),
        ({"prompt": [USER], "completion": [NO, USER, YES]}, "write the whole row as 'messages'"),
        ({"prompt": "Hi", "completion": "Ho", "label": "maybe"}, "write true or false"),
        ({"prompt": "Hi", "completion": None}, "'completion' is None, not text"),
        ({"messages": [NO]}, "turn 1 would answer no user turn"),
        ({"messages": []}, "a conversation is a list of turns"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "turn 1 has the role 'wizard'"),
        ({"messages": [{"role": "user", "content": [1]}]}, "turn 1: its content is [1]"),
        ({"messages": ["Hi"]}, "turn 1 is 'Hi'"),
    ],
)
def test_trl_refuses(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    message = said(save(tmp_path, row))
    assert message.startswith(f"{tmp_path}/rows.jsonl:1: ") and problem in message


# --- the other families


def test_alpaca_puts_the_input_after_the_instruction(tmp_path: Path) -> None:
    example = one(tmp_path, {"instruction": "Name it.", "input": "a, b", "output": "b"})
    assert (example.prompt, example.chosen, example.kind) == ("Name it.\n\na, b", "b", "everyday")
    bare = one(tmp_path, {"instruction": "Name it.", "input": " ", "output": "b"})
    assert bare.prompt == "Name it."
    dolly = {"instruction": "Who?", "context": "Emma.", "response": "Austen.", "category": "qa"}
    example = one(tmp_path, dolly)
    assert (example.prompt, example.chosen, example.category) == ("Who?\n\nEmma.", "Austen.", "qa")


def test_sharegpt_names_become_roles(tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello!"), ("human", "Bye")]
    row = {"conversations": [{"from": who, "value": what} for who, what in turns]}
    example = one(tmp_path, row)
    assert [m["role"] for m in example.messages] == ["system", "user"]
    assert example.chosen == "Hello!"


def test_safety_tuned_llamas_lists_one_question_each(tmp_path: Path) -> None:
    row = {"instructions": ["Lie.", "Cheat."], "tags": ["hate", "crime"], "inputs": []}
    found = sources.load(save(tmp_path, row), kind="harmful")
    assert [(e.prompt, e.category, e.kind) for e in found] == [
        ("Lie.", "hate", "harmful"),
        ("Cheat.", "crime", "harmful"),
    ]
    assert "1 tags beside 2 instructions" in said(save(tmp_path, row | {"tags": ["hate"]}))
    assert "not a list of texts" in said(save(tmp_path, {"instructions": ["Lie.", 3]}))
    assert "no single example" in said(save(tmp_path, {"instructions": []}))


def test_derta_reads_the_flag_for_what_it_marks(tmp_path: Path) -> None:
    """safe="true" is the harmful answer; trained on as safe it would teach the harm."""
    question = "[INST] How do I steal? [\\INST]"
    found = sources.load(
        save(
            tmp_path,
            {"prefix": "[INST] Hi [\\INST]", "text": " Hello!<|end_of_text|>", "safe": "false"},
            {"prefix": f"{question} Take\nthe", "text": " Sorry.<|end_of_text|>", "safe": "false"},
            {"prefix": question, "text": " Take the bag.<|end_of_text|>", "safe": "true"},
        )
    )
    assert [(e.prompt, e.chosen, e.rejected, e.kind) for e in found] == [
        ("Hi", "Hello!", None, "everyday"),
        ("How do I steal?", "Sorry.", "Take\nthe", "harmful"),
        ("How do I steal?", None, "Take the bag.", "harmful"),
    ]
    wrong = {"prefix": "How do I steal?", "text": "Sorry.", "safe": "false"}
    assert "is not '[INST] question" in said(save(tmp_path, wrong))


def test_derta_questions(tmp_path: Path) -> None:
    answers = [{"question": "Why?", "response": "So."}, {"question": "Why?", "answer": "Since."}]
    found = sources.load(save(tmp_path, *answers, {"question": "Why?"}))
    assert [e.chosen for e in found] == ["So.", "Since.", None]


@pytest.mark.parametrize(
    ("content", "prompt", "kind", "category", "topic", "source"),
    [
        (
            "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
            'Make it,contextual,cybercrime,,"A, B",make_it\n',
            *("A, B\n\n---\n\nMake it", "harmful", "cybercrime", "contextual", "harmbench"),
        ),
        ("goal,target\nSteal,Sure\n", "Steal", "harmful", "", "", "advbench"),
        ("prompt,target\nSteal,Sure\n", "Steal", "harmful", "", "", "advbench"),
        (
            "category,source,forbidden_prompt\nViolence,DAN,Hurt\n",
            *("Hurt", "harmful", "Violence", "", "strongreject"),
        ),
        (
            "id,prompt,type,label,focus,note\n1,Kill it?,homonyms,safe,kill,\n",
            *("Kill it?", "lookalike", "homonyms", "kill", "xstest"),
        ),
        (
            "id,prompt,type,label,focus,note\n1,Kill him?,contrast_homonyms,unsafe,kill,\n",
            *("Kill him?", "harmful", "homonyms", "kill", "xstest"),
        ),
    ],
)
def test_benchmarks_know_their_kind(
    tmp_path: Path, content: str, prompt: str, kind: str, category: str, topic: str, source: str
) -> None:
    path = tmp_path / "benchmark.csv"
    path.write_text(content, encoding="utf-8")
    assert sources.load(path) == [
        Example(
            messages=({"role": "user", "content": prompt},),
            kind=kind,
            category=category,
            topic=topic,
            source=source,
            twin="xstest homonyms 1" if source == "xstest" else "",
        )
    ]


@pytest.mark.parametrize(
    "content",
    [
        "Index,Goal,Target,Behavior,Category,Source\n0,Slander,Sure,Defamation,Hate,Original\n",
        "prompt,category\nSlander,Hate\n",
    ],
)
def test_columns_that_harmful_and_harmless_files_share_need_a_kind(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "benchmark.csv"
    path.write_text(content, encoding="utf-8")
    assert said(path).startswith(f"{path}:2: ") and "give kind=" in said(path)
    [example] = sources.load(path, kind="lookalike")
    assert (example.prompt, example.kind, example.category) == ("Slander", "lookalike", "Hate")


def test_xstest_keeps_only_unsafe_compliance_as_an_answer(tmp_path: Path) -> None:
    labels = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
    path = tmp_path / "completions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "type", "prompt", "completion", "agreement", "final_label"])
        for n, label in enumerate(labels):
            writer.writerow([f"v2-{n}", "privacy", f"safe {n}", "answer\nof two lines", 1, label])
            writer.writerow([f"v2-{n}", "contrast_privacy", f"unsafe {n}", "answer", 1, label])
    found = sources.load(path)
    assert [e.chosen for e in found] == [None] * 6
    assert {e.prompt: e.rejected for e in found if e.rejected} == {"unsafe 0": "answer"}
    assert [e.prompt for e in sources.load(path, kind="harmful", limit=2)] == [
        "unsafe 0",
        "unsafe 1",
    ]
    assert {e.kind for e in sources.load(path, kind="lookalike")} == {"lookalike"}
    assert "no everyday example" in said(path, kind="everyday")


def test_xstests_twins_share_a_name(tmp_path: Path) -> None:
    """The third of a type's 25 and the third of its contrasts, in either of its files."""
    told = [
        ("3", "homonyms", "xstest homonyms 3"),
        ("28", "contrast_homonyms", "xstest homonyms 3"),
        ("v2-28", "contrast_homonyms", "xstest homonyms 3"),
        ("29", "contrast_homonyms", "xstest homonyms 4"),
        ("50", "contrast_homonyms", "xstest homonyms 25"),
        ("278", "real_group_nons_discr", "xstest discr 3"),
        ("303", "contrast_discr", "xstest discr 3"),
        ("253", "nons_group_real_discr", ""),
        ("403", "privacy_fictional", "xstest privacy 3"),
        ("428", "contrast_privacy", "xstest privacy 3"),
        ("378", "privacy_public", ""),
        ("", "homonyms", ""),
        ("first", "homonyms", ""),
    ]
    path = tmp_path / "xstest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "type", "label", "focus", "note"])
        for n, (id, sort, _) in enumerate(told):
            label = "unsafe" if "contrast" in sort else "safe"
            writer.writerow([id, f"prompt {n}", sort, label, "", ""])
    found = sources.load(path)
    assert [e.twin for e in found] == [pair for *_, pair in told]
    assert [b.pair for b in sources.behaviors(found)] == [pair for *_, pair in told]


def test_xstests_real_twins_are_about_the_same() -> None:
    found = sources.load(real("xstest/xstest_prompts.csv"))
    safe, unsafe = (
        {e.twin: e.topic for e in found if e.kind == kind and e.twin}
        for kind in ("lookalike", "harmful")
    )
    assert len(safe) == len(unsafe) == 200 and safe.keys() == unsafe.keys()
    assert sum(safe[pair] != unsafe[pair] for pair in safe) == 1  # bank (account) fraud


def test_own_rows_survive_the_round_trip(tmp_path: Path) -> None:
    example = Example(
        messages=({"role": "user", "content": "Hi"},),
        chosen="Hello",
        rejected="Go away",
        kind="lookalike",
        category="greeting",
        topic="manners",
        source="me",
    )
    records.write(tmp_path / "own.jsonl", [example])
    assert sources.load(tmp_path / "own.jsonl") == [example]
    assert "no harmful example" in said(tmp_path / "own.jsonl", kind="harmful")
    row = {"messages": [{"role": "user", "content": "Hi"}], "kind": "harmless"}
    assert "kind: Input should be 'harmful'" in said(save(tmp_path, row))


def test_the_demonstration_set_is_found_by_name() -> None:
    folder = Path(sources.__file__).parent / "data"
    if not (folder / "harmful.train.jsonl").exists():
        pytest.skip("the demonstration set is not built into this checkout")
    found = sources.load("demo:harmful.train", limit=3)
    assert len(found) == 3 and {e.kind for e in found} == {"harmful"}
    assert said("demo:harmful.trian").startswith("unknown demo set 'harmful.trian': did you mean")
    assert "has no split" in said("demo:harmful.train", split="heldout")


# --- where rows come from


def origins(path: Path | str, **wanted: Any) -> list[str]:
    return [origin.removeprefix(str(path)) for origin, _ in rows(path, **wanted)]


def test_origins_are_real_lines(tmp_path: Path) -> None:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_bytes(content.encode())
        return tmp_path / name

    lines = write("a.jsonl", '\ufeff{"prompt": "a\u2028b"}\n\n{"prompt": "c"}')
    assert origins(lines) == [":1", ":3"]
    assert next(rows(lines))[1] == {"prompt": "a\u2028b"}
    assert origins(write("b.json", '{"prompt": "a"}\n\n{"prompt": "b"}\n')) == [":1", ":3"]
    array = write(
        "c.json", '[\n  {"prompt": "a"},\n  {\n    "prompt": "b"\n  }, {"prompt": "c"}]\n'
    )
    assert origins(array) == [":2 (record 1)", ":3 (record 2)", ":5 (record 3)"]
    assert origins(write("d.csv", 'goal,target\r\n"a\nb",x\r\n\r\nc,y\r\n')) == [":2", ":5"]
    table = write("e.tsv", "goal\ttarget\na, b\tx\n")
    assert list(rows(table)) == [(f"{table}:2", {"goal": "a, b", "target": "x"})]
    assert origins(array, limit=2) == [":2 (record 1)", ":3 (record 2)"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', ":2: not JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n["b"]\n', ":2: ['b'] where an object {...} belongs"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": "\xff"}\n', ":3: not UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": " "}\n', ":2: 'prompt' is blank; fill it in"),
        ("a.jsonl", b'{"prompt": "a"}\n{"promt": "b"}\n', ":2: no 'prompt' among the keys promt"),
        ("a.jsonl", b'{"promt": "a"}\n', ":1: the keys promt fit no format; name it with format"),
        (
            "a.jsonl",
            b'{"conversations": [], "instruction": "a", "output": "b"}\n',
            ":1: the keys conversations, instruction, output fit alpaca and sharegpt; name it",
        ),
        ("a.jsonl", b"\n\n", ": no rows in it"),
        ("a.json", b"", ": no rows in it"),
        ("a.json", b"[]", ": no rows in it"),
        ("a.json", b'[{"prompt": "a"},\n {"prompt": "b"}', ":2: not JSON"),
        ("a.json", b'[{"prompt": "a"}\n {"prompt": "b"}]', ":2: not JSON"),
        ("a.json", b'{"prompt": "a"}\n]', ":2: not JSON"),
        ("a.json", b'[{"prompt": "a"},\n "b"]', ":2 (record 2): 'b' where an object"),
        ("a.json", b'[{"prompt": "a"},\n {"prompt": 7}]', ":2 (record 2): 'prompt' is 7, not text"),
        ("a.csv", b"goal,target\n", ": no rows in it"),
        ("a.csv", b"goal,target\na,b\nc,d,e\n", ":3: 3 cells under 2 columns; put quotes around"),
        ("a.csv", b'goal,target\na,b\n"c,d\n\n', ":3: unexpected end of data; check this row"),
        ("a.csv", b"goal,target\na,b\n,d\n", ":3: 'goal' is blank"),
        ("a.csv", b"goal,target\na,\xff\n", ":2: not UTF-8"),
        ("a.parquet", b"goal", ": not a readable parquet file"),
        ("a.txt", b"goal", ": unknown ending '.txt'; known: .jsonl"),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said(path).startswith(f"{path}{problem}")


def test_blank_answers_inside_conversations_are_refused_too(tmp_path: Path) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "\n"}]}
    assert said(save(tmp_path, row)).endswith(
        "1: the chosen text is blank; fill it in or take the row out"
    )


def test_a_missing_path_is_never_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for where in ("data/train", "data/train.jsonl", "nowhere/train.csv", "train.json"):
        assert said(where).startswith(f"no such file or folder: {where}")
    assert said("data").startswith("data: not a data set that save_to_disk wrote")


def test_what_the_caller_may_say(tmp_path: Path) -> None:
    path = save(tmp_path, {"id": 1, "prompt": "Hi"}, {"id": 2, "prompt": "Ho"})
    assert "the keys id, prompt fit no format" in said(path)
    assert [e.prompt for e in sources.load(path, format="trl", limit=1)] == ["Hi"]
    assert [e.prompt for e in sources.load(path, format="demur.sources.trl")] == ["Hi", "Ho"]
    assert "did you mean 'trl'" in said(path, format="tlr")
    assert "unknown kind 'harmfull'" in said(path, format="trl", kind="harmfull")
    assert "limit 0" in said(path, format="trl", limit=0)
    assert "limit -1" in said(path, format="trl", limit=-1)
    assert "has no split 'train'" in said(path, split="train")


def test_parquet_and_folders_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.Dataset.from_list([{"messages": [USER, NO]}, {"messages": [USER, YES]}])
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "split")
    for where in (tmp_path / "a.parquet", tmp_path / "plain", tmp_path / "split"):
        assert [e.chosen for e in sources.load(where)] == ["Sorry, no.", "Take a pin."]
        assert origins(where) == [" (record 1)", " (record 2)"]
    [example] = sources.load(tmp_path / "split", split="test")
    assert (example.chosen, example.source) == ("Take a pin.", "split")
    assert "no split 'dev'; it has train, test" in said(tmp_path / "split", split="dev")
    assert "has no splits" in said(tmp_path / "plain", split="dev")


def test_the_hub_answers_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands in for the repository: load_dataset takes both, configurations included."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = tmp_path / "repository"
    hub.mkdir()
    (hub / "one.jsonl").write_text('{"prompt": "Hi"}\n')
    (hub / "two.jsonl").write_text('{"prompt": "Ho"}\n')
    (hub / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: [{split: train, path: one.jsonl}]\n"
        "- config_name: b\n  data_files: [{split: test, path: two.jsonl}]\n---\n"
    )
    assert [e.prompt for e in sources.load(f"hub:{hub}:a")] == ["Hi"]
    [example] = sources.load(f"hub:{hub}:b", split="test")
    assert (example.prompt, example.source) == ("Ho", f"hub:{hub}:b")
    assert "split 'dev'" in said(f"hub:{hub}:a", split="dev")
    assert "check the name" in said(f"hub:{hub}:c")


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    code = "from demur import sources; sources.load('nobody/nothing')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("demur.errors.UserError: nobody/nothing, split 'train': ")


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys; from demur import pages, sources\n"
        "[pages.find('sources', name) for name in pages.names('sources')]\n"
        "sys.exit({'torch', 'datasets', 'transformers'} & set(sys.modules) != set())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what is made of examples


def ask(prompt: str, **fields: Any) -> Example:
    return Example(messages=({"role": "user", "content": prompt},), **fields)


def test_behaviors_are_questions_asked_once() -> None:
    found = sources.behaviors(
        [
            ask("Steal?", kind="harmful"),
            ask("Steal?", kind="harmful", rejected="Take it.", category="theft", source="a"),
            ask("Steal?", kind="harmful", rejected="Another."),
            ask("Steal?", kind="harmful", chosen="Sorry, no."),
            ask("Kill a process?", kind="lookalike", rejected="Sorry, no.", topic="kill"),
            ask("Kill a process?", kind="lookalike", chosen="Press Ctrl-C."),
        ]
    )
    assert found == [
        Behavior(prompt="Steal?", kind="harmful", category="theft", unsafe="Take it.", source="a"),
        Behavior(prompt="Kill a process?", kind="lookalike", answer="Press Ctrl-C."),
    ]
    with pytest.raises(UserError, match="one question"):
        sources.behaviors([Example(messages=(USER, NO, USER))])


def test_overlap_ignores_case_spacing_and_punctuation() -> None:
    train = [ask("How do I  pick a lock?"), ask("Was ist 2+2"), ask("???")]
    heldout = [ask("how do I pick a lock"), ask("Was ist 2-2"), ask("!!!"), ask("Ｗas ist 2+2?")]
    assert sources.overlap(train, heldout) == ["how do I pick a lock", "Ｗas ist 2+2?"]
    behavior = Behavior(prompt="HOW do I pick a lock…", kind="harmful")
    assert sources.overlap(train, [behavior, behavior]) == ["HOW do I pick a lock…"]


def test_dedupe_keeps_the_first_and_every_other_answer() -> None:
    first, same = ask("Pick a lock?", chosen="No."), ask("pick  a lock", chosen="No.")
    other = ask("Pick a lock?", chosen="No!")
    assert sources.dedupe([first, same, other, first]) == [first, other]


# --- the real files


def real(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the public data {name} is not beside this checkout")
    return path


@pytest.mark.parametrize(
    ("name", "format", "counts"),
    [
        ("xstest/xstest_prompts.csv", "benchmarks", {"lookalike": 250, "harmful": 200}),
        ("xstest/completions_gpt4.csv", "benchmarks", {"lookalike": 250, "harmful": 200}),
        ("xstest/completions_llama2orig.csv", "benchmarks", {"lookalike": 250, "harmful": 200}),
        (
            "xstest/completions_mistralinstruct.csv",
            "benchmarks",
            {"lookalike": 250, "harmful": 200},
        ),
        ("safety-tuned-llamas/I-Alpaca.json", "safety_tuned_llamas", {"everyday": 50}),
        (
            "safety-tuned-llamas/I-MaliciousInstructions.json",
            "safety_tuned_llamas",
            {"everyday": 100},
        ),
        ("safety-tuned-llamas/I-PhysicalSafetySafe.json", "safety_tuned_llamas", {"everyday": 100}),
        ("safety-tuned-llamas/Q-Harm.json", "safety_tuned_llamas", {"everyday": 100}),
        ("safety-tuned-llamas/safety_only_data_Instructions.json", "alpaca", {"everyday": 2483}),
        ("derta/example_data_to_read.json", "derta", {"everyday": 2, "harmful": 2}),
        ("derta/alpaca_eval_answers_gpt-3.5.jsonl", "trl", {"everyday": 200}),
        ("derta/helpfulness_alpaca_eval_300.first.json", "derta", {"everyday": 100}),
        ("derta/helpfulness_gsm8k_500.first.json", "tasks", {"task": 100}),
        ("derta/helpfulness_mmlu_500.first.json", "derta", {"everyday": 100}),
        ("derta/safety_codeattack.first.json", "derta", {"everyday": 100}),
        ("derta/safety_completionattack.first.json", "derta", {"everyday": 100}),
        ("derta/safety_illegal_instructions_200.first.json", "derta", {"everyday": 100}),
        ("derta/safety_jailbreakchat.first.json", "derta", {"everyday": 100}),
    ],
)
def test_the_public_files(name: str, format: str, counts: dict[str, int]) -> None:
    assert sources.detect(*next(rows(real(name)))) is PAGES[format]
    kinds = [example.kind for example in sources.load(real(name))]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == counts


def test_the_real_derta_rows() -> None:
    racquet, plain, prefixed, unsafe = sources.load(real("derta/example_data_to_read.json"))
    assert racquet.chosen is not None and racquet.chosen.startswith("Uno is")
    assert plain.rejected is None and prefixed.prompt == plain.prompt
    assert prefixed.chosen == plain.chosen and prefixed.chosen.startswith("I'm sorry")
    assert prefixed.rejected is not None and prefixed.rejected.endswith("Utilize a")
    assert unsafe.chosen is None and (unsafe.rejected or "").startswith("Tips for successful")
    assert "[" not in unsafe.prompt and "<|" not in (unsafe.rejected or "")


def test_the_real_xstest_answers_and_lines() -> None:
    path = real("xstest/completions_mistralinstruct.csv")
    assert sum(e.rejected is not None for e in sources.load(path)) == 128
    lines = path.read_text(encoding="utf-8").split("\n")
    for origin, row in rows(path):
        number = int(origin.rsplit(":", 1)[1])
        assert lines[number - 1].startswith(f"{row['id']},")
