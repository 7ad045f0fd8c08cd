"""How a micro-batch lies in memory: which tokens are computed once, and which hidden state predicts which token.

Two layouts give the same numbers:

``shared``  every group is a prompt followed by its branches (chosen, rejected), all groups one after the other in one
            row without padding; attention lets a branch see its prompt and itself only.
``rows``    every sequence is a row of its own, padded on the right; for models whose attention cannot branch.

Legend: ``R`` rows, ``T`` tokens a row, ``S`` sequences (completions), ``N`` trained tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Branches:
    """One group: a shared prefix and the completions that follow it, as token ids and masks.

    Attributes:
        prefix: ids computed once, ``[P]``; may be empty when there is one branch.
        branches: ids after the prefix, one array a sequence.
        masks: True where the token is a training target, same shapes as ``branches``.
    """

    prefix: np.ndarray
    branches: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A micro-batch ready for the model.

    Attributes:
        ids, positions: ``[R, T]``.
        padding: True where a token is real, ``[R, T]``; None if all are.
        groups: lengths (prefix, branch, branch, ...) of each group of a shared row; None in the rows layout.
        source: flat index into ``R * T`` of the hidden state that predicts each trained token, ``[N]``.
        target: the trained tokens, ``[N]``.
        sequence: which sequence a trained token belongs to, ``[N]``.
        ordinal: its index among the trained tokens of its sequence, ``[N]``.
        last: flat index of the last token of each sequence, ``[S]``.
        lengths: trained tokens a sequence, ``[S]``.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    padding: torch.Tensor | None
    groups: tuple[tuple[int, ...], ...] | None
    source: torch.Tensor
    target: torch.Tensor
    sequence: torch.Tensor
    ordinal: torch.Tensor
    last: torch.Tensor
    lengths: torch.Tensor

    @property
    def tokens(self) -> int:
        """Number of token positions the model computes, padding included."""
        return self.ids.numel()

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        tensors = {name: v for name in self.__slots__ if isinstance(v := getattr(self, name), torch.Tensor)}
        return replace(self, **{name: v.to(device, non_blocking=True) for name, v in tensors.items()})


class _Targets:
    """Collects, sequence by sequence, where the trained tokens are and what predicts them."""

    def __init__(self) -> None:
        self.source: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.last: list[int] = []

    def add(self, places: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> None:
        """Adds a sequence whose token ``t`` lies at flat index ``places[t]``; its first token cannot be a target."""
        if mask[0]:
            raise ValueError("the first token of a sequence has nothing before it and cannot be a training target")
        trained = np.flatnonzero(mask)
        self.source.append(places[trained - 1])
        self.target.append(ids[trained])
        self.last.append(int(places[-1]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The collected indices as the fields of a layout."""
        counts = [len(s) for s in self.source]
        return {
            "source": torch.from_numpy(np.concatenate(self.source).astype(np.int64)),
            "target": torch.from_numpy(np.concatenate(self.target).astype(np.int64)),
            "sequence": torch.repeat_interleave(torch.tensor(counts)),
            "ordinal": torch.from_numpy(np.concatenate([np.arange(c) for c in counts])),
            "last": torch.tensor(self.last),
            "lengths": torch.tensor(counts),
        }


def shared_layout(groups: Sequence[Branches]) -> Layout:
    """All groups in one row, each prompt once, no padding. Sequences are numbered group by group."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    sizes: list[tuple[int, ...]] = []
    targets = _Targets()
    start = 0
    for group in groups:
        prefix = len(group.prefix)
        ids.append(group.prefix)
        positions.append(np.arange(prefix))
        places = np.arange(start, start + prefix)
        start += prefix
        for branch, mask in zip(group.branches, group.masks, strict=True):
            ids.append(branch)
            positions.append(np.arange(prefix, prefix + len(branch)))
            own = np.arange(start, start + len(branch))
            whole_mask = np.concatenate([np.zeros(prefix, dtype=bool), mask])
            targets.add(np.concatenate([places, own]), np.concatenate([group.prefix, branch]), whole_mask)
            start += len(branch)
        sizes.append((prefix, *(len(b) for b in group.branches)))
    return Layout(
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate(positions).astype(np.int64))[None],
        padding=None,
        groups=tuple(sizes),
        **targets.tensors(),
    )


def rows_layout(groups: Sequence[Branches], pad_id: int, *, left: bool = False, extra: int = 0) -> Layout:
    """Every sequence in a padded row of its own, in the same order as :func:`shared_layout` numbers them.

    Args:
        groups: the micro-batch.
        pad_id: any id; padding is told by position, never by id.
        left: pad on the left (models trained so).
        extra: further padding columns, to show that they change nothing.
    """
    rows = [
        (np.concatenate([g.prefix, b]), np.concatenate([np.zeros(len(g.prefix), dtype=bool), m]))
        for g in groups
        for b, m in zip(g.branches, g.masks, strict=True)
    ]
    width = max(len(ids) for ids, _ in rows) + extra
    ids_rt = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    padding = np.zeros((len(rows), width), dtype=bool)
    targets = _Targets()
    for r, (ids, mask) in enumerate(rows):
        first = width - len(ids) if left else 0
        columns = slice(first, first + len(ids))
        ids_rt[r, columns] = ids
        positions[r, columns] = np.arange(len(ids))
        padding[r, columns] = True
        targets.add(np.arange(r * width + first, r * width + first + len(ids)), ids, mask)
    return Layout(
        ids=torch.from_numpy(ids_rt),
        positions=torch.from_numpy(positions),
        padding=torch.from_numpy(padding),
        groups=None,
        **targets.tensors(),
    )
