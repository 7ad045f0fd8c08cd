"""Writing a result that plain transformers loads: weights, tokenizer, template, card; compared before it appears."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trueup.errors import TrueupError
from trueup.models.files import building, quiet
from trueup.models.source import ORIGIN, bundled_name, identity

log = logging.getLogger(__name__)


def save_result(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    card: Callable[[Path], None] | None = None,
    replace: bool = True,
) -> Path:
    """Saves a model folder in one piece, and compares it with the model before it takes its place.

    A full model loads with ``AutoModelForCausalLM.from_pretrained(folder)`` (a reward model with
    ``AutoModelForSequenceClassification``). Of a LoRA model the adapter is saved; the same call loads it where PEFT is
    installed and the base is where it was: a folder by its absolute path, a hub model by its id and commit.

    Args:
        model: what was trained.
        tokenizer: saved beside it with its chat template.
        folder: where to; its parents are made.
        dtype: of the saved weights; None: as they are.
        card: writes ``README.md`` into the folder it is given, before that folder takes its place.
        replace: whether a folder of that name may be replaced.

    Returns:
        The folder.

    Raises:
        RunError: the folder is there and ``replace`` is False.
        ResourceError: the disk is full; nothing is left behind.
        TrueupError: what was read back differs from the model.
    """
    if _scores(model):
        _separate_pad(model, tokenizer)
    with building(folder, replace=replace) as draft:
        if isinstance(model, PeftModel):
            _save_adapter(model, draft, dtype)
        else:
            _save_full(model, tokenizer, draft, dtype)
        with quiet():
            tokenizer.save_pretrained(draft)
        if card is not None:
            card(draft)
    return folder


def _scores(model: PreTrainedModel | PeftModel) -> bool:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return type(inner).__name__.endswith("ForSequenceClassification")


def _separate_pad(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Transformers scores the last token that is not pad: where pad ends answers, that is not the one trained on."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        others = [t for t in (tokenizer.unk_token, *tokenizer.all_special_tokens) if t and t != tokenizer.eos_token]
        free = next((t for t in others if t != tokenizer.bos_token), None)
        if free is None:
            log.warning("reward model: pad is the end token; plain transformers will score the token before it")
            return
        log.warning("reward model: saved with %s as pad, because plain transformers would skip the end token", free)
        tokenizer.pad_token = free
    model.config.pad_token_id = tokenizer.pad_token_id


def _save_full(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None
) -> None:
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _mend_generation(model, tokenizer)
    state = model.state_dict()
    if dtype is not None:
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with quiet():
        model.save_pretrained(folder, state_dict=state)
    if dtype is not None:
        _set_dtype(folder / "config.json", dtype)
    _compare_full(model, state, folder)


def _mend_generation(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Answers must end where training taught them to; a config that transformers refuses must not lose a run."""
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    ends: Any = generation.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:  # such as a temperature beside do_sample=False, found in published models
        log.warning("generation_config.json of the base model contradicts itself; do_sample is set to true")
        generation.do_sample = True


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _compare_full(model: PreTrainedModel, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Reads the folder back as transformers does and compares every bit; equal weights give equal scores."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if psutil.virtual_memory().available < 1.3 * size:
        log.warning("%s: not compared with the model, memory for a second copy (%.1f GB) is short", folder, size / 1e9)
        return
    with quiet():
        read: Any = type(model).from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    again, info = read
    if info["missing_keys"] or info["unexpected_keys"]:
        raise TrueupError(f"saved model: {sorted(info['missing_keys'] | info['unexpected_keys'])[0]} was not read back")
    _compare(state, again.state_dict())


def _compare(state: Mapping[str, torch.Tensor], read: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        if name not in read or not _same_bits(tensor, read[name]):
            raise TrueupError(f"saved model: {name} differs from the trained model after reading it back")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def _save_adapter(model: PeftModel, folder: Path, dtype: torch.dtype | None) -> None:
    state: dict[str, torch.Tensor] = model.state_dict()
    if dtype is not None:
        state = {k: v.to(dtype) if "lora_" in k or "modules_to_save" in k else v for k, v in state.items()}
    settings: Any = model.peft_config["default"]
    if isinstance(settings.target_modules, set):  # whose order differs from process to process
        settings.target_modules = sorted(settings.target_modules)
    with quiet():
        model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank form
    base, revision = settings.base_model_name_or_path, settings.revision
    origin = {"base": bundled_name(base) or base, "revision": revision, "base_identity": identity(base, revision)}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    saved = load_file(folder / "adapter_model.safetensors")
    if settings.task_type == "SEQ_CLS" and not any(name.endswith("score.weight") for name in saved):
        raise TrueupError("saved adapter: its score head is missing")
    _compare(get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False), saved)
