"""What a session drives, whatever the method; and training on the rows of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trueup.config import RunConfig
from trueup.data.render import PairTokens
from trueup.train.evaluate import Evaluable, Figure, row_figures, summarise
from trueup.train.loop import LoopState, Plan, optimise
from trueup.train.optim import AnyOptimizer, Optimizer
from trueup.train.preference import pair_content
from trueup.train.sft import row_content
from trueup.types import Step


def content_of(row: Any) -> bytes:
    """What makes two rows of a file the same."""
    return pair_content(row) if isinstance(row, PairTokens) else row_content(row)


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
        return optimise(self.objective, self.optimizer, self.plan, self.config.train, state, content_of)

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
