"""A run while it happens: iterates the training loop and does everything the loop does not.

Logging, evaluation, checkpoints, best checkpoint, early stopping, signals. What must survive an interruption is in
:class:`Progress` and goes into every checkpoint; everything else is computed again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from trueup.config import RunConfig
from trueup.errors import RunError
from trueup.runs.checkpoint import Checkpoint, prune, save_checkpoint
from trueup.runs.folder import RunFolder
from trueup.runs.metrics import JsonlWriter
from trueup.runs.signals import Stop
from trueup.train import ranks
from trueup.train.evaluate import Evaluable, Figure, row_figures, summarise
from trueup.train.loop import LoopState, Plan, optimise
from trueup.train.optim import AnyOptimizer, Optimizer
from trueup.types import Step

log = logging.getLogger(__name__)

Listener = Callable[[Step], None]


@dataclass(slots=True)
class Progress:
    """What a run remembers besides weights and moments.

    Attributes:
        loop: the loop's own memory.
        best: best value of the watched metric so far; None before the first evaluation.
        best_step: where it was.
        stale: evaluations since then.
        stopped_early: True once patience ran out.
    """

    loop: LoopState = field(default_factory=LoopState)
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    stopped_early: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "loop": LoopState(**value["loop"])})


class Work(Protocol):
    """What a session drives, whatever the method.

    Attributes:
        config: the resolved settings.
        optimizer: of everything that is trained.
        metric: name of the watched metric; higher is better if ``maximise``.
        identity: reference, objective and data, as checkpoints remember them; a resume that differs is refused.
    """

    @property
    def config(self) -> RunConfig: ...  # noqa: D102
    @property
    def optimizer(self) -> AnyOptimizer: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102
    @property
    def maximise(self) -> bool: ...  # noqa: D102
    @property
    def identity(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def total(self) -> int:
        """Number of steps."""
        ...

    def steps(self, state: LoopState) -> Iterator[Step]:
        """The training loop, from where ``state`` stands."""
        ...

    def evaluate(self) -> dict[str, Figure]:
        """Figures over the held-out rows, with intervals; empty if there are none."""
        ...

    def milestone(self, step: int) -> bool:
        """Whether a checkpoint is due after the step whatever ``save.every`` says."""
        ...

    def memory(self) -> dict[str, Any]:
        """What the method remembers besides weights and moments, as plain values."""
        ...

    def remember(self, memory: Mapping[str, Any]) -> None:
        """The inverse of :meth:`memory`."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Further tensors that a checkpoint must hold."""
        ...

    def take_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """Training on rows of a file.

    Attributes:
        config: the resolved settings.
        objective, optimizer, plan: what is trained, by what, on what.
        held_out: rows for evaluation; may be empty.
        clusters: the prompt of each held-out row.
        metric: name of the watched metric; higher is better if ``maximise``.
        identity: see :class:`Work`.
    """

    config: RunConfig
    objective: Evaluable[Any]
    optimizer: Optimizer
    plan: Plan[Any]
    held_out: Sequence[Any]
    clusters: Sequence[str]
    metric: str
    maximise: bool
    identity: Mapping[str, Any]

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.plan.total

    def steps(self, state: LoopState) -> Iterator[Step]:
        """The training loop."""
        return optimise(self.objective, self.optimizer, self.plan, self.config.train, state)

    def milestone(self, step: int) -> bool:
        """Never."""
        del step
        return False

    def memory(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Nothing."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def take_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """None."""

    def evaluate(self) -> dict[str, Figure]:
        """Figures over the held-out rows, with intervals; empty if there are none."""
        if not self.held_out:
            return {}
        model = self.optimizer_model()
        training = model.training
        model.eval()
        arrays = row_figures(self.objective, self.held_out, self.config.train)
        model.train(training)
        return summarise(arrays, self.clusters, self.config.train.seed)

    def optimizer_model(self) -> torch.nn.Module:
        """The model in training."""
        return self.objective.policy.model  # type: ignore[attr-defined]  # every objective has a policy


class Session:
    """Drives a job inside a run folder, from where its progress stands."""

    def __init__(self, folder: RunFolder, job: Work, progress: Progress, listeners: Sequence[Listener] = ()) -> None:
        self.folder, self.job, self.progress, self.listeners = folder, job, progress, listeners
        self.metrics = JsonlWriter(folder.metrics)
        self.timings = JsonlWriter(folder.timings)
        self.stopped_by: int | None = None

    def run(self, stop: Stop) -> bool:
        """Trains to the end, to early stopping, or to a signal; True if it came to an end of its own."""
        job, progress = self.job, self.progress
        steps = job.steps(progress.loop)
        while not progress.stopped_early and progress.loop.step < job.total:
            step = next(steps)
            self._after(step)
            asked = ranks.any_of(stop.requested)
            ranks.any_of(progress.stopped_early)
            if asked and progress.loop.step < job.total and not progress.stopped_early:
                self.save()
                return False
        self.save()
        return True

    def _after(self, step: Step) -> None:
        """Evaluates and saves if due, then writes the step's line."""
        every = self.job.config.eval.every
        due = every > 0 and (step.index % every == 0 or step.index == self.job.total)
        figures = self.job.evaluate() if due else {}
        line: dict[str, Any] = {"step": step.index, **step.metrics}
        if step.skipped:
            line |= {"skipped": True, "rows": list(step.rows)}
        for name, figure in figures.items():
            line |= {f"eval/{name}": figure.mean, f"eval/{name}/low": figure.low, f"eval/{name}/high": figure.high}
        self.metrics.append(line)
        self.timings.append({"step": step.index, **step.timings})
        if step.samples:
            with JsonlWriter(self.folder.samples) as samples:
                for sample in step.samples:
                    samples.append({"step": step.index, **sample})
        for listener in self.listeners:
            listener(Step(step.index, {k: v for k, v in line.items() if isinstance(v, float | int)}, step.rows,
                          step.timings, step.skipped))  # fmt: skip
        if figures:
            self._watch(figures, step.index)
        save_every = self.job.config.save.every
        due = (save_every and step.index % save_every == 0) or self.job.milestone(step.index)
        if due or (figures and self.progress.best_step == step.index):
            self.save()

    def _watch(self, figures: Mapping[str, Figure], step: int) -> None:
        """Best so far, and early stopping."""
        progress, job = self.progress, self.job
        value = figures[job.metric].mean
        first = progress.best is None
        better = first or (value > progress.best if job.maximise else value < progress.best)  # type: ignore[operator]
        if better and math.isfinite(value):
            progress.best, progress.best_step, progress.stale = value, step, 0
            return
        progress.stale += 1
        if 0 < job.config.eval.patience <= progress.stale:
            progress.stopped_early = True
            log.warning("step %d: %s has not improved for %d evaluations; stopping", step, job.metric, progress.stale)

    def save(self) -> None:
        """Writes a checkpoint that holds everything, and prunes old ones."""
        step = self.progress.loop.step
        self.metrics.fsync()
        self.timings.fsync()
        tensors = {
            "weights": self.job.optimizer.weights(),
            "optimizer": self.job.optimizer.moments(),
            "rng": _rng_state(),
        }
        if more := self.job.tensors():
            tensors["method"] = more
        meta = {
            "progress": self.progress.to_json(),
            "metrics_offset": self.metrics.offset(),
            "timings_offset": self.timings.offset(),
            "samples_offset": self.folder.samples.stat().st_size if self.folder.samples.exists() else 0,
            "identity": dict(self.job.identity),
            "memory": self.job.memory(),
        }
        save_checkpoint(self.folder.checkpoints, step, tensors, meta)
        prune(self.folder.checkpoints, self.job.config.save.keep, {self.progress.best_step})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes everything back from a checkpoint and cuts the logs to where it was taken.

        Raises:
            RunError: the checkpoint belongs to another objective, reference or data set.
        """
        for name, value in self.job.identity.items():
            kept = checkpoint.meta["identity"].get(name)
            if kept != value:
                raise RunError(f"{self.folder.path}: cannot resume: {name} was {kept!r} and is now {value!r}")
        self.progress = Progress.from_json(checkpoint.meta["progress"])
        self.job.take_tensors(checkpoint.tensors.get("method", {}))
        self.job.remember(checkpoint.meta.get("memory", {}))
        self.job.optimizer.load(checkpoint.tensors["weights"], checkpoint.tensors["optimizer"])
        _set_rng_state(checkpoint.tensors["rng"])
        self.metrics.truncate_to(checkpoint.meta["metrics_offset"])
        self.timings.truncate_to(checkpoint.meta["timings_offset"])
        with JsonlWriter(self.folder.samples) as samples:
            samples.truncate_to(checkpoint.meta["samples_offset"])

    def close(self) -> None:
        """Closes the line files."""
        self.metrics.close()
        self.timings.close()


def follow(job: Work, progress: Progress, checkpoint: Checkpoint | None, stop: Stop) -> None:
    """What every process but the first does: the same steps, and nothing else."""
    if checkpoint is not None:
        progress.loop = Progress.from_json(checkpoint.meta["progress"]).loop
        job.take_tensors(checkpoint.tensors.get("method", {}))
        job.remember(checkpoint.meta.get("memory", {}))
        job.optimizer.load(checkpoint.tensors["weights"], checkpoint.tensors["optimizer"])
    steps = job.steps(progress.loop)
    while progress.loop.step < job.total:
        next(steps)
        asked = ranks.any_of(stop.requested)
        early = ranks.any_of(False)
        if (asked and progress.loop.step < job.total) or early:
            return


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def _set_rng_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].to(torch.uint8))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state[f"cuda{i}"] for i in range(torch.cuda.device_count())])
