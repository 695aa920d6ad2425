"""A model's tokenizer with its chat template; no weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from demur import chat, names, templates
from demur.errors import UserError
from demur.records import fingerprint
from demur.settings import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load(settings: Model) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the right, with the template that the settings choose.

    Raises UserError if there is no tokenizer, no chat template, or the template loses answers.
    """
    from transformers import AutoTokenizer

    where = _home(settings)
    try:
        found = AutoTokenizer.from_pretrained(
            where,
            revision=None if settings.tokenizer else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise names.refusal(settings, "has no usable tokenizer", error) from None
    if not found.is_fast:
        raise UserError(
            f"model {settings.name!r}: its tokenizer is a slow one; a fast one is needed"
        )
    if settings.chat_template:
        found.chat_template = templates.chosen(settings.chat_template)
    found.padding_side = "right"
    chat.stop_ids(found)  # refuses a missing template now
    return found


def _home(settings: Model) -> str:
    """Where the tokenizer lies: with the model, or with the base model of a lone adapter."""
    if settings.tokenizer:
        return names.locate(settings.tokenizer)
    if settings.endpoint:
        raise UserError(
            f"model {settings.name!r} is served: set model.tokenizer to its tokenizer (path or "
            "hub id), so that demur can render the text that the server is to continue"
        )
    for name in (settings.name, names.resolve(settings).name):
        where = names.locate(name)
        if not Path(where).is_dir() or names.files(where, names.TOKENIZER):
            return where
    raise UserError(f"model {settings.name!r} has no tokenizer: save it into that folder")


def template_hash(found: PreTrainedTokenizerBase) -> str:
    """What tells two chat templates apart in a manifest."""
    return fingerprint(found.chat_template)


def template_of(settings: Model) -> str | None:
    """The `template_hash` of a model; None for a server that keeps its template to itself."""
    if settings.endpoint and not settings.tokenizer:
        return None
    return template_hash(load(settings))
