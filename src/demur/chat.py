"""The only place where text becomes ids, an exchange through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from demur.errors import UserError
from demur.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANY_WORD = "a"  # to see what goes on after one


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


def continued(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """The ids of an answer that goes on after other text: a space before its first word."""
    return tuple(raw_ids(tokenizer, f"{ANY_WORD} {answer}")[len(raw_ids(tokenizer, ANY_WORD)) :])


def turn(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    answer: str,
    max_length: int | None = None,
    begun: str | None = None,
) -> Turn:
    """Render and tokenize one exchange, cut from the right to ``max_length`` tokens.

    A token belongs to the answer if any of its characters does, so nothing is tokenized twice
    and the ids are those the template itself yields. What the assistant has ``begun`` to say,
    a space before the answer, is context. Raises UserError if the template drops or rewrites the
    answer, or if ``max_length`` leaves none of it.
    """
    said = answer if begun is None else f"{begun} {answer}"
    text, start, stop = _place(tokenizer, messages, said)
    if begun is not None:
        start = _resumed(text, start, stop, answer)
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


def _resumed(text: str, start: int, stop: int, answer: str) -> int:
    """Where in a text that ends at ``stop`` the answer goes on, the space before it included.

    A template that strips has taken its last spaces, and that first one where nothing is begun.
    """
    forms = (f" {answer}", f" {answer.rstrip()}", answer.strip())
    return stop - next(len(form) for form in forms if text.endswith(form, start, stop))


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
