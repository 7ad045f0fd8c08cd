"""Models and a tokenizer small enough to make on the spot: for tests, lessons and fault injection. No downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from trueup.models.files import quiet

Kind = Literal["llama", "mistral", "gemma2", "qwen2", "gpt2", "bigram"]

PAD, BOS, EOS, UNKNOWN = range(4)  # ids; byte b is token 4 + b
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


def tiny_model(
    vocab: int = 260, hidden: int = 64, layers: int = 2, heads: int = 4, seed: int = 0, kind: Kind = "llama"
) -> PreTrainedModel:
    """A random model in fp32 and evaluation mode, whose outputs are far from uniform.

    Args:
        vocab: tokens; at least 260 for :func:`tiny_tokenizer`.
        hidden: width, a multiple of ``heads``.
        layers: attention layers.
        heads: attention heads (half as many for keys and values where the architecture can).
        seed: of the weights; the global random state is left as it was.
        kind: ``llama``; ``mistral`` (a sliding window of 8); ``gemma2`` (window every other layer, soft-capped
            logits); ``qwen2`` (attention biases); ``gpt2`` (learned positions); ``bigram``: llama without layers, so
            that the next token depends on the last one alone.
    """
    config = _config(vocab, hidden, layers, heads, kind)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _config(vocab: int, hidden: int, layers: int, heads: int, kind: Kind) -> Any:
    ids: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=vocab,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=1024,
            initializer_range=0.2,
            **ids,
        )
    shared: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 0 if kind == "bigram" else layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        **ids,
    }
    if kind == "mistral":
        return MistralConfig(sliding_window=8, **shared)
    if kind == "gemma2":
        return Gemma2Config(sliding_window=8, head_dim=hidden // heads, query_pre_attn_scalar=hidden // heads, **shared)
    if kind == "qwen2":
        return Qwen2Config(**shared)
    return LlamaConfig(**shared)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte (byte b is token 4 + b) and ``<pad>``, ``<bos>``, ``<eos>``, ``<unk>``; a chat template."""
    table = pre_tokenizers.ByteLevel.alphabet()
    letters = sorted(table, key=_byte_of)
    vocab = {token: index for index, token in enumerate([*_SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _byte_of(letter: str) -> int:
    """The byte that a letter of the byte-level alphabet stands for: its own if printable, the others from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    code = ord(letter)
    return code if code in plain else [b for b in range(256) if b not in plain][code - 256]


def save_tiny(folder: str | Path, **arguments: Any) -> Path:
    """Writes a tiny model and its tokenizer as a model folder.

    Args:
        folder: made if it is not there.
        **arguments: of :func:`tiny_model`.
    """
    with quiet():
        tiny_model(**arguments).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return Path(folder)
