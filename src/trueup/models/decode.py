"""Decoding one token at a time for many answers at once: where keys and values are kept, and the forward pass.

``Slots`` serves models that use our attention: prompts are computed once without padding, their keys and values copied
to each of their answers; an answer that ends gives its slot to the next. ``Whole`` serves every other causal model by
its own cache: answers to prompts of equal length, which start and end together.

Legend: ``B`` answers in progress, ``L`` keys of the longest, ``H`` width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trueup.models.layout import Branches, shared_layout
from trueup.models.policy import Policy

ROUND = 64  # capacity and attended length are multiples of it, so that a length changes no rounding in between


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt that was computed.

    Attributes:
        keys, values: ``[layers, kv_heads, P, d]``.
        state: last hidden state, ``[H]``.
    """

    keys: torch.Tensor
    values: torch.Tensor
    state: torch.Tensor

    @property
    def length(self) -> int:
        """P."""
        return self.keys.shape[2]


class _Capture:
    """Stands where a cache stands while prompts are computed, and keeps what passes."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def update(self, key: torch.Tensor, value: torch.Tensor, *_rest: Any, **_more: Any) -> tuple[torch.Tensor, ...]:
        """Called by each layer in turn; ``[1, kv_heads, T, d]``."""
        self.keys.append(key[0])
        self.values.append(value[0])
        return key, value


class Slots:
    """Keys and values of the answers in progress; the first ``B`` slots are in use.

    Args:
        policy: a model that shares prompts.
        slots: answers at once.
        capacity: tokens of prompt plus answer.
    """

    def __init__(self, policy: Policy, slots: int, capacity: int) -> None:
        self.policy, self.size = policy, slots
        self.capacity = -(-capacity // ROUND) * ROUND
        self.keys: torch.Tensor | None = None  # [layers, slots, kv_heads, capacity, d]
        self.values: torch.Tensor | None = None
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self._rows = torch.arange(slots, device=policy.device)
        self._active = 0
        self._at = self.lengths
        self._end = 0

    def prefill(self, prompts: Sequence[np.ndarray]) -> list[Prefix]:
        """Computes prompts in one row without padding."""
        untrained = np.zeros(1, dtype=bool)
        layout = shared_layout([Branches(p[:-1], (p[-1:],), (untrained,)) for p in prompts])
        kept = _Capture()
        states = self.policy.hidden(layout.to(self.policy.device), cache=kept)
        keys, values = torch.stack(kept.keys), torch.stack(kept.values)
        prefixes, start = [], 0
        for prompt, last in zip(prompts, layout.last.tolist(), strict=True):
            part = slice(start, start + len(prompt))
            prefixes.append(Prefix(keys[:, :, part].clone(), values[:, :, part].clone(), states[last].clone()))
            start += len(prompt)
        return prefixes

    def put(self, slot: int, prefix: Prefix) -> None:
        """Starts an answer in a slot."""
        if self.keys is None or self.values is None:
            layers, heads, _, width = prefix.keys.shape
            shape = (layers, self.size, heads, self.capacity, width)
            self.keys, self.values = prefix.keys.new_zeros(shape), prefix.values.new_zeros(shape)
        self.keys[:, slot, :, : prefix.length] = prefix.keys
        self.values[:, slot, :, : prefix.length] = prefix.values
        self.lengths[slot] = prefix.length

    def move(self, source: int, target: int) -> None:
        """Gives one slot's answer another slot."""
        assert self.keys is not None and self.values is not None
        end = int(self.lengths[source])
        self.keys[:, target, :, :end] = self.keys[:, source, :, :end]
        self.values[:, target, :, :end] = self.values[:, source, :, :end]
        self.lengths[target] = end

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Appends one token to each of the first ``B`` answers; the states after it, ``[B, H]``."""
        self._active = len(tokens)
        at = self.lengths[: self._active]
        longest = int(at.max()) + 1
        self._end = min(-(-longest // ROUND) * ROUND, self.capacity)
        self._at = at.to(tokens.device)
        seen = torch.arange(self._end, device=tokens.device)[None] <= self._at[:, None]
        states = self.policy.hidden_step(tokens, self._at, seen, self)
        self.lengths[: self._active] += 1
        return states

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_rest: Any, **_more: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by each layer: takes ``[B, kv_heads, 1, d]``, gives all that is known, ``[B, kv_heads, L, d]``."""
        assert self.keys is not None and self.values is not None
        rows = self._rows[: self._active]
        self.keys[layer][rows, :, self._at] = key[:, :, 0]
        self.values[layer][rows, :, self._at] = value[:, :, 0]
        return self.keys[layer, : self._active, :, : self._end], self.values[layer, : self._active, :, : self._end]


class Whole:
    """Answers to prompts of one length, by the model's own cache; they start together and none is replaced.

    Args:
        policy: any causal model.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._cache: Any = None

    @torch.no_grad()
    def start(self, prompts: Sequence[np.ndarray]) -> torch.Tensor:
        """Computes prompts of equal length; the states after them, ``[B, H]``."""
        ids = torch.from_numpy(np.stack(prompts).astype(np.int64)).to(self.policy.device)
        return self._forward(ids, None)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Appends one token to each answer; the states after it, ``[B, H]``."""
        return self._forward(tokens[:, None], self._cache)

    def _forward(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        output = self.policy.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        self._cache = next(
            (c for name in ("past_key_values", "cache_params") if (c := getattr(output, name, None)) is not None), None
        )
        return output.last_hidden_state[:, -1]
