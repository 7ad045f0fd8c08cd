"""The training loop: a generator that takes one optimizer step and yields.

It does not log, save, evaluate or stop early; whoever iterates does. It owns three rules: global denominators (a step
is the same however it is cut into micro-batches), out-of-memory halves the micro-batch and repeats the step, and a
non-finite loss or gradient changes no weight.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from trueup.config import TrainConfig
from trueup.data.order import micro_batches
from trueup.errors import ResourceError, TrainingError
from trueup.train import ranks
from trueup.train.answers import repeats
from trueup.train.optim import AnyOptimizer, learning_rate
from trueup.types import Step

log = logging.getLogger(__name__)

RowT = TypeVar("RowT")
RowIn = TypeVar("RowIn", contravariant=True)
Sums = Mapping[str, tuple[float, float]]  # name -> (sum, count); the metric is sum / count over the step

NONFINITE_LIMIT = 3


@dataclass(frozen=True, slots=True)
class Share:
    """What one micro-batch contributes.

    Attributes:
        loss: scalar with gradient; the shares of a step add up to its loss.
        sums: metrics as sums and counts, so that they too add up.
        peaks: metrics of which the largest counts.
    """

    loss: torch.Tensor
    sums: Sums
    peaks: Mapping[str, float] = field(default_factory=dict[str, float])


class Objective(Protocol[RowIn]):
    """What a method computes from rows of type ``RowIn``."""

    def length(self, row: RowIn) -> int:
        """Tokens that the row costs in memory."""
        ...

    def identity(self, row: RowIn) -> str:
        """The row's id, for reports."""
        ...

    def begin(self, step: int, batch: Sequence[RowIn], parts: Sequence[Sequence[int]]) -> Any:
        """What must be known of the whole global batch before its first gradient (denominators, KTO's KL)."""
        ...

    def share(self, batch: Sequence[RowIn], part: Sequence[int], begun: Any) -> Share:
        """The contribution of the rows at ``part`` of the batch."""
        ...


@dataclass(slots=True)
class LoopState:
    """What the loop must remember across an interruption, besides weights and moments.

    Attributes:
        step: optimizer steps done.
        nonfinite: skipped steps in a row.
        cap: rows a micro-batch may hold after an out-of-memory; None: no cap yet.
        lr_scale: what the scheduled learning rate is multiplied by, since an alarm lowered it.
    """

    step: int = 0
    nonfinite: int = 0
    cap: int | None = None
    lr_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan(Generic[RowT]):
    """Which rows each step sees.

    Attributes:
        total: number of optimizer steps.
        batch: step (from 1) -> the rows of its global batch; a pure function.
        peak_lr: peak learning rate.
    """

    total: int
    batch: Callable[[int], Sequence[RowT]]
    peak_lr: float


@dataclass(slots=True)
class _Accumulated:
    loss: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    peaks: dict[str, float] = field(default_factory=dict[str, float])
    tokens: int = 0
    micro: int = 0

    def add(self, share: Share) -> None:
        self.loss += float(share.loss.detach())
        self.micro += 1
        for name, (total, count) in share.sums.items():
            self.sums[name][0] += total
            self.sums[name][1] += count
        for name, value in share.peaks.items():
            self.peaks[name] = max(value, self.peaks.get(name, value))

    def over_ranks(self) -> _Accumulated:
        """The same, summed over all processes."""
        if ranks.world() == 1:
            return self
        names, peaks = sorted(self.sums), sorted(self.peaks)
        numbers = [self.loss, float(self.micro), *(x for n in names for x in self.sums[n])]
        wide = {"dtype": torch.float64, "device": ranks.device()}
        self.loss, micro, *rest = ranks.add(torch.tensor(numbers, **wide)).tolist()
        self.micro = int(micro)
        for k, name in enumerate(names):
            self.sums[name] = [rest[2 * k], rest[2 * k + 1]]
        highest = ranks.highest(torch.tensor([self.peaks[n] for n in peaks], **wide)).tolist() if peaks else []
        self.peaks = dict(zip(peaks, highest, strict=True))
        return self

    def metrics(self) -> dict[str, float]:
        return {**{name: total / count for name, (total, count) in self.sums.items() if count}, **self.peaks}


def optimise(
    objective: Objective[RowT],
    optimizer: AnyOptimizer,
    plan: Plan[RowT],
    config: TrainConfig,
    state: LoopState,
    content: Callable[[RowT], Hashable] | None = None,
) -> Iterator[Step]:
    """Yields one :class:`Step` after each optimizer step, from ``state.step`` to ``plan.total``.

    ``content`` tells what makes two rows the same, for the log.

    Raises:
        TrainingError: the third non-finite step in a row, or a loss without any gradient.
        ResourceError: out of memory with a single row.
    """
    while state.step < plan.total:
        index = state.step + 1
        begun_at = time.perf_counter()
        batch = plan.batch(index)
        rate = state.lr_scale * learning_rate(config, plan.peak_lr, index, plan.total)
        taken = take_step(objective, optimizer, batch, config, state, index, rate)
        state.step = index
        ids = tuple(objective.identity(r) for r in batch)
        repeated = repeats(ids, [content(r) for r in batch]) if content is not None else {}
        seconds = time.perf_counter() - begun_at
        yield Step(
            index=index,
            metrics={**taken.metrics, **repeated, "grad_norm": taken.norm, "lr": rate, "tokens": taken.tokens},
            rows=ids,
            timings={"seconds": seconds, "tokens_per_second": taken.tokens / seconds, "micro_batches": taken.micro},
            skipped=taken.skipped,
        )
        stop_if_lost(state, index, ids)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one optimizer step did.

    Attributes:
        metrics: ``loss`` and the objective's own.
        norm: of the gradient before clipping; nan if the loss was not finite.
        skipped: not finite: no weight was changed.
        tokens: computed in the step.
        micro: micro-batches.
    """

    metrics: Mapping[str, float]
    norm: float
    skipped: bool
    tokens: int
    micro: int


def take_step(
    objective: Objective[RowT],
    optimizer: AnyOptimizer,
    batch: Sequence[RowT],
    config: TrainConfig,
    state: LoopState,
    index: int,
    rate: float,
) -> Taken:
    """One optimizer step on one global batch; ``state`` remembers caps and non-finite steps.

    Raises:
        ResourceError: out of memory with a single row.
    """
    done = _accumulate(objective, optimizer, batch, config, state, index)
    norm = optimizer.step(rate) if math.isfinite(done.loss) else _discard(optimizer)
    skipped = not (math.isfinite(done.loss) and math.isfinite(norm))
    state.nonfinite = state.nonfinite + 1 if skipped else 0
    return Taken({"loss": done.loss, **done.metrics()}, norm, skipped, done.tokens, done.micro)


def stop_if_lost(state: LoopState, index: int, rows: Sequence[str]) -> None:
    """Ends the run at the third non-finite step in a row.

    Raises:
        TrainingError: with the step and its rows.
    """
    if state.nonfinite >= NONFINITE_LIMIT:
        raise TrainingError(
            f"step {index}: the {NONFINITE_LIMIT}rd non-finite loss or gradient in a row; no weight was changed by "
            f"them. Rows: {', '.join(rows[:8])}. Lower train.lr or look at the rows"
        )


def _discard(optimizer: AnyOptimizer) -> float:
    optimizer.zero()
    return math.nan


def _accumulate(
    objective: Objective[RowT],
    optimizer: AnyOptimizer,
    batch: Sequence[RowT],
    config: TrainConfig,
    state: LoopState,
    index: int,
) -> _Accumulated:
    """Gradients of the whole global batch; after an out-of-memory, again with half the rows at a time."""
    ranks.check_batch(len(batch))
    while True:
        parts = split(objective, batch, config, state.cap)
        done = _try(objective, batch, ranks.mine(parts), index)
        if not ranks.any_of(done is None) and done is not None:
            ranks.add_gradients(optimizer.every_master())
            return done.over_ranks()
        optimizer.zero()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(len(p) for p in parts)
        if largest == 1:
            raise ResourceError(
                f"step {index}: out of memory with a single row; lower --data.max_length, use --lora.rank 16, "
                "or --train.gradient_checkpointing"
            )
        state.cap = largest // 2
        log.warning("step %d: out of memory; repeating it with at most %d rows at a time", index, state.cap)


def split(objective: Objective[RowT], batch: Sequence[RowT], config: TrainConfig, cap: int | None) -> list[list[int]]:
    """Cuts a global batch into micro-batches: by rows if told so, else by tokens."""
    lengths = [objective.length(r) for r in batch]
    share = len(batch) // ranks.world() if ranks.world() > 1 else None  # at least one part a process
    limits = [x for x in (config.micro_batch, cap, share) if x is not None]
    return micro_batches(lengths, min(limits) if limits else None, None if config.micro_batch else config.micro_tokens)


def _try(
    objective: Objective[RowT], batch: Sequence[RowT], parts: Sequence[Sequence[int]], index: int
) -> _Accumulated | None:
    """None on out-of-memory: the exception must be gone before the retry, because it holds the graph alive."""
    done = _Accumulated(tokens=sum(objective.length(r) for r in batch))
    try:
        begun = objective.begin(index, batch, parts)
        for part in parts:
            share = objective.share(batch, part, begun)
            share.loss.backward()
            done.add(share)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            return None
        raise
    return done
