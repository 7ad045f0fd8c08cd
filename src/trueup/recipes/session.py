"""A run while it happens: iterates the training loop and does everything the loop does not.

Logging, evaluation, checkpoints, best checkpoint, early stopping, monitors, signals. What must survive an interruption
is in :class:`Progress` and goes into every checkpoint; everything else is computed again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trueup.errors import RunError, TrainingError
from trueup.recipes.guard import KEPT_HEALTHY, Decision, Guard
from trueup.recipes.work import Work
from trueup.runs.checkpoint import Checkpoint, discard, load_checkpoint, prune, save_checkpoint, step_folder
from trueup.runs.folder import RunFolder
from trueup.runs.metrics import JsonlWriter, cut_lines, read_jsonl
from trueup.runs.signals import Stop
from trueup.train import ranks
from trueup.train.evaluate import Figure
from trueup.train.loop import LoopState
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
        actions: times that an alarm changed the run.
        kl_scale: what those changes multiplied the KL coefficient by.
        healthy: steps of the checkpoints that a rollback may go to.
    """

    loop: LoopState = field(default_factory=LoopState)
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    stopped_early: bool = False
    actions: int = 0
    kl_scale: float = 1.0
    healthy: list[int] = field(default_factory=list[int])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "loop": LoopState(**value["loop"])})


class Session:
    """Drives a job inside a run folder, from where its progress stands.

    Args:
        folder: of the run.
        job: what is trained.
        progress: where it stands.
        listeners: told of every step.
        tell: told of every alarm, as text.
    """

    def __init__(
        self,
        folder: RunFolder,
        job: Work,
        progress: Progress,
        listeners: Sequence[Listener] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.job, self.progress, self.listeners = folder, job, progress, listeners
        self.metrics = JsonlWriter(folder.metrics)
        self.timings = JsonlWriter(folder.timings)
        self.guard = Guard(folder, job.config, job.total, str(job.identity["precision"]), tell)

    def run(self, stop: Stop) -> bool:
        """Trains to the end, to early stopping, or to a signal; True if it came to an end of its own.

        Raises:
            TrainingError: an alarm stopped the run.
        """
        job = self.job
        if job.config.on_alarm == "rollback" and self.progress.loop.step == 0:
            self.save(healthy=True)
        steps = job.steps(self.progress.loop)
        while not self.progress.stopped_early and self.progress.loop.step < job.total:
            decision = self._after(next(steps))
            loop = self.progress.loop
            loop.lr_scale = ranks.leaders(loop.lr_scale)
            halted = decision is not None and decision.deed == "stop"
            asked = ranks.any_of(stop.requested)
            ranks.any_of(self.progress.stopped_early or halted)
            if decision is not None and halted:
                raise TrainingError(f"step {loop.step}: {decision.text}; see {self.folder.alarms}")
            if decision is not None and decision.deed == "rollback":
                self._roll_back(decision)
                steps = job.steps(self.progress.loop)
            if asked and self.progress.loop.step < job.total and not self.progress.stopped_early:
                self.save()
                return False
        self.save()
        return True

    def _after(self, step: Step) -> Decision | None:
        """Evaluates, writes the step's line, looks for alarms, and saves if due; what the alarms led to."""
        every = self.job.config.eval.every
        due = every > 0 and (step.index % every == 0 or step.index == self.job.total)
        figures = self.job.evaluate() if due else {}
        line: dict[str, Any] = {"step": step.index, **step.metrics}
        if step.skipped:
            line |= {"skipped": True, "rows": list(step.rows)}
        for name, figure in figures.items():
            line |= {f"eval/{name}": figure.mean, f"eval/{name}/low": figure.low, f"eval/{name}/high": figure.high}
        self.metrics.append(line)
        begun = time.perf_counter()
        alarms = self.guard.see(line)
        self.timings.append({"step": step.index, **step.timings, "watching_seconds": time.perf_counter() - begun})
        if step.samples:
            with JsonlWriter(self.folder.samples) as samples:
                for sample in step.samples:
                    samples.append({"step": step.index, **sample})
        for listener in self.listeners:
            listener(Step(step.index, {k: v for k, v in line.items() if isinstance(v, float | int)}, step.rows,
                          step.timings, step.skipped))  # fmt: skip
        decision = None
        if alarms:
            decision = self.guard.decide(alarms, self.progress.actions, self.progress.healthy)
            self.guard.record(alarms, decision)
            if decision.deed == "rollback":
                return decision
            self._change(decision)
        if figures:
            self._watch(figures, step.index)
        save_every = self.job.config.save.every
        due = bool(save_every and step.index % save_every == 0) or self.job.milestone(step.index)
        if due or (figures and self.progress.best_step == step.index):
            self.save(healthy=not self.guard.watch.failing)
        return decision

    def _change(self, decision: Decision) -> None:
        """Raises the KL coefficient or lowers the learning rate from the next step on."""
        if decision.factor == 1.0:
            return
        self.progress.actions += 1
        if self.guard.raises_kl:
            self.progress.kl_scale *= decision.factor
            self._scale_kl(decision.factor)
        else:
            self.progress.loop.lr_scale *= decision.factor

    def _scale_kl(self, factor: float) -> None:
        memory = self.job.memory()
        memory["kl"] = {**memory["kl"], "value": memory["kl"]["value"] * factor}
        self.job.remember(memory)

    def _roll_back(self, decision: Decision) -> None:
        """Goes back to a healthy checkpoint with everything but the count of actions, and on with a change.

        What was done since stays in ``undone.jsonl``. Killed anywhere in here, a resume comes to the same alarm again,
        since later checkpoints go before the lines that they count on.
        """
        old = self.progress
        checkpoint = load_checkpoint(step_folder(self.folder.checkpoints, decision.back_to))
        undone = [r for r in read_jsonl(self.folder.metrics) if r["step"] > decision.back_to]
        with JsonlWriter(self.folder.undone) as writer:
            for record in undone:
                writer.append({**record, "rollback": old.actions + 1})
        discard(self.folder.checkpoints, decision.back_to)
        self._take(checkpoint)
        self.progress.actions = old.actions
        self.progress.loop.lr_scale = old.loop.lr_scale
        self._scale_kl_to(old.kl_scale)
        self._change(decision)

    def _scale_kl_to(self, scale: float) -> None:
        """The coefficient of a checkpoint was raised less often than that of the run."""
        if scale != self.progress.kl_scale:
            self._scale_kl(scale / self.progress.kl_scale)
            self.progress.kl_scale = scale

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

    def save(self, *, healthy: bool = False) -> None:
        """Writes a checkpoint that holds everything, and prunes old ones; a healthy one may be gone back to."""
        step = self.progress.loop.step
        if healthy and self.job.config.on_alarm == "rollback":
            later = [h for h in self.progress.healthy if h > 0][-KEPT_HEALTHY + 1 :]
            self.progress.healthy = sorted({0, *later, step})
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
            **{f"{name}_offset": path.stat().st_size if path.exists() else 0 for name, path in self._more().items()},
            "identity": dict(self.job.identity),
            "memory": self.job.memory(),
        }
        save_checkpoint(self.folder.checkpoints, step, tensors, meta)
        protected = {self.progress.best_step, *self.progress.healthy}
        prune(self.folder.checkpoints, self.job.config.save.keep, protected)

    def _more(self) -> dict[str, Path]:
        """Line files that are there only if something was written to them."""
        return {"samples": self.folder.samples, "alarms": self.folder.alarms, "undone": self.folder.undone}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes everything back from a checkpoint and cuts the logs to where it was taken.

        Raises:
            RunError: the checkpoint belongs to another objective, reference or data set.
        """
        for name, value in self.job.identity.items():
            kept = checkpoint.meta["identity"].get(name)
            if kept != value:
                raise RunError(f"{self.folder.path}: cannot resume: {name} was {kept!r} and is now {value!r}")
        self._take(checkpoint)
        for name in ("alarms", "undone"):
            cut_lines(self._more()[name], checkpoint.meta.get(f"{name}_offset", 0))

    def _take(self, checkpoint: Checkpoint) -> None:
        """Weights, moments, memory, random state and steps' lines of a checkpoint."""
        self.progress = Progress.from_json(checkpoint.meta["progress"])
        self.job.take_tensors(checkpoint.tensors.get("method", {}))
        self.job.remember(checkpoint.meta.get("memory", {}))
        self.job.optimizer.load(checkpoint.tensors["weights"], checkpoint.tensors["optimizer"])
        _set_rng_state(checkpoint.tensors["rng"])
        self.metrics.truncate_to(checkpoint.meta["metrics_offset"])
        self.timings.truncate_to(checkpoint.meta["timings_offset"])
        cut_lines(self.folder.samples, checkpoint.meta["samples_offset"])
        self.guard.replay(read_jsonl(self.folder.metrics))

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
        progress.loop.lr_scale = ranks.leaders(progress.loop.lr_scale)
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
