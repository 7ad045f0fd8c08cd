"""The reference policy: four ways to have one, and an identity that is printed, saved and checked.

``adapter-off``  the policy's own base weights, with the LoRA adapter switched off: no second copy.
``copy``         a frozen second model.
``precomputed``  its log-probabilities, computed once and kept on disk under what they depend on.
``none``         methods that need none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from trueup.errors import RunError
from trueup.models.layout import Branches
from trueup.models.policy import Policy


@dataclass(frozen=True, slots=True)
class ReferenceFigures:
    """Summed log-probabilities of each sequence under the reference, ``[S]``; ``common`` as in SequenceFigures."""

    logprob: torch.Tensor
    common: torch.Tensor | None


class Reference(Protocol):
    """Gives the reference's log-probabilities of a micro-batch."""

    identity: str

    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        """Summed log-probabilities, in the order of the groups' branches."""
        ...


class TokenReference(Protocol):
    """A reference that can also tell every token's log-probability (policy gradients)."""

    identity: str

    def tokens(self, groups: Sequence[Branches]) -> torch.Tensor:
        """``[N]``, sequence by sequence in the order of the groups' branches."""
        ...


class FrozenCopy:
    """A second model that never changes."""

    def __init__(self, policy: Policy, identity: str) -> None:
        self.policy, self.identity = policy, f"copy of {identity}"
        policy.model.requires_grad_(False)
        policy.model.eval()

    @torch.no_grad()
    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        """Summed log-probabilities under the copy."""
        figures = self.policy.sequences(self.policy.layout(groups), common=common)
        return ReferenceFigures(figures.logprob, figures.common)

    @torch.no_grad()
    def tokens(self, groups: Sequence[Branches]) -> torch.Tensor:
        """Log-probability of every trained token under the copy, ``[N]``."""
        return self.policy.tokens(self.policy.layout(groups)).logprob


class AdapterOff:
    """The policy's base, with its adapter switched off."""

    def __init__(self, policy: Policy, identity: str) -> None:
        self.policy, self.identity = policy, f"adapter switched off on {identity}"

    @torch.no_grad()
    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        """Summed log-probabilities under the base weights."""
        with self.policy.adapter_off():
            figures = self.policy.sequences(self.policy.layout(groups), common=common)
        return ReferenceFigures(figures.logprob, figures.common)

    @torch.no_grad()
    def tokens(self, groups: Sequence[Branches]) -> torch.Tensor:
        """Log-probability of every trained token under the base weights, ``[N]``."""
        with self.policy.adapter_off():
            return self.policy.tokens(self.policy.layout(groups)).logprob


class Precomputed:
    """Log-probabilities read from a cache; a row that is missing is an error, not a guess."""

    def __init__(self, cache: ReferenceCache, identity: str, device: torch.device) -> None:
        self.cache, self.device = cache, device
        self.identity = f"precomputed from {identity}"

    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        """Summed log-probabilities as they were computed."""
        values = [self.cache.values[group_key(g)] for g in groups]
        logprob = torch.tensor([x for v in values for x in v["logprob"]], device=self.device)
        if not common:
            return ReferenceFigures(logprob, None)
        return ReferenceFigures(logprob, torch.tensor([x for v in values for x in v["common"]], device=self.device))


def group_key(group: Branches) -> str:
    """Content hash of a group's tokens and masks."""
    digest = hashlib.sha256()
    for array in (group.prefix, *group.branches, *group.masks):
        digest.update(np.ascontiguousarray(array).astype(np.int32).tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:32]


class ReferenceCache:
    """Reference log-probabilities on disk: one JSON line a group, in a file named after everything they depend on.

    Args:
        folder: where caches are kept.
        key: what the numbers depend on besides the tokens: weights, precision, library versions. (Tokenizer, template
            and truncation show in the tokens, whose hash names the row.)

    Attributes:
        values: group key -> ``{"logprob": [...], "common": [...]}``.
        torn: True if the last line was cut by a crash and was left out.
    """

    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]
        self.path = folder / f"{name}.jsonl"
        self.values: dict[str, dict[str, list[float]]] = {}
        self.torn = False
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        self.torn = end != len(whole)
        for number, line in enumerate(whole[:end].splitlines(), 1):
            try:
                record = json.loads(line)
                self.values[record["row"]] = {"logprob": record["logprob"], "common": record["common"]}
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{self.path}:{number}: damaged reference cache; delete the file") from None
        if self.torn:
            with self.path.open("r+b") as file:
                file.truncate(end)

    def add(self, groups: Sequence[Branches], figures: ReferenceFigures) -> None:
        """Appends the figures of some pairs or completions, to memory and disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        at = 0
        with self.path.open("a", encoding="utf-8") as file:
            for group in groups:
                end = at + len(group.branches)
                value = {
                    "logprob": figures.logprob[at:end].tolist(),
                    "common": [] if figures.common is None else figures.common[at:end].tolist(),
                }
                self.values[group_key(group)] = value
                file.write(json.dumps({"row": group_key(group), **value}) + "\n")
                at = end

    def missing(self, groups: Sequence[Branches]) -> list[Branches]:
        """The groups that are not there yet."""
        return [g for g in groups if group_key(g) not in self.values]


def fill_cache(
    cache: ReferenceCache, reference: Reference, micro_batches: Sequence[Sequence[Branches]], *, sample: int = 4
) -> int:
    """Computes what is missing, and recomputes a few rows that were there.

    Returns:
        How many groups were computed.

    Raises:
        RunError: a recomputed row differs from the cache by more than 0.01 nats a token.
    """
    known = [g for groups in micro_batches for g in groups if group_key(g) in cache.values][:sample]
    for group in known:
        fresh = reference.sequences([group]).logprob.cpu()
        kept = torch.tensor(cache.values[group_key(group)]["logprob"])
        lengths = torch.tensor([float(m.sum()) for m in group.masks])
        if not bool(((fresh - kept).abs() <= 1e-2 * lengths.clamp(min=1)).all()):
            raise RunError(f"{cache.path}: cached reference log-probabilities do not match the model; delete the file")
    count = 0
    for groups in micro_batches:
        if todo := cache.missing(groups):
            pairs = all(len(g.branches) == 2 for g in todo)
            cache.add(todo, reference.sequences(todo, common=pairs))
            count += len(todo)
    return count
