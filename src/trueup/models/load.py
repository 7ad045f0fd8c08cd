"""Loading models and tokenizers, and putting LoRA adapters on them. Nothing is loaded in part and called whole."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trueup.errors import ConfigError, ModelError
from trueup.models.files import quiet
from trueup.models.gguf_file import read_gguf
from trueup.models.lora import adapter_off, add_lora, trainable
from trueup.models.source import TOKENIZER_FILES, Source, base_of, identity, resolve, weight_files

__all__ = [
    "adapter_off",
    "add_lora",
    "identity",
    "load_causal_lm",
    "load_reward_model",
    "load_tokenizer",
    "require_chat_template",
    "resolve",
    "score_head",
    "trainable",
]

log = logging.getLogger(__name__)

Quantize = Literal["none", "4bit"]

# What transformers raises on a config that is valid JSON but makes no sense.
_NONSENSE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ImportError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    SafetensorError,
    StrictDataclassError,
)
_LM_HEADS = ("lm_head.", "embed_out.", "output.")  # not wanted by a reward model
_SCORE_HEADS = ("score.", "classifier.", "v_head.")


def load_tokenizer(
    path: str | Path, revision: str | None = None, *, code_revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; an adapter without one has its base's.

    Args:
        path: anything :func:`trueup.models.source.resolve` takes.
        revision: of a hub id.
        code_revision: see :func:`trueup.models.source.resolve`.

    Raises:
        ModelError: no tokenizer, one that cannot be read, or one without an end-of-sequence token.
    """
    source = resolve(path, revision, code_revision)
    if source.file is not None:
        tokenizer: Any = read_gguf(source.file)[1]
    else:
        tokenizer = _read_tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{source.name}: the tokenizer has no eos_token, so no answer could ever end; set one in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        log.warning("%s: the tokenizer has no pad_token; eos_token takes its place (padding is told by position)", path)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _read_tokenizer(source: Source) -> Any:
    if not any((source.folder / name).exists() for name in TOKENIZER_FILES):
        if source.kind == "adapter":
            return _read_tokenizer(base_of(source))
        raise ModelError(
            f"{source.folder}: no tokenizer (tokenizer.json) beside the model; copy the one it was trained with there"
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(**_where(source))
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged tokenizer.json
        raise ModelError(f"{source.folder}: the tokenizer cannot be read: {_first_line(error)}") from error


def require_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Checks that messages can be turned into a prompt.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{path}: the tokenizer has no chat template, so messages cannot be turned into a prompt; add "
            "chat_template.jinja to the model folder, or train on plain text (--data.chat plain)"
        )


def load_causal_lm(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    attention: str | None = None,
    code_revision: str | None = None,
    quantize: Quantize = "none",
) -> PreTrainedModel:
    """A language model in evaluation mode, every weight of it read from the files.

    Args:
        path: anything :func:`trueup.models.source.resolve` takes; an adapter comes merged into its base.
        dtype: of the weights in memory.
        revision: of a hub id.
        attention: transformers' attention implementation; None: its choice.
        code_revision: see :func:`trueup.models.source.resolve`.
        quantize: ``4bit`` loads NF4 weights for QLoRA; needs bitsandbytes.

    Raises:
        ModelError: files missing, damaged, or not of a language model; weights missing or left over.
        ConfigError: ``4bit`` without bitsandbytes.
    """
    source = resolve(path, revision, code_revision)
    options = _options(dtype, attention, quantize)
    if source.kind == "gguf" and source.file is not None:
        _require_whole_precision(source, quantize)
        model = read_gguf(source.file, dtype)[0]
        if attention is not None:
            model.set_attn_implementation(attention)
        return _named(model, source)
    if source.kind == "adapter":
        _require_whole_precision(source, quantize)
        return _named(_merged(source, AutoModelForCausalLM, options), source)
    model, missing, unexpected = _read(AutoModelForCausalLM, source, options)
    if any(key.startswith(_SCORE_HEADS) for key in unexpected):
        raise ModelError(f"{source.name}: a reward model or classifier (it has {unexpected[0]}), not a language model")
    _require_all(source, missing, unexpected)
    return _named(model, source)


def load_reward_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    attention: str | None = None,
    code_revision: str | None = None,
    quantize: Quantize = "none",
    new_head: bool | None = False,
    seed: int = 0,
    head_std: float = 0.01,
) -> PreTrainedModel:
    """A model that gives one score a sequence.

    Args:
        path: as :func:`load_causal_lm`.
        dtype: as :func:`load_causal_lm`.
        revision: as :func:`load_causal_lm`.
        attention: as :func:`load_causal_lm`.
        code_revision: as :func:`load_causal_lm`.
        quantize: as :func:`load_causal_lm`.
        new_head: False: the files must hold a score head. True: a fresh one takes the place of any that is there.
            None: fresh only if there is none. A fresh head is announced in the log.
        seed: of a fresh head.
        head_std: standard deviation of a fresh head's weights.

    Raises:
        ModelError: as :func:`load_causal_lm`; or no score head, though ``new_head`` is False.
        ConfigError: as :func:`load_causal_lm`.
    """
    source = resolve(path, revision, code_revision)
    options = {**_options(dtype, attention, quantize), "num_labels": 1}
    if source.kind == "gguf" and source.file is not None:
        _require_whole_precision(source, quantize)
        model, missing, unexpected = _gguf_with_head(source.file, dtype, attention)
    elif source.kind == "adapter":
        _require_whole_precision(source, quantize)
        model = _merged(source, AutoModelForSequenceClassification, options)
        missing, unexpected = [], []
    else:
        model, missing, unexpected = _read(AutoModelForSequenceClassification, source, options)
    headless = [key for key in missing if key.startswith(_SCORE_HEADS)]
    unexpected = [key for key in unexpected if not key.startswith(_LM_HEADS)]
    _require_all(source, [key for key in missing if key not in headless], unexpected)
    if headless and new_head is False:
        raise ModelError(
            f"{source.name}: no score head ({headless[0]} is missing): a language model, not a reward model; train one "
            "first (trueup train reward)"
        )
    if headless or new_head:
        _fresh_head(model, seed, head_std, source.name, replaced=not headless)
    return _named(model, source)


def score_head(model: Any) -> torch.nn.Linear:
    """The layer that turns a hidden state into a score.

    Raises:
        ModelError: the architecture keeps it under another name than ``score``.
    """
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = getattr(inner, "score", None)
    head = getattr(head, "original_module", head)
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
        raise ModelError(f"{inner.config.model_type}: reward models of this architecture are not supported")
    return getattr(inner.score, "modules_to_save", {"default": head})["default"]


def _options(dtype: torch.dtype, attention: str | None, quantize: Quantize) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": dtype}
    if attention is not None:
        options["attn_implementation"] = attention
    if quantize == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "lora.quantize: 4bit needs bitsandbytes, which is not installed: pip install bitsandbytes"
            )
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options


def _require_whole_precision(source: Source, quantize: Quantize) -> None:
    if quantize != "none":
        raise ConfigError(
            f"lora.quantize: {quantize} is for full model folders; {source.name} is {source.kind}: merge it first "
            "(trueup merge)"
        )


def _where(source: Source) -> dict[str, Any]:
    """Arguments that make transformers read this source and run no code but the pinned."""
    if source.code is None:
        return {
            "pretrained_model_name_or_path": str(source.folder),
            "local_files_only": True,
            "trust_remote_code": False,
        }
    return {
        "pretrained_model_name_or_path": source.name,
        "revision": source.commit,
        "code_revision": source.code,
        "trust_remote_code": True,
    }


def _read(auto: Any, source: Source, options: dict[str, Any]) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The model, the keys it lacks and the keys left over."""
    if not isinstance(source.config.get("model_type"), str):
        raise ModelError(f"{source.folder}/config.json: names no model_type")
    try:
        with quiet():
            model, info = auto.from_pretrained(
                **_where(source), **options, use_safetensors=True, output_loading_info=True
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except _NONSENSE as error:
        reason = _first_line(error)
        if "ignore_mismatched_sizes" in reason:
            reason = _mismatch(auto, source, options)
        raise ModelError(f"{source.folder}: config.json and the weights do not make a model: {reason}") from error
    return model.eval(), sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def _mismatch(auto: Any, source: Source, options: dict[str, Any]) -> str:
    """Names a tensor whose shape is not the one that the config asks for."""
    labels = {"num_labels": options["num_labels"]} if "num_labels" in options else {}
    with torch.device("meta"):
        model = auto.from_config(AutoConfig.from_pretrained(source.folder, local_files_only=True, **labels))
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for path in weight_files(source.folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 # not a dict
                shape = list(file.get_slice(name).get_shape())
                if wanted.get(name, shape) != shape:
                    return f"{name} has shape {shape}, but by config.json it is {wanted[name]}"
    return "the shapes of its tensors are not those that config.json asks for"


def _require_all(source: Source, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    for keys, what in ((list(missing), "missing from"), (list(unexpected), "left over in")):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ModelError(
                f"{source.folder}: {shown}: {what} the weights; they do not belong to this config.json "
                f"({source.config.get('model_type')})"
            )


def _gguf_with_head(
    file: Path, dtype: torch.dtype, attention: str | None
) -> tuple[PreTrainedModel, list[str], list[str]]:
    language = read_gguf(file, dtype)[0]
    language.config.num_labels = 1
    extra = {} if attention is None else {"attn_implementation": attention}
    model = AutoModelForSequenceClassification.from_config(language.config, dtype=dtype, **extra)
    info = model.load_state_dict(language.state_dict(), strict=False)
    model.config.architectures = [type(model).__name__]
    return model.eval(), sorted(info.missing_keys), sorted(info.unexpected_keys)


def _merged(source: Source, auto: Any, options: dict[str, Any]) -> PreTrainedModel:
    """Base and adapter as one plain model (the sum is taken in the base's precision)."""
    return load_adapter(source, auto, options).merge_and_unload()  # pyright: ignore[reportCallIssue]


def load_adapter(source: Source, auto: Any, options: dict[str, Any]) -> PeftModel:
    """An adapter on its base, not merged.

    Raises:
        ModelError: it fits another kind of model, or its weights do not fit the base.
    """
    scores = auto is AutoModelForSequenceClassification
    if (source.config.get("task_type") == "SEQ_CLS") != scores:
        kinds = ("language model", "reward model")
        raise ModelError(f"{source.name}: an adapter of a {kinds[not scores]}, not of a {kinds[scores]}")
    base = base_of(source)
    if base.file is not None:
        model = _gguf_with_head(base.file, options["dtype"], None)[0] if scores else read_gguf(base.file)[0]
    else:
        model, missing, unexpected = _read(auto, base, options)
        heads = _SCORE_HEADS if scores else ()
        missing = [key for key in missing if not key.startswith(heads)] if heads else missing
        _require_all(base, missing, [key for key in unexpected if not key.startswith(_LM_HEADS)])
    try:
        with quiet():
            return PeftModel.from_pretrained(model, str(source.folder), local_files_only=True).eval()
    except _NONSENSE as error:
        raise ModelError(f"{source.folder}: the adapter does not fit its base: {_first_line(error)}") from error


def _fresh_head(model: Any, seed: int, std: float, name: str, *, replaced: bool) -> None:
    head = score_head(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
        if head.bias is not None:
            head.bias.zero_()
    what = "a fresh score head in place of its own" if replaced else "a fresh score head"
    log.warning("%s: %s (seed %d, standard deviation %g)", name, what, seed, std)


def _named(model: Any, source: Source) -> PreTrainedModel:
    """Lets the model remember where it came from: an adapter trained on it names this as its base."""
    model.name_or_path = model.config._name_or_path = (
        source.name if source.commit else str(source.file or source.folder)
    )
    model.config._commit_hash = source.commit
    return model


def _first_line(error: BaseException) -> str:
    """One line of another library's error; the kind too where the text alone says little."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if isinstance(error, (OSError, ValueError, RuntimeError, ImportError)) and text:
        return text
    return f"{type(error).__name__} {text}".strip()
