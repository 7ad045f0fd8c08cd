"""LoRA adapters by PEFT: put on, switched off, and counted."""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trueup.config import LoraConfig
from trueup.errors import ConfigError, ModelError
from trueup.models.files import quiet


def add_lora(model: PreTrainedModel, settings: LoraConfig, seed: int) -> PeftModel:
    """Freezes a model and puts a fresh adapter on it, which changes nothing until it is trained.

    Args:
        model: from :func:`trueup.models.load.load_causal_lm` or ``load_reward_model``; the score head of the latter
            stays trainable and is saved with the adapter.
        settings: rank, alpha, dropout, targets and variant. With ``quantize`` the model must have been loaded so.
        seed: of the adapter's weights; the global random state is left as it was.

    Returns:
        The model with its adapter; trainable weights are fp32 also where the base is bf16.

    Raises:
        ConfigError: targets that the model does not have, or ``quantize`` that does not match how it was loaded.
        ModelError: the model is an adapter merged in memory, so that no folder holds its weights.
    """
    quantized = bool(getattr(model, "is_loaded_in_4bit", False))
    if quantized != (settings.quantize == "4bit"):
        loaded = "in 4 bits" if quantized else "in full precision"
        raise ConfigError(f"lora.quantize: {settings.quantize}, but the model was loaded {loaded}")
    if model.name_or_path and (Path(model.name_or_path) / "adapter_config.json").exists():
        raise ModelError(
            f"{model.name_or_path}: an adapter on top of an adapter cannot be loaded by plain transformers; merge the "
            "first into a full model (trueup merge) and train on that"
        )
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    scores = type(model).__name__.endswith("ForSequenceClassification")
    recipe = PeftLoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType] # a float is taken and written as such
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings.targets),
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        bias="none",
    )
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), quiet():
        torch.manual_seed(seed)
        try:
            wrapped: Any = get_peft_model(model, recipe, revision=getattr(model.config, "_commit_hash", None))
        except ValueError as error:  # PEFT's word for targets that match nothing
            raise ConfigError(f"lora.targets: {settings.targets!r}: {str(error).splitlines()[0]}") from None
    return wrapped


def _targets(model: torch.nn.Module, wanted: str | tuple[str, ...]) -> str | list[str]:
    """Names checked against the layers there are; a string (``all-linear``, a regular expression) is PEFT's to read."""
    if isinstance(wanted, str):
        return wanted
    linear = {name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))}
    for name in wanted:
        if not any(full == name or full.endswith("." + name) for full in linear):
            short = sorted({full.rpartition(".")[2] for full in linear})
            near = difflib.get_close_matches(name, short, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(short)}"
            raise ConfigError(f"lora.targets: this model has no linear layer called {name!r}; {hint}")
    return list(wanted)


def adapter_off(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """Within it the model is its own base: the LoRA adapter is switched off."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def trainable(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Names and parameters that training changes, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
