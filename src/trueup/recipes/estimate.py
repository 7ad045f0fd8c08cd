"""Memory, time and disk of a run, from the model's config alone, before anything is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from trueup.config import RunConfig
from trueup.recipes.memory import Cast, Load, Tokens, cast_of, load_of, phases_of, tokens_of
from trueup.recipes.rehearse import Size, rehearse_training, size_of
from trueup.train.methods import Method

GIB = 2**30
USEFUL = 0.6  # share of the plain product's rate that a training pass reaches (docs/benchmarks.md)
USEFUL_DECODING = 0.25  # the same for one token an answer at a time


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by part, and seconds.

    Attributes:
        memory: part -> bytes; the parts add up to the peak.
        steps: optimizer steps (batches of answers for methods that sample).
        seconds: of training, at the matrix-product rate measured just now.
        flops_rate: that rate.
        disk: part -> bytes of the run folder at its fullest.
        notes: what a person should know about these figures.
    """

    memory: dict[str, float]
    steps: int
    seconds: float
    flops_rate: float
    disk: dict[str, float] = field(default_factory=dict[str, float])
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Bytes of memory in all."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "total": self.total, "disk_total": sum(self.disk.values())}

    def lines(self) -> list[str]:
        """For a person."""
        disk = sum(self.disk.values())
        return [
            f"memory: about {self.total / GIB:.2f} GiB ({_parts(self.memory)})",
            f"time: about {duration(self.seconds)} for {self.steps} steps "
            f"(at {self.flops_rate / 1e9:.0f} GFLOP/s, measured now; loading and evaluation not counted)",
            f"disk: about {disk / GIB:.2f} GiB ({_parts(self.disk)})",
            *(f"note: {n}" for n in self.notes),
        ]


def estimate(config: RunConfig, method: Method, rows: Sequence[Tokens]) -> Estimate:
    """Estimates a run on rendered rows.

    Memory is the largest of the run's phases (loading, self-check, sampling, scoring, training), each the weights that
    stand beside it and what its passes take, rehearsed by :mod:`trueup.recipes.rehearse`.

    Raises:
        ConfigError: settings that contradict each other.
        ModelError: a model whose config cannot be found or used.
    """
    cast = cast_of(config, method)
    load = load_of(cast, rows)
    phases = phases_of(cast, load)
    name = max(phases, key=lambda n: sum(phases[n].values()))
    rate = matmul_rate(cast.machine.dtype)
    return Estimate(
        memory={k: v for k, v in phases[name].items() if v},
        steps=load.steps,
        seconds=_seconds(cast, load, rate),
        flops_rate=rate,
        disk=_disk(config, cast.size, cast.value_size),
        notes=tuple(_notes(cast, name)),
    )


# ── time and disk ──


def _seconds(cast: Cast, load: Load, rate: float) -> float:
    """Of training passes, of the reference's and judges', and of drawing answers."""
    one = load.groups[:1]
    tokens = tokens_of(cast, one)
    training = rehearse_training(
        cast.policy, one, reference=cast.reference in ("copy", "adapter-off") and not load.prompts, twin=cast.value,
        scores=cast.method.family == "reward",
    ).flops / tokens * load.trained  # fmt: skip
    seconds = training / (USEFUL * rate)
    if not load.prompts:
        return seconds
    answers = len(load.prompts) * cast.config.sample.n * load.rounds
    length = float(np.mean([len(p) for p in load.prompts])) + cast.config.sample.max_new_tokens
    weights = cast.size.base + sum(size_of(j).base for j in cast.judges)
    looks = 2.0 * (weights + (cast.size.base if cast.reference != "none" else 0)) * answers * length
    drawn = 2.0 * cast.size.base * answers * cast.config.sample.max_new_tokens
    return seconds + looks / (USEFUL * rate) + drawn / (USEFUL_DECODING * rate)


def matmul_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """FLOP/s of a plain square product here and now: the best of a few."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def _disk(config: RunConfig, size: Size, value: Size) -> dict[str, float]:
    """Checkpoints (masters and AdamW's moments in fp32), one more while it is being written, and the result."""
    one = (size.trained + value.trained) * 12.0
    kept = config.save.keep if config.save.every or config.eval.every else 1
    best = 1 if config.eval.every else 0
    model = 4.0 * (size.base if config.lora is None else size.trained)
    return {f"checkpoints ({kept + best})": one * (kept + best), "one being written": one, "model": model}


# ── words ──


def _notes(cast: Cast, phase: str) -> Iterator[str]:
    if phase != "training":
        yield f"the most memory is needed by {phase}, not by the training steps"
    if cast.method.family == "policy" and cast.config.lora is not None:
        served = ["the policy"]
        if cast.reference == "adapter-off":
            served.append("the reference (the adapter switched off)")
        if cast.shared_value:
            served.append("the value model (a head on the policy's states)")
        if len(served) > 1:
            yield f"one set of base weights serves {', '.join(served[:-1])} and {served[-1]}"
    if cast.judges:
        yield f"{len(cast.judges)} reward model{'s' * (len(cast.judges) > 1)} loaded besides, in fp32"
    if cast.method.family in ("policy", "online"):
        yield "every answer is taken to reach sample.max_new_tokens; shorter answers need less of all"


def _parts(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in sizes.items() if size >= 0.005 * GIB)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
