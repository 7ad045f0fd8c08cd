"""Reading a GGUF file once, as a plain model with its dequantised values and a tokenizer that splits as it should."""

from __future__ import annotations

import copy
import logging
import struct
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trueup.errors import ModelError
from trueup.models.files import quiet

log = logging.getLogger(__name__)

_GPT2_SPLITS = {"default", "gpt-2", "gpt2", ""}  # what transformers takes every byte-level GGUF vocabulary for
_MOST_METADATA = 1 << 20  # tensors or fields; the largest models have some thousands


def check_gguf(path: Path) -> None:
    """Looks at the first bytes of a file before anything is read from it.

    Raises:
        ModelError: it is not a GGUF file, or its header promises more than the file can hold.
    """
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ModelError(f"{path}: not a GGUF file (it does not begin with GGUF); name a .gguf file or a model folder")
    version, tensors, fields = struct.unpack("<IQQ", head[4:])
    if version not in (2, 3) or max(tensors, fields) > min(_MOST_METADATA, path.stat().st_size):
        raise ModelError(f"{path}: damaged GGUF header (version {version}, {tensors} tensors, {fields} fields)")


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Reads weights, config, tokenizer and chat template from a GGUF file.

    Args:
        path: a ``.gguf`` file.
        dtype: of the weights; fp32 holds dequantised 4- and 8-bit values exactly, bf16 rounds them.

    Returns:
        A model without any trace of quantisation (it can be saved as safetensors), and its tokenizer.

    Raises:
        ModelError: the file is damaged, or of an architecture that transformers cannot read from GGUF.
    """
    check_gguf(path)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    try:
        with quiet(stderr=True):
            tokenizer: Any = AutoTokenizer.from_pretrained(**where)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
            split = _splitting_rule(path)
    except (ValueError, KeyError, IndexError, OSError, RuntimeError, NotImplementedError, struct.error) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(f"{path}: cannot be read as GGUF: {reason}") from error
    _mend_splitting(tokenizer, split, path)
    return _plain(model), tokenizer


def _splitting_rule(path: Path) -> str:
    field = GGUFReader(str(path)).fields.get("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())


def _mend_splitting(tokenizer: Any, rule: str, path: Path) -> None:
    """Puts back the rule by which text is cut before merging: transformers reads every one as GPT-2's."""
    backend = tokenizer.backend_tokenizer
    if rule == "smollm":  # each digit on its own, then GPT-2's rule
        digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    elif rule not in _GPT2_SPLITS and "ByteLevel" in repr(backend.pre_tokenizer):
        log.warning("%s: its tokenizer cuts text by the rule %r, which may be read as GPT-2's rule here", path, rule)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not think itself quantised (such a one refuses to be saved)."""
    config = copy.deepcopy(model.config)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    config.architectures = [type(model).__name__]
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), strict=True, assign=True)
    _take_buffers(plain, model)
    plain.tie_weights()
    generation: Any = copy.deepcopy(model.generation_config)
    generation._from_model_config = False
    plain.generation_config = generation
    return plain.eval()


def _take_buffers(plain: torch.nn.Module, model: torch.nn.Module) -> None:
    """Buffers that are not in the state dict (rotary frequencies) would stay on the meta device."""
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
