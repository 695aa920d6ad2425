"""What other libraries say of themselves, where nobody needs it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Without bars for a few shards, and without what PEFT still calls by its old name."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not bars:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
