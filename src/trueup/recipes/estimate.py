"""Memory and time of a run, from the model's config alone, before anything is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trueup.config import RunConfig
from trueup.data.render import CompletionTokens, PairTokens
from trueup.models.head import CHUNK
from trueup.models.source import resolve
from trueup.recipes.build import machine_for
from trueup.train.methods import Method

Tokens = PairTokens | CompletionTokens
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by part, and seconds.

    Attributes:
        memory: part -> bytes.
        steps: optimizer steps.
        seconds: of training, at the matrix-product rate measured just now.
        flops_rate: that rate.
    """

    memory: dict[str, float]
    steps: int
    seconds: float
    flops_rate: float

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "total": self.total}

    def lines(self) -> list[str]:
        """For a person."""
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.memory.items() if size)
        return [
            f"memory: about {self.total / GIB:.2f} GiB ({parts})",
            f"time: about {self.seconds / 60:.1f} minutes for {self.steps} steps "
            f"(at {self.flops_rate / 1e9:.0f} GFLOP/s, measured now; loading and evaluation not counted)",
        ]


def _shape(config: RunConfig) -> tuple[int, int, Any]:
    """Body and embedding parameters, and the text config; nothing is loaded."""
    settings = AutoConfig.from_pretrained(resolve(config.model.path, config.model.revision).folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()  # type: ignore[union-attr]
    return total - embedding * (1 if settings.tie_word_embeddings else 2), embedding, settings.get_text_config()


def estimate(config: RunConfig, method: Method, rows: Sequence[Tokens]) -> Estimate:
    """Estimates a run on rendered rows.

    Raises:
        ModelError: the model cannot be found.
    """
    body, embedding, shape = _shape(config)
    machine = machine_for(config)
    wide = 4 if machine.dtype == torch.float32 else 2
    weights = body + embedding * (1 if shape.tie_word_embeddings else 2)
    trained = weights if config.lora is None else _lora_parameters(config, shape)
    memory = {
        "weights": weights * wide + (0 if config.lora is None else trained * 4),
        "master weights": trained * 4 if wide == 2 and config.lora is None else 0,
        "gradients": trained * 4,
        "AdamW": trained * 8,
        "reference": weights * wide if method.reference and config.lora is None else 0,
        "activations": _activations(config, shape, rows, wide),
        "logits": 2.0 * CHUNK * shape.vocab_size * 4,
    }
    rate = matmul_rate(machine.dtype)
    size = min(config.train.batch_size, len(rows))
    steps = max(1, int(np.ceil(len(rows) * config.train.epochs / size)))
    steps = min(steps, config.train.max_steps or steps)
    tokens = float(np.mean([_computed(r) for r in rows])) * size * steps
    heads = float(np.mean([_trained(r) for r in rows])) * size * steps
    passes = 6 + (2 if method.reference else 0)
    flops = passes * body * tokens + (8 + (2 if method.reference else 0)) * embedding * heads
    return Estimate(memory, steps, flops / (0.6 * rate), rate)


def _lora_parameters(config: RunConfig, shape: Any) -> int:
    assert config.lora is not None
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv = hidden * getattr(shape, "num_key_value_heads", shape.num_attention_heads) // shape.num_attention_heads
    sides = [
        (hidden, hidden),
        (hidden, kv),
        (hidden, kv),
        (hidden, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ]
    return config.lora.rank * shape.num_hidden_layers * sum(a + b for a, b in sides)


def _activations(config: RunConfig, shape: Any, rows: Sequence[Tokens], wide: int) -> float:
    """Kept for the backward pass: per token and layer about 14 hidden and 4 inner vectors (measured on Llama)."""
    longest = max(_computed(r) for r in rows)
    if config.train.micro_batch is not None:
        tokens = config.train.micro_batch * longest
    else:
        mean = float(np.mean([_computed(r) for r in rows]))
        tokens = max(longest, min(config.train.micro_tokens, min(config.train.batch_size, len(rows)) * mean))
    layer = (14 * shape.hidden_size + 4 * shape.intermediate_size) * wide
    if config.train.gradient_checkpointing:
        return tokens * (shape.num_hidden_layers * shape.hidden_size * wide + layer)
    return tokens * shape.num_hidden_layers * layer


def _computed(row: Tokens) -> int:
    return len(row.chosen.ids) + len(row.rejected.ids) - row.shared if isinstance(row, PairTokens) else len(row.ids)


def _trained(row: Tokens) -> int:
    return int(row.chosen.mask.sum() + row.rejected.mask.sum()) if isinstance(row, PairTokens) else int(row.mask.sum())


def matmul_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """FLOP/s of a plain square product here and now: the best of a few."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best
