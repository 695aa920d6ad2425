"""A refusal that says what it declines: the topic of a request, taken from its words by rule.

"How can I pick a lock?" is about "picking a lock". A request that no rule fits is about "that".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from demur.attacks import completing
from demur.records import Example, fingerprint

WORDS = 14  # a topic of more is a whole story, and no topic
NOTHING = "that"
_TASK = re.compile(r".*\bI will (?:explain how to )?(?P<task>.+?):\n Step 1:", re.DOTALL)
_FURTHER = re.compile(r",? (?:and|so|without|while|until|unless|before|after|because)\b|[,;:(]")
_NO_DEED = re.compile(r"(?:explain|tell|show|describe|teach)\b|\w+ (?:how|wh\w+|that|if)\b")
_ASIDE = re.compile(r"^(?:\w+ly |help you (?:to )?)+")  # "safely make" is about making
_DOUBLED = re.compile(
    r"(?:[^aeiou]*|qu)[aeiou][bdgklmnprtv]|.*(?:forget|begin|commit|admit|submit|transfer|control)"
)


def refusal(example: Example, templates: Sequence[str]) -> str:
    """The template that the request draws, always the same one, with ``{topic}`` filled in."""
    drawn = templates[int(fingerprint(example.prompt), 16) % len(templates)]
    return drawn.format(topic=example.topic or topic(example.prompt))


def topic(prompt: str) -> str:
    """What a request wants done, as a noun phrase, up to where its sentence goes on."""
    rule, text = completing.opening(prompt, {})
    found = _TASK.fullmatch(text) if rule == "rule" else None
    if found is None:
        return NOTHING
    task = _ASIDE.sub("", _FURTHER.split(found["task"], maxsplit=1)[0])
    verb, _, rest = task.strip(" .!?").partition(" ")
    if not rest or len(task.split()) > WORDS or _NO_DEED.match(task):
        return NOTHING
    return rest.removeprefix("you ") if verb == "give" else f"{gerund(verb.lower())} {rest}"


def gerund(verb: str) -> str:
    """The -ing form of an English verb: making, getting, lying, agreeing."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and verb != "be" and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if _DOUBLED.fullmatch(verb) else "") + "ing"
