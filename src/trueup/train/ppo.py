"""PPO and its relatives: learning from the model's own answers.

for each step:
    answers   ~ π(· | prompts)                                   sampled, n a prompt
    score     = scorer(prompts, answers)
    r_t       = −k · KL_t(π ‖ reference), plus score at the last token
    A, R      = GAE(r, V)   or the group's baseline (RLOO, GRPO) or the batch's (REINFORCE)
    for epoch, minibatch:
        loss  = clip(π / π_old, A) + c_v · value_clip(V, R) − c_h · H(π) + β · KL + c_p · NLL(pretraining)
        step; leave the epochs when KL(π_old ‖ π) exceeds its limit
    k         = adapted to the measured KL

InstructGPT (arXiv 2203.02155, eq. 2); PPO (arXiv 1707.06347); GRPO (2402.03300); RLOO (2402.14740).
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trueup.config import TrainConfig
from trueup.data.order import micro_batches, permutation
from trueup.errors import MidStepError
from trueup.feedback.base import Answered, Scorer
from trueup.feedback.combine import score_with_spread
from trueup.models.head import token_figures
from trueup.models.layout import Branches
from trueup.models.policy import Policy, output_head
from trueup.models.reference import TokenReference
from trueup.models.sample import LocalSampler, PromptIds
from trueup.models.sampling import Sample, Sampling
from trueup.models.value import Critic
from trueup.ops.returns import KLCoefficient, Moments, equal_groups
from trueup.train.actions import PolicyObjective, group_tokens
from trueup.train.answers import answer_metrics, defined, repeats
from trueup.train.loop import LoopState, Plan, Taken, stop_if_lost, take_step
from trueup.train.optim import AnyOptimizer, learning_rate
from trueup.train.rollout import (
    Credit,
    Experience,
    Judged,
    Task,
    branches_of,
    credit,
    experiences,
    rollout_metrics,
)
from trueup.types import Step

log = logging.getLogger(__name__)

EQUAL_LIMIT = 5  # steps in a row in which no answer scored differently from another to its prompt
SHOWN = 4  # answers of a step kept for a person to read


@dataclass(slots=True)
class Memory:
    """What policy-gradient training remembers between steps, besides weights and moments.

    Attributes:
        kl: the KL coefficient.
        scores: running moments of the scores.
        equal: steps in a row in which all scores were equal.
    """

    kl: KLCoefficient
    scores: Moments = field(default_factory=Moments)
    equal: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"kl": asdict(self.kl), "scores": asdict(self.scores), "equal": self.equal}

    def take(self, value: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_json`, in place."""
        self.kl, self.scores = KLCoefficient(**value["kl"]), Moments(**value["scores"])
        self.equal = int(value["equal"])

    def watch(self, raw: np.ndarray, index: int) -> None:
        """Counts steps whose scores tell no answer from another.

        Raises:
            MidStepError: too many in a row.
        """
        self.equal = self.equal + 1 if float(np.ptp(raw)) == 0 else 0
        if self.equal == 1:
            log.warning("step %d: every answer was given the same score, %g: nothing is learnt from it", index, raw[0])
        if self.equal == EQUAL_LIMIT:
            raise MidStepError(
                f"step {index}: for {EQUAL_LIMIT} steps every answer was given the same score, {raw[0]:g}: nothing can "
                "be learnt. Look at samples.jsonl; the rule may not fit the answers, or the model answers all alike"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The numbers of the algorithm.

    Attributes:
        sampling: how answers are drawn; its seed is the run's.
        credit: how rewards become advantages (its ``kl_coefficient`` is taken from :class:`Memory`).
        kl_in_reward: the KL is part of the reward; else it is a term of the loss, or absent.
        epochs: passes over each batch of answers.
        minibatches: optimizer steps a pass.
        step_kl: the passes end when KL(π_old ‖ π), by k3, exceeds 1.5 times this; None: never.
        scale_scores: divide scores by their running standard deviation.
        score_clip: scores are clipped to ± this, after scaling; None: not.
        missing_eos_penalty: taken from the score of a truncated answer, after clipping; None: nothing.
        value_warmup: first steps in which only the critic learns.
    """

    sampling: Sampling
    credit: Credit
    kl_in_reward: bool = True
    epochs: int = 4
    minibatches: int = 1
    step_kl: float | None = None
    scale_scores: bool = False
    score_clip: float | None = None
    missing_eos_penalty: float | None = None
    value_warmup: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """Everyone who takes part.

    Attributes:
        policy: the model in training, its sampler, and its value model (None: group baselines).
        reference: what the KL is measured against; None: no KL.
        judge: the scorer.
        objective: the loss.
        optimizer: of policy and critic.
    """

    policy: Policy
    sampler: LocalSampler
    critic: Critic | None
    reference: TokenReference | None
    judge: Scorer
    objective: PolicyObjective
    optimizer: AnyOptimizer


def improve(
    actors: Actors, recipe: Recipe, plan: Plan[Task], config: TrainConfig, memory: Memory, state: LoopState
) -> Iterator[Step]:
    """Yields one :class:`Step` after each batch of answers was learnt from.

    Raises:
        TrainingError: three non-finite steps in a row.
        MidStepError: the ratio is not 1 before the first update, or five steps in a row all scores were equal.
        ScoringError: an answer could not be scored; no weight was changed for it.
    """
    while state.step < plan.total:
        index = state.step + 1
        begun = time.perf_counter()
        tasks = plan.batch(index)
        batch, figures, shown = _collect(actors, recipe, tasks, config, memory, index)
        sampled = time.perf_counter()
        rate = state.lr_scale * learning_rate(config, plan.peak_lr, index, plan.total)
        held = actors.objective.weights.kl > 0
        if held:
            actors.objective.hold(memory.kl.value)
        learnt = _learn(actors, recipe, batch, config, state, index, rate)
        figures["kl_coefficient"] = memory.kl.value if held or recipe.kl_in_reward else 0.0
        if math.isfinite(figures.get("kl", math.nan)):
            memory.kl = memory.kl.after(figures["kl"], sum(len(e.lengths) for e in batch))
        state.step = index
        seconds = time.perf_counter() - begun
        yield Step(
            index=index,
            metrics={**learnt.metrics, **figures, "grad_norm": learnt.norm, "lr": rate, "tokens": learnt.tokens},
            rows=tuple(t.id for t in tasks),
            timings={
                "seconds": seconds,
                "sampling_seconds": sampled - begun,
                "sampled_tokens_per_second": actors.sampler.speed.tokens_per_second,
            },
            skipped=learnt.skipped,
            samples=tuple(shown),
        )
        stop_if_lost(state, index, [t.id for t in tasks])


def _collect(
    actors: Actors, recipe: Recipe, tasks: Sequence[Task], config: TrainConfig, memory: Memory, index: int
) -> tuple[list[Experience], dict[str, float], list[dict[str, Any]]]:
    """Samples, scores, and turns scores into advantages."""
    answers = draw(actors.sampler, tasks, recipe.sampling, seed=step_seed(config.seed, index))
    asked = [answered(t, s) for t, group in zip(tasks, answers, strict=True) for s in group]
    raw, spread = score_with_spread(actors.judge, asked)
    memory.watch(raw, index)
    flat = [s for group in answers for s in group]
    groups = [branches_of(t, group) for t, group in zip(tasks, answers, strict=True)]
    looked = look(actors, groups, config)
    judged = Judged(
        group=torch.tensor([i for i, group in enumerate(answers) for _ in group]),
        lengths=torch.tensor([len(b) for g in groups for b in g.branches]),
        score=_shaped(torch.from_numpy(raw), [s.finish == "length" for s in flat], recipe, memory),
        old=looked["old"],
        reference=looked.get("reference"),
        value=looked.get("value"),
    )
    coefficient = memory.kl.value if recipe.kl_in_reward else 0.0
    credited = credit(judged, replace(recipe.credit, kl_coefficient=coefficient))
    figures = rollout_metrics(judged, credited, flat)
    figures["entropy"] = float(looked["entropy"].mean())
    figures["score/raw"] = float(np.mean(raw))
    figures |= answer_metrics(answers, raw) | defined({"score/disagreement": spread})
    figures |= repeats([t.id for t in tasks], [t.ids.tobytes() for t in tasks])
    if recipe.sampling.n > 1:
        figures["groups/equal"] = equal_groups(judged.score, judged.group)
    shown = [
        {"row": s.prompt, "answer": s.text, "score": float(x), "finish": s.finish, "tokens": len(s.ids)}  # type: ignore[arg-type]
        for s, x in list(zip(flat, raw, strict=True))[:SHOWN]
    ]
    return experiences(tasks, groups, judged, credited), figures, shown


def _shaped(scores: torch.Tensor, truncated: Sequence[bool], recipe: Recipe, memory: Memory) -> torch.Tensor:
    """Scores scaled by their running deviation, clipped, and less for a missing end, if asked for."""
    if bool(scores.isfinite().all()):  # a scorer that broke once must not spoil the moments of the whole run
        memory.scores = memory.scores.add(scores)
    if recipe.scale_scores:
        scores = scores / max(memory.scores.std, 1e-8)
    if recipe.score_clip is not None:
        scores = scores.clamp(-recipe.score_clip, recipe.score_clip)
    return scores - (recipe.missing_eos_penalty or 0.0) * torch.tensor(truncated, dtype=scores.dtype)


def _learn(
    actors: Actors,
    recipe: Recipe,
    batch: Sequence[Experience],
    config: TrainConfig,
    state: LoopState,
    index: int,
    rate: float,
) -> Taken:
    """The epochs over one batch of answers."""
    taken: list[Taken] = []
    ratios: list[float] = []
    warming = index <= recipe.value_warmup
    objective = actors.objective.only_value() if warming else actors.objective
    for epoch in range(recipe.epochs):
        for places in minibatches(len(batch), recipe.minibatches, config.seed, index, epoch):
            part = [batch[i] for i in places]
            taken.append(take_step(objective, actors.optimizer, part, config, state, index, rate))
            ratios.append(taken[-1].metrics["ratio"])
            if len(taken) == 1:
                check_ratio(taken[0].metrics, actors.policy.inner.dtype, index)
        if recipe.step_kl is not None and taken[-1].metrics["kl/step"] > 1.5 * recipe.step_kl:
            break
    names = [n for n in taken[0].metrics if n not in ("ratio", "ratio/largest", "kl/step")]
    metrics = {n: float(np.mean([t.metrics[n] for t in taken])) for n in names}
    metrics |= {"ratio/first": ratios[0], "ratio": float(np.mean(ratios)), "kl/step": taken[-1].metrics["kl/step"]}
    metrics["ratio/largest"] = max(t.metrics["ratio/largest"] for t in taken)
    metrics["updates"] = float(len(taken))
    return Taken(
        metrics, float(np.mean([t.norm for t in taken])), any(t.skipped for t in taken),
        sum(t.tokens for t in taken), sum(t.micro for t in taken),
    )  # fmt: skip


def draw(sampler: LocalSampler, tasks: Sequence[Task], sampling: Sampling, *, seed: int) -> list[list[Sample]]:
    """``sampling.n`` answers to each task, in order; a task that is there twice is answered anew the second time."""
    model = sampler.policy.model
    training = model.training
    model.eval()
    prompts = [PromptIds(id=str(i), ids=t.ids) for i, t in enumerate(tasks)]
    seen: Counter[bytes] = Counter()
    first: list[int] = []
    for task in tasks:
        first.append(seen[task.ids.tobytes()] * sampling.n)
        seen[task.ids.tobytes()] += 1
    found: list[dict[int, Sample]] = [{} for _ in tasks]
    wanted = replace(sampling, seed=seed)
    for sample in sampler.sample_ids(prompts, wanted, lambda i: range(first[int(i)], first[int(i)] + sampling.n)):
        place = int(sample.prompt)
        found[place][sample.index - first[place]] = replace(sample, prompt=tasks[place].id)
    model.train(training)
    return [[group[k] for k in range(sampling.n)] for group in found]


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's answers: a prompt that comes again is answered anew."""
    return seed * 1_000_003 + step


def answered(task: Task, sample: Sample) -> Answered:
    """An answer as a scorer wants it."""
    return Answered(
        id=task.id,
        prompt=task.prompt,
        answer=sample.text,
        truncated=sample.finish == "length",
        tokens=None if sample.ids is None else len(sample.ids),
        meta=task.meta,
    )


@torch.no_grad()
def look(actors: Actors, groups: Sequence[Branches], config: TrainConfig) -> dict[str, torch.Tensor]:
    """One pass over fresh answers as the policy is now: old, entropy, reference and value of each token, ``[N]``."""
    policy, critic, reference = actors.policy, actors.critic, actors.reference
    lengths = [group_tokens(g, policy.shared) for g in groups]
    kept: dict[int, dict[str, list[torch.Tensor]]] = {}
    for part in micro_batches(lengths, config.micro_batch, None if config.micro_batch else config.micro_tokens):
        mine = [groups[i] for i in part]
        layout = policy.layout(mine)
        states = policy.hidden(layout).index_select(0, layout.source)
        figures = token_figures(states, output_head(policy.inner), layout.target, extras=True)
        assert figures.entropy is not None
        columns = {"old": figures.logprob, "entropy": figures.entropy}
        if critic is not None:
            columns["value"] = critic.values(layout, states)
        if reference is not None:
            columns["reference"] = reference.tokens(mine)
        sizes = [sum(len(b) for b in g.branches) for g in mine]
        pieces = {name: column.cpu().split(sizes) for name, column in columns.items()}
        for k, i in enumerate(part):
            kept[i] = {name: [column[k]] for name, column in pieces.items()}
    return {name: torch.cat([kept[i][name][0] for i in range(len(groups))]) for name in kept[0]}


def minibatches(n: int, count: int, seed: int, step: int, epoch: int) -> list[np.ndarray]:
    """A pass over ``n`` prompts in ``count`` minibatches, in an order of its own."""
    return [p for p in np.array_split(permutation(n, step_seed(seed, step), epoch), min(count, n)) if len(p)]


def check_ratio(metrics: Mapping[str, float], dtype: torch.dtype, step: int) -> None:
    """Before the first update π is π_old: the mean ratio must be 1.

    Raises:
        MidStepError: it is not; log-probabilities when sampling and when learning do not belong together.
    """
    allowed = 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-4
    if not abs(metrics["ratio"] - 1) <= allowed:
        raise MidStepError(
            f"step {step}: the mean ratio before the first update is {metrics['ratio']:.6g}, not 1 "
            f"(allowed: {allowed:g} off); log-probabilities of the same weights differ: learning would be wrong"
        )
