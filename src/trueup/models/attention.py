"""Attention in which several completions share one prompt: each branch sees the prompt and itself.

Registered with transformers under the name ``trueup``. Without a layout (generation, other callers) it is plain SDPA, so
a model may keep the setting. On CPU every group is one small attention of its own, without padding; on CUDA the whole
row goes through FlexAttention with a block mask.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "trueup"

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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function given to transformers.

    Args:
        module: the attention layer.
        query: ``[1, heads, T, d]``; key, value: ``[1, kv_heads, T, d]``.
        attention_mask: used only when ``groups`` is None.
        dropout: must be 0 with groups.
        scaling: factor of the dot products; None means d ** -0.5.
        groups: lengths (prefix, branch, ...) of each group of the row, in order.
        **kwargs: handed on to SDPA when ``groups`` is None.

    Returns:
        ``[1, T, heads, d]`` and None.
    """
    if groups is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if query.is_cuda:
        return _flex(query, key, value, scaling, groups), None
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    return _by_group(query, key, value, scaling, groups), None


def _by_group(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, groups: Groups
) -> torch.Tensor:
    """One causal attention for prompt and first branch, one for each further branch; ``[1, T, heads, d]``."""
    sizes = [size for group in groups for size in (group[0] + group[1], *group[2:])]
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    outputs: list[torch.Tensor] = []
    for prefix, _, *others in groups:
        q, k, v = next(parts)
        outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
        k_prefix, v_prefix = k[:, :, :prefix], v[:, :, :prefix]
        for length in others:
            q, k, v = next(parts)
            mask = _branch_mask(prefix, length, q.dtype)
            k, v = torch.cat([k_prefix, k], 2), torch.cat([v_prefix, v], 2)
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
    return torch.cat(outputs, 2).transpose(1, 2)


@lru_cache(maxsize=256)
def _branch_mask(prefix: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask ``[length, prefix + length]``: the prompt is seen whole, the branch causally."""
    return torch.full((length, prefix + length), float("-inf"), dtype=dtype).triu(prefix + 1)


@lru_cache(maxsize=4)
def _block_mask(groups: Groups, device: torch.device) -> BlockMask:
    """Which token sees which: same group, earlier position in the row, and prefix or same branch."""
    group_of, branch_of = [], []
    for g, (prefix, *branches) in enumerate(groups):
        group_of += [g] * (prefix + sum(branches))
        branch_of += [0] * prefix + [b for b, length in enumerate(branches, 1) for _ in range(length)]
    group_t = torch.tensor(group_of, device=device)
    branch_t = torch.tensor(branch_of, device=device)

    def visible(_b: torch.Tensor, _h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        same = (branch_t[k] == 0) | (branch_t[q] == branch_t[k])
        return (q >= k) & (group_t[q] == group_t[k]) & same

    total = len(group_of)
    return create_block_mask(visible, None, None, total, total, device=str(device))


_compiled_flex = torch.compile(flex_attention, dynamic=True)


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, groups: Groups
) -> torch.Tensor:
    """The whole row at once on CUDA; ``[1, T, heads, d]``."""
    mask = _block_mask(groups, query.device)
    attend = _compiled_flex if query.is_cuda else flex_attention
    output = attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return output.transpose(1, 2)  # pyright: ignore[reportAttributeAccessIssue]


AttentionInterface.register(NAME, branching_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
