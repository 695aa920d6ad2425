"""Chat templates: those demur brings, and the one that a setting chooses."""

from __future__ import annotations

from pathlib import Path

from demur.errors import UserError

# For a model that has no chat template and is meant to have none: text, one turn a paragraph.
PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
)
# What DeRTa's models were trained and tested on, the slanted bracket included.
DERTA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] }}{{ eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [\\\\INST]' }}{% endif %}{% endfor %}"
)
TEMPLATES = {"plain": PLAIN, "derta": DERTA}


def chosen(choice: str) -> str:
    """The template of this name or in this Jinja file. Raises UserError if there is neither."""
    if choice in TEMPLATES:
        return TEMPLATES[choice]
    try:
        return Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"model.chat_template={choice!r}: no such Jinja file; name one, or "
            f"{' or '.join(TEMPLATES)}"
        ) from None
