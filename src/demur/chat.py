"""The only place where text becomes ids and targets.

A row tells each position two things: the token to *learn* (``labels``) and the token to *move
away from* (``avoid``). Both are aligned with ``input_ids`` as transformers' own labels are:
the target at position t is predicted from position t - 1. Ids and targets are born together
here, and nowhere else is IGNORE written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from demur.errors import UserError
from demur.records import Message, fingerprint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORE = -100

# For a model that has no chat template and is meant to have none: text, one turn a paragraph.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
)
# What DeRTa's models were trained and tested on, the slanted bracket included.
DERTA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] }}{{ eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [\\\\INST]' }}{% endif %}{% endfor %}"
)
TEMPLATES = {"plain": PLAIN_TEMPLATE, "derta": DERTA_TEMPLATE}


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange as ids, cut where the targets change.

    ``context`` ends where the assistant's own text begins, ``answer`` is that text, ``end`` the
    tokens up to the one that closes the turn (what a template adds after it is never generated).
    """

    context: tuple[int, ...]
    answer: tuple[int, ...]
    end: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.context) + len(self.answer) + len(self.end)


@dataclass(frozen=True, slots=True)
class Row:
    """What the trainer reads: ids and two targets per position, all of one length."""

    kind: str
    input_ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    avoid: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def tell(
        self,
        ids: Sequence[int],
        learn: Sequence[int] | None = None,
        avoid: Sequence[int] | None = None,
    ) -> Row:
        """The row with ``ids`` appended, and what these positions are told (nothing if None)."""
        nothing = (IGNORE,) * len(ids)
        return replace(
            self,
            input_ids=self.input_ids + tuple(ids),
            labels=self.labels + (nothing if learn is None else tuple(learn)),
            avoid=self.avoid + (nothing if avoid is None else tuple(avoid)),
        )

    @property
    def targets(self) -> int:
        """How many positions are told anything."""
        return sum(self._told())

    @property
    def first(self) -> int:
        """The first position that is told anything."""
        return next(place for place, told in enumerate(self._told()) if told)

    def _told(self) -> Iterator[bool]:
        return (a != IGNORE or b != IGNORE for a, b in zip(self.labels, self.avoid, strict=True))


def learn_row(turn: Turn, kind: str = "learn") -> Row:
    """SFT: learn the answer and the turn end."""
    told = turn.answer + turn.end
    return Row(kind).tell(turn.context).tell(told, learn=told)


def avoid_row(turn: Turn, special: frozenset[int], kind: str = "avoid") -> Row:
    """TA-SFT: move away from the answer's content, never from the turn end or a special token."""
    away = [IGNORE if token in special else token for token in turn.answer]
    return Row(kind).tell(turn.context).tell(turn.answer, avoid=away).tell(turn.end)


def prefix_row(unsafe: Turn, k: int, safe: Sequence[int], kind: str = "prefix") -> Row:
    """DeRTa: after ``k`` tokens of the unsafe answer, learn the safe one and its end."""
    return Row(kind).tell(unsafe.context + unsafe.answer[:k]).tell(safe, learn=safe)


def transition_row(
    unsafe: Turn,
    transition: Sequence[int],
    keep: Sequence[bool],
    special: frozenset[int] | None = None,
    end: int = IGNORE,
    kind: str = "transition",
) -> Row:
    """DeRTa's RTO: at the positions of the unsafe answer that are kept, learn the transition.

    ``transition`` and ``keep`` [n] run over the answer; ``end`` is what to learn in place of the
    turn end. With ``special`` given the unsafe token itself is avoided at every position too:
    both methods in one row.
    """
    learn = [token if kept else IGNORE for token, kept in zip(transition, keep, strict=True)]
    avoid = None
    if special is not None:
        avoid = [IGNORE if token in special else token for token in unsafe.answer]
    row = Row(kind).tell(unsafe.context).tell(unsafe.answer, learn=learn, avoid=avoid)
    slot, rest = unsafe.end[:1], unsafe.end[1:]
    return row.tell(slot, learn=[end] * len(slot)).tell(rest)


def crossed_row(prompt: Row, answer: Row, length: int) -> Row:
    """KTO's mismatch: the prompt of one row and, with its targets, the answer of another.

    An answer begins at its first target. Cut from the right to ``length`` tokens.
    """
    start, first = prompt.first, answer.first
    rest = slice(first, first + length - start)
    row = Row(answer.kind).tell(prompt.input_ids[:start])
    return row.tell(answer.input_ids[rest], answer.labels[rest], answer.avoid[rest])


def blank_row(pad: int) -> Row:
    """A row that is told nothing: fills the last batch so that every process has one."""
    return Row("blank").tell([pad, pad])


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = ""
) -> list[int]:
    """The ids a model continues: template, generation prompt and the answer's given beginning."""
    return raw_ids(tokenizer, prompt_text(tokenizer, messages, prefill))


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = ""
) -> str:
    """The text of `prompt_ids`, special tokens written out."""
    if not prefill:
        return _render(tokenizer, messages, generation=True)
    text, _, end = _place(tokenizer, messages, prefill)
    return text[:end]


def raw_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text just as it stands."""
    return list(_tokenize(tokenizer, text)["input_ids"])


def turn(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    answer: str,
    max_length: int | None = None,
) -> Turn:
    """Render and tokenize one exchange, cut from the right to ``max_length`` tokens.

    A token belongs to the answer if any of its characters does, so nothing is tokenized twice
    and the ids are those the template itself yields. Raises UserError if the template drops or
    rewrites the answer, or if ``max_length`` leaves none of it.
    """
    text, start, stop = _place(tokenizer, messages, answer)
    encoded = _tokenize(tokenizer, text, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    first = next(i for i, (_, right) in enumerate(spans) if right > start)
    last = next((i for i, (left, _) in enumerate(spans) if left >= stop and i >= first), len(ids))
    end = _turn_end(ids[last:], special_ids(tokenizer))
    whole = Turn(tuple(ids[:first]), tuple(ids[first:last]), end)
    return whole if max_length is None else _cut(whole, max_length, answer)


def _cut(whole: Turn, length: int, answer: str) -> Turn:
    if len(whole) <= length:
        return whole
    room = length - len(whole.context)
    if room < 1:
        raise UserError(
            f"the prompt fills all {length} tokens (it has {len(whole.context)}) and leaves no "
            f"target before {answer[:40]!r}: raise max_length or shorten the prompt"
        )
    return Turn(whole.context, whole.answer[:room], ())  # a cut answer never teaches to stop


def _turn_end(after: Sequence[int], special: frozenset[int]) -> tuple[int, ...]:
    closing = next((i for i, token in enumerate(after) if token in special), None)
    return () if closing is None else tuple(after[: closing + 1])


def _place(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str
) -> tuple[str, int, int]:
    """The rendered exchange, and where in it the answer's characters start and stop."""
    if not answer:
        raise UserError("an empty answer gives no target: leave its row out of the data")
    text = _render(tokenizer, [*messages, Message(role="assistant", content=answer)])
    # The second, shorter opening is for answers that begin as the generation prompt ends
    # ("<think>" in templates of models that reason).
    for generation in (True, False):
        shared = _shared(_render(tokenizer, messages, generation), text)
        for form in filter(None, (answer, answer.strip())):  # many templates strip
            start = text.find(form, shared)
            if start >= 0:
                # A space between prompt and answer is left to the model, so it is the answer's.
                opens = start if text[shared:start].strip() else shared
                return text, opens, start + len(form)
    raise UserError(
        f"the chat template does not keep the answer {answer[:40]!r}: "
        "set model.chat_template to one that does"
    )


def _shared(a: str, b: str) -> int:
    """The length of the beginning that two texts have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation: bool = False
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; set "
            "model.chat_template to a Jinja file, or to 'plain' for text without one"
        )
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation
        )
    except TemplateError as error:  # a system turn, mostly, or two turns of one role
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the chat template refuses turns of {roles}: {error}") from None
    return str(text)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Any:
    # The template writes its own special tokens, so the tokenizer must not add them again.
    return tokenizer(text, add_special_tokens=False, **options)


class Encoder:
    """`turn` bound to a tokenizer and a length, remembering what it has rendered.

    ``cut`` counts the ``answers`` (and, by the recipes that make them, ``prefixes``) that were
    longer than ``max_length`` allows; ``transitions`` are those resolved so far, by word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.special = special_ids(tokenizer)
        self.cut = Counter(answers=0, prefixes=0)
        self.transitions: dict[str, Transition] = {}
        self._turns: dict[str, Turn] = {}
        self._word = raw_ids(tokenizer, "a")  # any word, to see what goes on after one
        self._spaces: dict[int, bool] = {}

    def __call__(
        self, messages: Sequence[Message], answer: str, *, unfinished: bool = False
    ) -> Turn:
        """The exchange as a turn; an unfinished answer has no end to be told."""
        found = self._turn(messages, answer)
        return replace(found, end=()) if unfinished else found

    def _turn(self, messages: Sequence[Message], answer: str) -> Turn:
        key = fingerprint(messages, answer)
        if key not in self._turns:
            found = turn(self.tokenizer, messages, answer, self.max_length)
            self.cut["answers"] += not found.end and len(found) == self.max_length
            self._turns[key] = found
        return self._turns[key]

    def continued(self, answer: str) -> tuple[int, ...]:
        """The ids of an answer that goes on after other text: a space before its first word."""
        return tuple(raw_ids(self.tokenizer, "a " + answer)[len(self._word) :])

    def needs_space(self, token: int) -> bool:
        """Whether a word after this token would be glued to it."""
        if token not in self._spaces:
            # After a word: a space at the start of a text is lost in some tokenizers' decoding.
            text = self.tokenizer.decode([*self._word, token])
            self._spaces[token] = not str(text)[-1:].isspace()
        return self._spaces[token]


@dataclass(frozen=True, slots=True)
class Transition:
    """The token a refusal opens with: where an answer starts, after a word, and as it stands.

    After a word the opening has a space before it, which some tokenizers cut in two (" Sor",
    "ry" in SmolLM2). Its first token is then the transition; prefix rows teach what follows.
    ``after`` are all of these tokens.
    """

    opening: int
    after: tuple[int, ...]
    bare: int

    @property
    def spaced(self) -> int:
        """The token to learn after a word."""
        return self.after[0]

    def told(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
        """The ids and their texts, for a manifest."""
        ids = {"opening": [self.opening], "after a word": self.after, "bare": [self.bare]}
        return {name: [[i, str(tokenizer.decode([i]))] for i in ids[name]] for name in ids}


def transition(encode: Encoder, word: str, spaced: bool = True) -> Transition:
    """Resolve ``word`` for this tokenizer and template; ``spaced`` if it is to follow words.

    Raises UserError, with words that would do, unless an answer can open with it as one token
    that, after a word, does not begin with a token of space alone.
    """
    if word not in encode.transitions:
        if fault := _unfit(encode, word, spaced):
            usual = ("Sorry", "No", "Unfortunately")
            fitting = [repr(w) for w in usual if not _unfit(encode, w, spaced)]
            raise UserError(
                f"train.transition={word!r} {fault}; one that fits: "
                f"{', '.join(fitting) or 'none of the usual ones'}"
            )
        opening, bare = _opening(encode, word), raw_ids(encode.tokenizer, word)
        one = bare if len(bare) == 1 else opening
        encode.transitions[word] = Transition(opening[0], encode.continued(word), one[0])
    return encode.transitions[word]


def _unfit(encode: Encoder, word: str, spaced: bool) -> str:
    """Why a word cannot be a transition under this tokenizer; nothing if it can."""
    opening = _opening(encode, word)
    if len(opening) != 1:
        return f"is {len(opening)} tokens of this tokenizer and must be one"
    first = str(encode.tokenizer.decode(encode.continued(word)[:1]))
    if spaced and not first.strip():
        return (
            f"begins, after a word, with the token {first!r} of this tokenizer, which says nothing"
        )
    return ""


def _opening(encode: Encoder, word: str) -> tuple[int, ...]:
    return turn(encode.tokenizer, [Message(role="user", content="Hi")], word).answer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that is markup, not text: the named ones, and those added as special.

    Llama 3's and Phi's turn ends are only the latter.
    """
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that close an assistant's turn: the template's own and the end of the text."""
    probe = turn(tokenizer, [Message(role="user", content="Hi")], "Hello")
    ends = {*probe.end[-1:], tokenizer.eos_token_id}
    return frozenset(i for i in ends if i is not None)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill with; it is masked, so any will do."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


def collate(rows: Iterable[Row], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded [rows, longest] tensors: input_ids, attention_mask, labels, avoid.

    ``row`` numbers the row a position is of; ``transition`` [rows] marks those whose labels are a
    transition, which has its own weight.
    """
    import torch

    rows = list(rows)
    width = max(map(len, rows))

    def stack(values: Iterable[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*v, *[fill] * (width - len(v))] for v in values])

    return {
        "input_ids": stack((r.input_ids for r in rows), pad),
        "attention_mask": stack(([1] * len(r) for r in rows), 0),
        "labels": stack((r.labels for r in rows), IGNORE),
        "avoid": stack((r.avoid for r in rows), IGNORE),
        "row": torch.arange(len(rows))[:, None].repeat(1, width),
        "transition": torch.tensor([r.kind == "transition" for r in rows]),
    }
