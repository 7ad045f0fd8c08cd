"""Attention in which several completions share one prompt: each branch sees the prompt and itself.

Registered with transformers under the name ``trueup``. Without groups (generation, other callers) it is plain SDPA, so
a model may keep the setting. On CPU every group is one small attention of its own, without padding; on CUDA the whole
row goes through FlexAttention with a block mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "trueup"
BLOCK = 512  # queries at a time
TILE = 128  # of FlexAttention's block masks

Groups = tuple[tuple[int, ...], ...]


def branching_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    groups: Groups | None = None,
    seen: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function given to transformers.

    Args:
        module: the attention layer.
        query: ``[1, heads, T, d]``.
        key: ``[1, kv_heads, T, d]``.
        value: as ``key``.
        attention_mask: used only when ``groups`` is None.
        dropout: must be 0 with groups.
        scaling: factor of the dot products; None means d ** -0.5.
        groups: lengths (prefix, branch, ...) of each group of the row, in order.
        seen: decoding, one query an answer: which keys it may look at, ``[B, L]`` bool; then ``query`` is
            ``[B, heads, 1, d]`` and ``key`` ``[B, kv_heads, L, d]``.
        **kwargs: handed on to SDPA when ``groups`` is None.

    Returns:
        ``[1, T, heads, d]`` and None.
    """
    if seen is not None:
        return _decode(query, key, value, scaling, seen), None
    if groups is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if query.is_cuda and _fits_flex(query):
        return _flex(query, key, value, scaling, groups), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _GroupAttention.apply(query, key, value, scale, groups)[None], None  # pyright: ignore[reportOptionalSubscript]


def _decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, seen: torch.Tensor
) -> torch.Tensor:
    """One query an answer, query heads folded over their key head; ``[B, 1, heads, d]``."""
    rows, heads, _, width = query.shape
    kv_heads, length = key.shape[1:3]
    scale = width**-0.5 if scaling is None else scaling
    q = query.reshape(rows * kv_heads, heads // kv_heads, width)
    scores = torch.bmm(q, key.reshape(rows * kv_heads, length, width).transpose(1, 2)).view(rows, heads, length)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    scores = (scores * scale).masked_fill_(~seen[:, None], -torch.inf)
    p = scores.softmax(-1).to(value.dtype).view(rows * kv_heads, -1, length)
    return torch.bmm(p, value.reshape(rows * kv_heads, length, width)).view(rows, 1, heads, width)


class _GroupAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v, group by group and a block of queries at a time; ``[T, heads, d]``.

    Written out because PyTorch's fused CPU kernel is three times slower than plain products in bf16 at these sizes
    (docs/benchmarks.md). The probabilities are computed again in the backward pass, so memory stays linear.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, groups: Groups
    ) -> torch.Tensor:
        heads, total, width = query.shape[1:]
        output = query.new_empty(total, heads, width)
        for block in _blocks(groups):
            probability = _probability(query, key, scale, block)
            o = torch.bmm(probability, value[0, :, block.keys])
            output[block.queries] = o.view(heads, -1, width).transpose(0, 1)
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.groups = scale, groups
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        query, key, value = ctx.saved_tensors
        heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[3]
        grad_q, grad_k, grad_v = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for block in _blocks(ctx.groups):
            q = query[0, :, block.queries].reshape(kv_heads, -1, width)
            k, v = key[0, :, block.keys], value[0, :, block.keys]
            g = grads[0][block.queries].transpose(0, 1).reshape(kv_heads, -1, width)
            p = _probability(query, key, ctx.scale, block)
            grad_v[0, :, block.keys] += torch.bmm(p.transpose(1, 2), g)
            by_p = torch.bmm(g, v.transpose(1, 2))
            by_s = torch.ops.aten._softmax_backward_data(by_p, p, -1, p.dtype).mul_(ctx.scale)
            grad_q[0, :, block.queries] = torch.bmm(by_s, k).view(heads, -1, width)
            grad_k[0, :, block.keys] += torch.bmm(by_s.transpose(1, 2), q)
        return grad_q, grad_k, grad_v, None, None


class _Block(NamedTuple):
    """Some queries of one group and the keys they may see, as places in the row."""

    queries: slice
    keys: slice
    sizes: tuple[int, ...]


def _blocks(groups: Groups) -> Iterator[_Block]:
    start = 0
    for sizes in groups:
        total = sum(sizes)
        for first in range(0, total, BLOCK):
            end = min(first + BLOCK, total)
            yield _Block(slice(start + first, start + end), slice(start, start + end), sizes)
        start += total


def _probability(query: torch.Tensor, key: torch.Tensor, scale: float, block: _Block) -> torch.Tensor:
    """Attention probabilities of a block, query heads folded over their key head: ``[kv_heads, repeat * n, keys]``."""
    kv_heads, width = key.shape[1], key.shape[3]
    q = query[0, :, block.queries].reshape(kv_heads, -1, width)
    k = key[0, :, block.keys]
    first = block.queries.start - block.keys.start
    mask = _mask(block.sizes, first, k.shape[1], query.shape[1] // kv_heads, query.dtype).to(query.device)
    scores = torch.baddbmm(mask.expand(kv_heads, -1, -1), q, k.transpose(1, 2), alpha=scale)
    return scores.softmax(-1)


@lru_cache(maxsize=512)
def _mask(sizes: tuple[int, ...], first: int, end: int, repeat: int, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query of the group may look, −inf elsewhere: ``[repeat * (end − first), end]``."""
    prefix, *branches = sizes
    branch = torch.tensor([0] * prefix + [b for b, length in enumerate(branches, 1) for _ in range(length)])
    place = torch.arange(sum(sizes))
    q, k = slice(first, end), slice(0, end)
    earlier = place[q, None] >= place[None, k]
    same = (branch[None, k] == 0) | (branch[q, None] == branch[None, k])
    mask = torch.zeros(end - first, end, dtype=dtype).masked_fill_(~(earlier & same), float("-inf"))
    return mask.repeat(repeat, 1)


@lru_cache(maxsize=4)
def _block_mask(groups: Groups, device: torch.device) -> BlockMask:
    """Which token sees which: same group, earlier position in the row, and prefix or same branch.

    Counted from the lengths, because ``create_block_mask`` holds the whole ``[T, T]`` several times over.
    """
    group, prefix_end, branch_start = _places(groups)
    total, blocks = len(group), -(-len(group) // TILE)
    query = np.arange(total)[:, None]
    low = np.arange(blocks)[None] * TILE
    start = np.searchsorted(group, group)[:, None]  # of the query's group
    in_prefix = np.minimum(np.minimum(low + TILE, prefix_end[:, None]), query + 1) - np.maximum(low, start)
    in_branch = np.minimum(low + TILE, query + 1) - np.maximum(low, branch_start[:, None])
    seen = np.maximum(in_prefix, 0) + np.maximum(in_branch, 0)  # keys of each tile that a query sees, [T, tiles]
    seen = np.pad(seen, ((0, blocks * TILE - total), (0, 0))).reshape(blocks, TILE, blocks)
    some, every = (seen > 0).any(1), (seen == TILE).all(1)
    branch = np.where(branch_start == total, -1, branch_start)
    group_t, branch_t = (torch.from_numpy(a).to(device, torch.int32) for a in (group, branch))

    def visible(_b: torch.Tensor, _h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        same = (branch_t[k] < 0) | (branch_t[q] == branch_t[k])
        return (q >= k) & (group_t[q] == group_t[k]) & same

    partial, full = _ordered(some & ~every, device), _ordered(every, device)
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=TILE, mask_mod=visible, seq_lengths=(total, total))


def _places(groups: Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every token: its group, where its group's prefix ends, where its branch starts (T: it is in a prefix)."""
    total = sum(map(sum, groups))
    group, prefix_end, branch_start = np.empty(total, np.int64), np.empty(total, np.int64), np.full(total, total)
    at = 0
    for g, (prefix, *branches) in enumerate(groups):
        whole = slice(at, at + prefix + sum(branches))
        group[whole], prefix_end[whole] = g, at + prefix
        at += prefix
        for length in branches:
            branch_start[at : at + length] = at
            at += length
    return group, prefix_end, branch_start


def _ordered(tiles: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tiles of each row are set, ``[1, 1, n]``, and which, the set ones first, ``[1, 1, n, n]``."""
    order = np.argsort(~tiles, axis=-1, kind="stable")
    both = (torch.from_numpy(a[None, None].astype(np.int32)) for a in (tiles.sum(-1), order))
    count, index = (t.to(device) for t in both)
    return count, index


def _fits_flex(query: torch.Tensor) -> bool:
    """Whether FlexAttention's kernels take these heads; the others go group by group as on CPU."""
    return query.shape[-1] >= 16 and query.dtype != torch.float64


class _Kernel(NamedTuple):
    """What one compiled kernel is for; ``grad``: whether a backward pass may follow."""

    heads: int
    kv_heads: int
    width: int
    scale: float
    dtype: torch.dtype
    grad: bool


@lru_cache(maxsize=32)
def _compiled_flex(kind: _Kernel) -> Callable[..., torch.Tensor]:
    """FlexAttention compiled for one kind of call; only the length of the row varies from call to call.

    Each has a code object of its own: the compiler makes symbolic what it has seen vary within one, its kernels cannot
    take a symbolic scale, and after eight variants it falls back to plain products. Its other kernel, for rows under
    128 tokens, is left out.
    """

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask) -> torch.Tensor:
        output = flex_attention(
            query,
            key,
            value,
            block_mask=mask,
            scale=kind.scale,
            enable_gqa=kind.heads != kind.kv_heads,
            kernel_options={"FORCE_USE_FLEX_ATTENTION": True},
        )
        return cast("torch.Tensor", output)

    name = f"attend_{abs(hash(kind))}"
    own = FunctionType(attend.__code__.replace(co_name=name), globals(), name, None, attend.__closure__)
    return torch.compile(own)


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, groups: Groups
) -> torch.Tensor:
    """The whole row at once on CUDA; ``[1, T, heads, d]``."""
    heads, width = query.shape[1], query.shape[3]
    scale = width**-0.5 if scaling is None else scaling
    kind = _Kernel(heads, key.shape[1], width, scale, query.dtype, torch.is_grad_enabled())
    return _compiled_flex(kind)(query, key, value, _block_mask(groups, query.device)).transpose(1, 2)


AttentionInterface.register(NAME, branching_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
