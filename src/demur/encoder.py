"""What a recipe asks for the ids of an exchange: rendered once, cut to length, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from demur import chat, transitions
from demur.chat import Turn
from demur.records import Message, fingerprint
from demur.transitions import Transition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoder:
    """`chat.turn` bound to a tokenizer and a length, remembering what it has rendered.

    ``cut`` counts the ``answers`` (and, by the recipes that make them, ``prefixes``) that were
    longer than ``max_length`` allows; ``transitions`` are those resolved so far, by word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.special = chat.special_ids(tokenizer)
        self.cut = Counter(answers=0, prefixes=0)
        self.transitions: dict[str, Transition] = {}
        self._turns: dict[str, Turn] = {}
        self._word = chat.raw_ids(tokenizer, chat.ANY_WORD)
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
            found = chat.turn(self.tokenizer, messages, answer, self.max_length)
            self.cut["answers"] += not found.end and len(found) == self.max_length
            self._turns[key] = found
        return self._turns[key]

    def continued(self, answer: str) -> tuple[int, ...]:
        """The ids of an answer that goes on after other text: a space before its first word."""
        return chat.continued(self.tokenizer, answer)

    def transition(self, word: str, spaced: bool = True) -> Transition:
        """What `transitions.resolve` finds."""
        if word not in self.transitions:
            self.transitions[word] = transitions.resolve(self.tokenizer, word, spaced)
        return self.transitions[word]

    def needs_space(self, token: int) -> bool:
        """Whether a word after this token would be glued to it."""
        if token not in self._spaces:
            # After a word: a space at the start of a text is lost in some tokenizers' decoding.
            text = self.tokenizer.decode([*self._word, token])
            self._spaces[token] = not str(text)[-1:].isspace()
        return self._spaces[token]
