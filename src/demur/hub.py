"""Whether a hub has a model: asked once and at once, where a loader would try for a minute."""

from __future__ import annotations

from functools import lru_cache

from demur.errors import UserError

CARDS = ("config.json", "adapter_config.json")  # one of which every model or adapter has


@lru_cache(maxsize=32)
def find(name: str, revision: str | None = None) -> None:
    """Raises UserError unless a model has been fetched before, or can be.

    A hub that is too busy to say is believed to have it: whoever loads the model asks for longer.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if any(isinstance(try_to_load_from_cache(name, c, revision=revision), str) for c in CARDS):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, CARDS[0], revision=revision))
    except EntryNotFoundError:
        return  # what is there is not for a look at its name to say
    except GatedRepoError:
        why = "it is gated: ask for access there, and log in (`hf auth login`, or HF_TOKEN)"
    except RevisionNotFoundError:
        why = f"it has no revision {revision!r}"
    except RepositoryNotFoundError:
        why = "there is none of this name that may be read; mend the name, or log in"
    except HfHubHTTPError:
        return
    except Exception as error:  # of the hub's HTTP client, whichever that is, or HF_HUB_OFFLINE
        why = f"the hub cannot be asked: {str(error).partition(chr(10))[0]}"
    else:
        return
    raise UserError(f"model {name!r} (no such folder; as a hub id): {why}")
