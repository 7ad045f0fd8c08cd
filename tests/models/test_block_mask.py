"""The CUDA branch of our attention, as far as it can be held to something on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from trueup.models import attention

CPU = torch.device("cpu")
GROUPS = {
    "one tile": ((3, 2, 4),),
    "exactly one tile": ((100, 14, 14),),
    "full tiles": ((400, 300, 200),),
    "a row without prefix, and one branch": ((0, 150), (200, 90)),
    "many": tuple((5 + 7 * i % 60, 1 + 11 * i % 50, 3 + 13 * i % 70, 40) for i in range(12)),
}


def sees(groups: attention.Groups) -> torch.Tensor:
    """Token by token, from the words: same group, not later, and the key is in the prefix or in the same branch."""
    names = [(g, b) for g, sizes in enumerate(groups) for b, length in enumerate(sizes) for _ in range(length)]
    return torch.tensor(
        [[k <= q and y[0] == x[0] and y[1] in (0, x[1]) for k, y in enumerate(names)] for q, x in enumerate(names)]
    )


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_the_block_mask_is_the_one_that_torch_makes_from_all_pairs(groups: attention.Groups) -> None:
    ours, total = attention._block_mask(groups, CPU), sum(map(sum, groups))
    visible = sees(groups)
    theirs = create_block_mask(lambda _b, _h, q, k: visible[q, k], None, None, total, total, device="cpu")
    assert ours.seq_lengths == theirs.seq_lengths == (total, total)
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    for side in ("kv", "full_kv", "q", "full_q"):
        for part in ("num_blocks", "indices"):
            one, other = getattr(ours, f"{side}_{part}"), getattr(theirs, f"{side}_{part}")
            assert one.dtype == other.dtype == torch.int32
            assert torch.equal(one, other), f"{side}_{part}"
    places = torch.arange(total)
    zero = torch.tensor(0)
    assert torch.equal(ours.mask_mod(zero, zero, places[:, None], places[None]), visible)


def test_full_tiles_are_told_apart_from_partial_ones() -> None:
    mask = attention._block_mask(GROUPS["full tiles"], CPU)
    assert int(mask.full_kv_num_blocks.sum()) > 5
    assert int(attention._block_mask(GROUPS["many"], CPU).full_kv_num_blocks.sum()) == 0


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 3, 64), (4, 2, 16), (2, 2, 24)])
def test_flex_attention_agrees_with_the_products_group_by_group(
    groups: attention.Groups, heads: int, kv_heads: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own uncompiled FlexAttention stands in for the kernel."""
    real = torch.compile  # which FlexAttention calls too, with options
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, **options) if options else f)
    attention._compiled_flex.cache_clear()
    total, rng = sum(map(sum, groups)), np.random.default_rng(0)
    q, k, v = (
        torch.from_numpy(rng.normal(size=(1, total, n, width)).astype(np.float32)).transpose(1, 2)
        for n in (heads, kv_heads, kv_heads)
    )
    with torch.no_grad():
        flex = attention._flex(q, k, v, 0.2, groups)
        products = attention._GroupAttention.apply(q, k, v, 0.2, groups)[None]
    attention._compiled_flex.cache_clear()
    assert flex.shape == (1, total, heads, width)
    torch.testing.assert_close(flex, products, rtol=1e-4, atol=1e-5)


def test_every_kind_of_call_is_compiled_apart() -> None:
    """What varies within one code object becomes symbolic, and FlexAttention's kernels refuse a symbolic scale."""
    kinds = [
        attention._Kernel(9, 3, 64, 0.125, torch.float32, True),
        attention._Kernel(4, 2, 16, 0.25, torch.float32, True),
        attention._Kernel(9, 3, 64, 0.125, torch.bfloat16, True),
        attention._Kernel(9, 3, 64, 0.125, torch.float32, False),
    ]
    codes = [attention._compiled_flex(kind).__wrapped__.__code__ for kind in kinds]
    assert len({code.co_name for code in codes}) == len(kinds)
    assert attention._compiled_flex(kinds[0]) is attention._compiled_flex(kinds[0])


@pytest.mark.parametrize(
    ("width", "dtype", "fits"),
    [(16, torch.float32, True), (64, torch.bfloat16, True), (8, torch.float32, False), (64, torch.float64, False)],
)
def test_heads_that_the_kernels_do_not_take_go_group_by_group(width: int, dtype: torch.dtype, fits: bool) -> None:
    assert attention._fits_flex(torch.zeros(1, 2, 3, width, dtype=dtype)) is fits
