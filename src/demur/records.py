"""What passes between the stages, and the JSONL files it rests in.

An Example is what a model is trained on. Evaluation has four nouns: a Behavior is what is
asked, an Attempt the text an attack makes of it, a Completion what the model answered, a
Verdict what a judge says of that. Ids are hashes of the content, so a file can be matched
with another one without trusting the order of lines.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from demur.errors import UserError

Kind = Literal["harmful", "lookalike", "everyday", "task"]
Label = Literal[
    "harmful", "refused", "complied", "safe", "broken", "intact", "correct", "wrong", "unscored"
]
Finish = Literal["stop", "length", "content_filter"]
REACH = (5, 30)  # tokens (or words) of an answer that end a bin of first refusals
Record = TypeVar("Record")


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


def fingerprint(*parts: object) -> str:
    """Sixteen hex digits of the SHA-256 of ``parts`` written as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A training row before it becomes tokens: a context and the answers to it.

    ``chosen`` is the answer to learn and ``rejected`` the one to move away from (TRL's names);
    either may be missing, and is then collected from the model where a recipe needs it. An
    ``unfinished`` chosen answer was cut off: its words are learnt, that it ends there is not.
    ``twin`` is a name that a look-alike and its harmful twin share, where a data set has twins.
    A ``ready`` example is one training row as its author cut it: ``chosen`` goes on from the whole
    of ``rejected``, or ``rejected`` stands alone as an answer to learn transitions along.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    messages: tuple[Message, ...]
    chosen: str | None = None
    rejected: str | None = None
    unfinished: bool = False
    ready: bool = False
    kind: Kind = "everyday"
    category: str = ""
    topic: str = ""
    twin: str = ""
    source: str = ""

    @property
    def id(self) -> str:
        return fingerprint(self.messages, self.chosen, self.rejected)

    @property
    def pair(self) -> bool:
        """Whether it has a safe and an unsafe answer of which rows are still to be cut."""
        both = self.chosen is not None and self.rejected is not None
        return both and self.kind == "harmful" and not self.ready

    @property
    def prompt(self) -> str:
        """The last user turn: what is asked."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """Something a user may ask, and whether a model should decline it.

    ``unsafe`` is a harmful answer (the start of it is what `prefill` puts in the model's
    mouth), ``answer`` a good one to a harmless request; how likely a model finds them is
    measured. A task's ``answer`` is the right one. ``pair`` is the name that a look-alike and its
    harmful twin share, where the data set has twins.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    prompt: str
    kind: Kind
    category: str = ""
    topic: str = ""
    unsafe: str | None = None
    answer: str | None = None
    pair: str = ""
    source: str = ""

    @property
    def id(self) -> str:
        return fingerprint(self.kind, self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way of putting a behavior to the model.

    ``prefill`` is the beginning of the assistant's turn; ``raw`` sends the last message's
    text with no chat template and no special tokens around it. Where it had to be searched for,
    ``queries`` counts how often the model was asked meanwhile (a row of a batch is one), and
    ``detail`` has what only this attack knows; neither is part of what is put to the model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    behavior: str
    attack: str
    messages: tuple[Message, ...]
    variant: str = ""
    prefill: str = ""
    raw: bool = False
    queries: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return fingerprint(
            self.behavior, self.attack, self.variant, self.messages, self.prefill, self.raw
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model answered to an attempt; carries what a judge has to know.

    ``text`` is the model's own continuation, without the prefill. ``tokens`` counts generated
    tokens, the turn end not included, and is None where nobody could; ``finish`` is ``length``
    where the limit cut it off, and ``content_filter`` where a server let nothing of it through:
    ``text`` is empty then.
    ``reach`` counts the characters of ``text`` that its first 5 and its first 30 tokens
    (``REACH``) make; empty where no tokenizer was at hand.
    ``expected`` is the right answer where there is only one: to a task.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    attempt: str
    behavior: str
    kind: Kind
    attack: str
    prompt: str
    text: str
    variant: str = ""
    prefill: str = ""
    tokens: int | None = None
    reach: tuple[int, ...] = ()
    finish: Finish = "stop"
    model: str = ""
    expected: str | None = None

    @property
    def blocked(self) -> bool:
        """Whether nobody knows what the model said, as a server's filter came between."""
        return self.finish == "content_filter"

    @property
    def id(self) -> str:
        return fingerprint(self.attempt, self.model, self.prefill, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says of one completion, or ``unscored`` and why it could not say.

    ``detail`` holds what only this judge knows (for `refusal`: full or partial, and the
    character where the first refusal starts).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    completion: str
    label: Label
    judge: str
    version: str
    score: float | None = None
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path | str, kind: type[Record]) -> list[Record]:
    """Every record of a JSONL file. Raises UserError with file and line for a bad row."""
    return list(_parse(Path(path), _lines(Path(path)), kind))


def write(path: Path | str, records: Iterable[Any]) -> None:
    """Replace a JSONL file in one step: a reader sees the old file or the whole new one."""
    replace(path, "".join(map(to_line, records)))


def append(path: Path | str, records: Iterable[Any]) -> None:
    """Add records to a JSONL file and wait until the disk has them."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("".join(map(to_line, records)))
        file.flush()
        os.fsync(file.fileno())


def resume(path: Path | str, kind: type[Record]) -> list[Record]:
    """What an interrupted run left in a JSONL file; a half-written last line is cut off."""
    path = Path(path)
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return read(path, kind)


def replace(path: Path | str, text: str) -> None:
    """Write a whole text file in one step, through a neighbour and a rename.

    Raises UserError where nothing can be written.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may write
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another output") from None


def batched(items: Iterable[Record], size: int) -> Iterator[tuple[Record, ...]]:
    """Items in order, ``size`` at a time (itertools.batched came with Python 3.12)."""
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some


def to_line(record: Any) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    # Bytes, split at \n alone: str.splitlines() would also break at U+2028, which JSON leaves
    # as it is, and a byte that is no UTF-8 is then a bad row with its line.
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return ((n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip())


def _parse(path: Path, lines: Iterable[tuple[int, bytes]], kind: type[Record]) -> Iterator[Record]:
    adapter = TypeAdapter(kind)
    for number, line in lines:
        try:
            yield adapter.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}:{number}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]
