"""From a config and prompts to a job that learns from pairs of its own answers (online-LOSS, iterative-LOSS)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from trueup.config import RunConfig
from trueup.data.order import batch_at
from trueup.data.pairing import Pairing
from trueup.feedback.base import Scorer
from trueup.losses.metrics import preference_metrics
from trueup.models.lora import trainable
from trueup.models.policy import Policy
from trueup.models.sample import LocalSampler
from trueup.models.source import identity
from trueup.ops.diversity import distinct
from trueup.recipes.build import machine_for, open_policy, open_reference, pair_loss
from trueup.recipes.prepare import Prepared, prompt_key, renderer_for
from trueup.recipes.rollouts import (
    EVAL_SEED,
    answer_figures,
    check_policy,
    gold_for,
    sampling_of,
    scorer_for,
    tasks_of,
)
from trueup.runs.encode import hash_json
from trueup.train.evaluate import Figure
from trueup.train.loop import LoopState, Plan
from trueup.train.methods import Method
from trueup.train.online import Buffer, Players, Rounds, Stored, held_out, learn_in_rounds, win_rate
from trueup.train.optim import AnyOptimizer, Optimizer
from trueup.train.preference import PreferenceObjective
from trueup.train.rollout import Task, branches_of
from trueup.types import Step


@dataclass(frozen=True, slots=True)
class OnlineJob:
    """What a session drives; see :class:`trueup.recipes.work.Work`.

    Attributes:
        players, rounds, plan, buffer: see :mod:`trueup.train.online`.
        held_out: prompts for evaluation and for the table of rounds; may be empty.
        gold: a second scorer of their answers, that is not trained on.
        tabled: whether a line of the table is made after each round (iterative methods).
    """

    config: RunConfig
    players: Players
    rounds: Rounds
    plan: Plan[Task]
    buffer: Buffer
    held_out: Sequence[Task]
    clusters: Sequence[str]
    gold: Scorer | None
    metric: str
    maximise: bool
    identity: Mapping[str, Any]
    tabled: bool

    @property
    def optimizer(self) -> AnyOptimizer:
        """Of the policy."""
        return self.players.optimizer

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.plan.total

    def steps(self, state: LoopState) -> Iterator[Step]:
        """The training loop."""
        close = self._close if self.tabled and self.held_out else None
        if close is not None and not self.buffer.first:
            self.buffer.first = held_out(self.players, self.rounds.sampling, self.held_out, EVAL_SEED)[1].tolist()
        return learn_in_rounds(self.players, self.rounds, self.plan, self.config.train, self.buffer, state, close)

    def milestone(self, step: int) -> bool:
        """After every round of an iterative method: its answers and scores are worth keeping."""
        return self.tabled and step % self.rounds.steps == 0

    def memory(self) -> dict[str, Any]:
        """The round's pairs with their reference log-probabilities, and the table."""
        return self.buffer.to_json()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """The inverse of :meth:`memory`."""
        self.buffer.take(memory)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moving average of the weights, where it is the reference."""
        return self.players.average

    def take_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        for name, value in self.players.average.items():
            value.copy_(tensors[name])

    def evaluate(self) -> dict[str, Figure]:
        """Score, length and truncation of one answer to each held-out prompt, drawn alike at every evaluation."""
        sampler, judge, seed = self.players.sampler, self.players.judge, self.config.train.seed
        return answer_figures(sampler, judge, self.rounds.sampling, self.held_out, self.clusters, seed, self.gold)

    def _close(self, number: int) -> dict[str, float]:
        """A line of the table: held-out score, win rate against before, KL to the start, length, distinct-2."""
        groups, scores = held_out(self.players, self.rounds.sampling, self.held_out, EVAL_SEED)
        samples = [g[0] for g in groups]
        line = {
            "round": float(number),
            "score": float(scores.mean()),
            "win_rate": win_rate(scores.tolist(), self.buffer.first),
            "length": sum(len(s.ids) for s in samples if s.ids is not None) / len(samples),
            "distinct_2": distinct([s.text for s in samples], 2),
            "pairs": self.buffer.figures["pairs"],
        }
        if self.players.start is not None:
            line["kl"] = self._kl([branches_of(t, g) for t, g in zip(self.held_out, groups, strict=True)])
        line = dict(sorted(line.items()))  # as it comes back from a checkpoint
        self.buffer.table.append(line)
        return {f"round/{name}": value for name, value in line.items() if name != "round"}

    @torch.no_grad()
    def _kl(self, groups: Sequence[Any]) -> float:
        """Mean of log π − log ρ over held-out answers, nats an answer (k1)."""
        policy, start = self.players.objective.policy, self.players.start
        assert start is not None
        total = 0.0
        for first in range(0, len(groups), 16):
            part = groups[first : first + 16]
            ours = policy.sequences(policy.layout(part)).logprob
            total += float((ours - start.sequences(part).logprob).sum())
        return total / len(groups)


def build_online(config: RunConfig, method: Method, prepared: Prepared) -> tuple[OnlineJob, Policy]:
    """Loads everyone who takes part and puts the job together.

    Raises:
        ConfigError: no scorer, or a reference that this run cannot have.
        ModelError: a model that cannot be used.
    """
    machine = machine_for(config)
    torch.manual_seed(config.train.seed)
    scorer = scorer_for(config)
    policy = open_policy(config, method, machine, int(prepared.tokenizer.pad_token_id))  # type: ignore[arg-type]
    start = open_reference(config, method, policy, machine, prepared)
    name = identity(config.model.path, config.model.revision)
    loss, needs = pair_loss(config, method)
    beta = float(config.loss.get("beta", method.loss.arguments.get("beta", 1.0)))
    stored = Stored(start.identity if start else "none", machine.device)
    objective = PreferenceObjective(
        policy, stored if start else None, loss, partial(preference_metrics, beta=beta), needs
    )
    tasks = tasks_of(prepared.train, prepared.train_rows)
    rounds, total = rounds_for(config, method, len(tasks))
    size = rounds.prompts
    plan: Plan[Task] = Plan(
        total,
        lambda number: [tasks[i] for i in batch_at(len(tasks), size, config.train.seed, number - 1)],
        config.train.lr or (method.lr if config.lora is None else method.lora_lr),
    )
    sampler = LocalSampler(
        policy, prepared.tokenizer, identity=name, slots=config.sample.slots,
        renderer=renderer_for(config, prepared.tokenizer),
    )  # fmt: skip
    named = trainable(policy.model)
    average = {n: p.detach().float().clone() for n, p in named} if rounds.reference == "ema" else {}
    job = OnlineJob(
        config=config,
        players=Players(
            sampler=sampler, judge=scorer, objective=objective, optimizer=Optimizer(named, config.train), start=start,
            stored=stored, average=average,
        ),
        rounds=rounds,
        plan=plan,
        buffer=Buffer(),
        held_out=tasks_of(prepared.held_out, prepared.held_out_rows),
        clusters=[prompt_key(r) for r in prepared.held_out],
        gold=gold_for(config),
        metric=config.eval.metric or method.metric,
        maximise=True,
        identity=_identity(config, method, prepared, {"reference": stored.identity, "reward": scorer.identity,
                                                      "model": name, "precision": str(machine.dtype)}),
        tabled=method.name.startswith("iterative-"),
    )  # fmt: skip
    check_policy(policy, tasks)
    return job, policy


def _identity(config: RunConfig, method: Method, prepared: Prepared, more: Mapping[str, str]) -> dict[str, str]:
    """What a resume must find unchanged."""
    parts = {
        "loss": config.loss, "mixture": [t.model_dump() for t in config.mixture], "options": config.options,
        "online": config.online.model_dump(), "sample": config.sample.model_dump(exclude={"slots"}),
    }  # fmt: skip
    return {"method": method.name, "loss": hash_json(parts), "data": prepared.fingerprint, **more}


def rounds_for(config: RunConfig, method: Method, prompts: int) -> tuple[Rounds, int]:
    """How many prompts and steps a round has, and how many steps the run.

    online-LOSS: a round a step, of ``train.batch_size`` prompts. iterative-LOSS: ``online.rounds`` rounds; a round
    has as many steps as its prompts, if each gave ``online.cap`` pairs, fill in ``train.epochs`` passes.
    """
    online, train = config.online, config.train
    if method.name.startswith("online-"):
        size = min(train.batch_size, prompts)
        total = max(1, math.ceil(prompts * train.epochs / size))
        shape: dict[str, Any] = {"prompts": size, "steps": 1, "batch": None}
    else:
        size = min(online.prompts or math.ceil(prompts / online.rounds), prompts)
        steps = max(1, math.ceil(size * online.cap * train.epochs / train.batch_size))
        total = online.rounds * steps
        shape = {"prompts": size, "steps": steps, "batch": train.batch_size}
    total = min(total, train.max_steps) if train.max_steps is not None else total
    pairing = Pairing(
        how=online.choose, min_margin=online.min_margin, max_similarity=online.max_similarity, cap=online.cap,
        seed=train.seed,
    )  # fmt: skip
    rounds = Rounds(
        **shape, sampling=sampling_of(config), pairing=pairing, reference=online.reference, decay=online.decay
    )
    return rounds, total
