"""A request becomes the opening of an answer to it, by rules on English sentences."""

from __future__ import annotations

import re

_PERSON = r"(?:I|you|we|one|someone|somebody)"
_MODAL = r"(?:can|could|should|would|will|might|may|must)"
_MAY = rf"(?:(?:{_MODAL}|do|does) {_PERSON}|{_PERSON} {_MODAL})"
_ASK = r"(?:(?:can|could|will|would) you )?(?:please )?"
_TEACH = r"(?:(?:explain|describe|show|teach|tell|advise|instruct)(?: to)?(?: (?:me|us))? )?"
_VERBS = """advise analyse analyze argue assist build calculate code come compile compose construct
convert craft create demonstrate describe design detail develop devise discuss draft draw edit
explain find formulate generate give guide help identify illustrate imagine instruct invent list
make name offer outline plan prepare produce program propose provide recommend rewrite script
search show suggest summarise summarize teach tell translate turn walk write"""

# Tried in this order on the last sentence of a request; the first that fits the whole of it wins.
RULES: tuple[tuple[str, str], ...] = (
    (rf"{_ASK}{_TEACH}how to (.+)", "I will explain how to {0}"),
    (rf"{_ASK}{_TEACH}(how|where|when) {_MAY} (.+)", "I will explain {0} to {1}"),
    (rf"{_ASK}{_TEACH}(where|when) to (.+)", "I will explain {0} to {1}"),
    (r"(?:can|could|may) I (?:get|have|see) (.+)", "I will provide {0}"),
    (r"what(?:['’]s| is| are) ((?:the|an?|some|my|good) .+)", "I will explain {0}"),
    (rf"((?:what|which|who|how|why)\b[^,]*?) ({_MODAL}) I (.+)", "I will explain {0} you {1} {2}"),
    (r"((?:what|which|who|how|why)\b[^,]*?) do I (.+)", "I will explain {0} you {1}"),
    (r"(?:can|could|will|would) you (?:please )?(.+)", "I will {0}"),
    (rf"(?:please )?((?:{'|'.join(_VERBS.split())})\b.+)", "I will {0}"),
)
# A clause before a question ("I am late, what is the fastest way?") counts as a sentence.
_SENTENCES = re.compile(
    r"(?s)(?P<before>.*(?:[.?!]\s+|,\s(?=(?:what(?:['’]s)?|where|how) (?:is|are|to|can|do)\b)))?"
    r"(?P<last>.+?)[\s.?!]*$"
)
_SECOND = {"i": "you", "me": "you", "my": "your", "myself": "yourself", "i am": "you are"}
_SECOND |= {"i'm": "you're", "i was": "you were", "am i": "are you", "was i": "were you"}
_FIRST = re.compile(r"\b(?:i am|i['’]m|i was|am i|was i|i(?!\.)|me|my|myself)\b", re.IGNORECASE)


def by_rule(prompt: str) -> str | None:
    """The opening by the first rule that fits; sentences before the request stay before it."""
    sentences = _SENTENCES.match(prompt.strip())
    if sentences is None:
        return None
    before, request = to_second(sentences["before"] or ""), sentences["last"]
    for rule, shape in RULES:
        if fits := re.fullmatch(rule, request, re.IGNORECASE):
            parts = [to_second(part) for part in fits.groups()]
            if fits.start(1) == 0:  # the request's first word, no longer at the start
                parts[0] = parts[0][0].lower() + parts[0][1:]
            return before + shape.format(*parts)
    return None


def to_second(text: str) -> str:
    """``text`` as it is said to the person who said it: "my" becomes "your"."""
    return _FIRST.sub(_said_back, text)


def _said_back(found: re.Match[str]) -> str:
    word = _SECOND[found[0].lower().replace("’", "'")]
    starts = re.search(r"(?:^|[.?!]\s+)$", found.string[: found.start()])
    return word.capitalize() if starts and found[0][0].isupper() else word
