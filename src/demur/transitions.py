"""The token with which a refusal opens, found for a tokenizer and its template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import chat
from demur.errors import UserError
from demur.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def resolve(tokenizer: PreTrainedTokenizerBase, word: str, spaced: bool = True) -> Transition:
    """What ``word`` is for this tokenizer and template; ``spaced`` if it is to follow words.

    Raises UserError, with words that would do, unless an answer can open with it as one token
    that, after a word, does not begin with a token of space alone.
    """
    if fault := _unfit(tokenizer, word, spaced):
        usual = ("Sorry", "Unfortunately", "Cannot")  # YAML takes No for false
        fitting = [repr(w) for w in usual if not _unfit(tokenizer, w, spaced)]
        raise UserError(
            f"train.transition={word!r} {fault}; one that fits: "
            f"{', '.join(fitting) or 'none of the usual ones'}"
        )
    opening, bare = _opening(tokenizer, word), chat.raw_ids(tokenizer, word)
    one = bare if len(bare) == 1 else opening
    return Transition(opening[0], chat.continued(tokenizer, word), one[0])


def _unfit(tokenizer: PreTrainedTokenizerBase, word: str, spaced: bool) -> str:
    """Why a word cannot be a transition under this tokenizer; nothing if it can."""
    opening = _opening(tokenizer, word)
    if len(opening) != 1:
        return f"is {len(opening)} tokens of this tokenizer and must be one"
    first = str(tokenizer.decode(chat.continued(tokenizer, word)[:1]))
    if spaced and not first.strip():
        return (
            f"begins, after a word, with the token {first!r} of this tokenizer, which says nothing"
        )
    return ""


def _opening(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    return chat.turn(tokenizer, [Message(role="user", content="Hi")], word).answer
