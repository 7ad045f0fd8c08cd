"""From a config and prompts to a job that learns from the model's own answers (PPO, RLOO, GRPO, REINFORCE)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from trueup.config import RunConfig
from trueup.data.order import batch_at
from trueup.data.read import read_rows
from trueup.data.render import CompletionTokens, RowRejected
from trueup.errors import ConfigError, DataError
from trueup.feedback.base import Scorer
from trueup.feedback.ranking import JudgeScorer
from trueup.losses import POLICY
from trueup.models.layout import Branches
from trueup.models.load import load_causal_lm
from trueup.models.lora import trainable
from trueup.models.policy import Policy, check_layouts
from trueup.models.reference import AdapterOff, FrozenCopy, TokenReference
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampling
from trueup.models.source import identity
from trueup.models.value import Critic, ValueHead
from trueup.ops.returns import KLCoefficient
from trueup.recipes.build import Machine, machine_for, open_policy, plan_for
from trueup.recipes.judges import is_judge, open_scoring
from trueup.recipes.prepare import Prepared, prompt_key, renderer_for
from trueup.runs.encode import hash_json
from trueup.train.actions import PolicyObjective, Weights
from trueup.train.evaluate import Figure, summarise
from trueup.train.loop import LoopState, Plan
from trueup.train.methods import Method
from trueup.train.optim import AnyOptimizer, Optimizer, Several
from trueup.train.ppo import Actors, Memory, Recipe, answered, draw, improve
from trueup.train.rollout import Credit, Task
from trueup.types import Example, Step

log = logging.getLogger(__name__)

HEAD_LR = 1e-4
EVAL_SEED = 2**31  # of the answers to held-out prompts: the same at every evaluation


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """What a session drives; see :class:`trueup.recipes.work.Work`.

    Attributes:
        actors, recipe, plan, kept: see :mod:`trueup.train.ppo`; ``kept`` is its memory.
        held_out: prompts for evaluation; may be empty.
        gold: a second scorer of their answers, that is not trained on.
    """

    config: RunConfig
    actors: Actors
    recipe: Recipe
    plan: Plan[Task]
    kept: Memory
    held_out: Sequence[Task]
    clusters: Sequence[str]
    gold: Scorer | None
    metric: str
    maximise: bool
    identity: Mapping[str, Any]

    @property
    def optimizer(self) -> AnyOptimizer:
        """Of policy and critic."""
        return self.actors.optimizer

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.plan.total

    def steps(self, state: LoopState) -> Iterator[Step]:
        """The training loop."""
        return improve(self.actors, self.recipe, self.plan, self.config.train, self.kept, state)

    def milestone(self, step: int) -> bool:
        """Never."""
        del step
        return False

    def tensors(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def take_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """None."""

    def memory(self) -> dict[str, Any]:
        """KL coefficient and running moments."""
        return self.kept.to_json()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """The inverse of :meth:`memory`."""
        self.kept.take(memory)

    def evaluate(self) -> dict[str, Figure]:
        """Score, length and truncation of one answer to each held-out prompt, drawn alike at every evaluation."""
        sampler, judge, sampling = self.actors.sampler, self.actors.judge, self.recipe.sampling
        seed = self.config.train.seed
        return answer_figures(sampler, judge, sampling, self.held_out, self.clusters, seed, self.gold)


def answer_figures(
    sampler: LocalSampler,
    judge: Scorer,
    sampling: Sampling,
    tasks: Sequence[Task],
    clusters: Sequence[str],
    seed: int,
    gold: Scorer | None = None,
) -> dict[str, Figure]:
    """Score, length and truncation of one answer to each prompt, drawn alike every time; empty without prompts."""
    if not tasks:
        return {}
    groups = draw(sampler, tasks, replace(sampling, n=1), seed=EVAL_SEED)
    pairs = [(t, g[0]) for t, g in zip(tasks, groups, strict=True)]
    arrays = {
        "score": np.asarray(judge.score([answered(t, s) for t, s in pairs]), dtype=np.float64),
        "length": np.array([float(len(s.ids)) for _, s in pairs if s.ids is not None]),
        "truncated": np.array([float(s.finish == "length") for _, s in pairs]),
    }
    if gold is not None:
        arrays["gold"] = np.asarray(gold.score([answered(t, s) for t, s in pairs]), dtype=np.float64)
    return summarise(arrays, clusters, seed)


def tasks_of(tokens: Sequence[CompletionTokens], rows: Sequence[Any]) -> list[Task]:
    """Prompts with their text and further fields."""
    return [Task(id=t.id, ids=t.ids, prompt=r.prompt, meta=dict(r.meta)) for t, r in zip(tokens, rows, strict=True)]


def build_rollouts(config: RunConfig, method: Method, prepared: Prepared) -> tuple[RolloutJob, Policy]:
    """Loads everyone who takes part and puts the job together.

    Raises:
        ConfigError: no scorer, or settings that this method cannot have.
        ModelError: a model that cannot be used.
    """
    settled = settle(config, method)
    machine = machine_for(config)
    torch.manual_seed(config.train.seed)
    scorer = scorer_for(config)
    if isinstance(scorer, JudgeScorer) and scorer.by == "compare":
        raise ConfigError(f"reward.by: compare ranks answers to one prompt only; {config.method} needs by: grade")
    policy = open_policy(config, method, machine, int(prepared.tokenizer.pad_token_id))  # type: ignore[arg-type]
    name = identity(config.model.path, config.model.revision)
    reference = _reference(config, settled, policy, machine, name)
    critic = _critic(config, policy, machine) if settled.advantage == "gae" else None
    sampler = LocalSampler(
        policy, prepared.tokenizer, identity=name, slots=config.sample.slots,
        renderer=renderer_for(config, prepared.tokenizer),
    )  # fmt: skip
    tasks = tasks_of(prepared.train, prepared.train_rows)
    plan = plan_for(config, method, tasks)
    objective = _objective(config, method, settled, policy, critic, prepared)
    actors = Actors(
        policy=policy, sampler=sampler, critic=critic, reference=reference, judge=scorer, objective=objective,
        optimizer=_optimizer(config, policy, critic, plan.peak_lr),
    )  # fmt: skip
    job = RolloutJob(
        config=config,
        actors=actors,
        recipe=_recipe(config, settled),
        plan=plan,
        kept=Memory(KLCoefficient(config.policy.kl_coef, config.policy.kl_target, config.policy.kl_horizon)),
        held_out=tasks_of(prepared.held_out, prepared.held_out_rows),
        clusters=[prompt_key(r) for r in prepared.held_out],
        gold=gold_for(config),
        metric=config.eval.metric or method.metric,
        maximise=True,
        identity={
            "method": method.name,
            "loss": hash_json({"loss": config.loss, "policy": config.policy.model_dump(),
                               "sample": config.sample.model_dump(exclude={"slots"})}),
            "reference": reference.identity if reference else "none",
            "reward": scorer.identity,
            "model": name,
            "data": prepared.fingerprint,
            "precision": str(machine.dtype),
        },
    )  # fmt: skip
    check_policy(policy, tasks)
    return job, policy


@dataclass(frozen=True, slots=True)
class Settled:
    """What ``auto`` means for this run."""

    advantage: str
    kl: str
    by_answer: bool


def settle(config: RunConfig, method: Method) -> Settled:
    """Resolves ``auto``.

    Raises:
        ConfigError: settings that contradict the method or each other.
    """
    own = "gae" if method.name == "ppo" else method.name
    given = config.policy.advantage
    if given not in ("auto", own) and method.name != "ppo":
        raise ConfigError(f"policy.advantage: {given} contradicts the method {method.name}; use ppo, or leave it out")
    advantage = own if given == "auto" else given
    if advantage in ("rloo", "grpo") and config.sample.n < 2:
        raise ConfigError(f"sample.n: {advantage} compares answers to the same prompt; 2 or more are needed")
    kl = config.policy.kl
    if kl == "auto":
        kl = "none" if config.policy.kl_coef == 0 else ("loss" if advantage == "grpo" else "reward")
    return Settled(
        advantage, kl, advantage == "grpo" if config.policy.average == "auto" else config.policy.average == "answers"
    )


def scorer_for(config: RunConfig) -> Scorer:
    """Who scores.

    Raises:
        ConfigError: nobody is named, or the name says nothing sensible.
    """
    if config.reward is None:
        raise ConfigError(
            f"reward: missing; {config.method} learns from scores: --reward PATH (a reward model) or rule:NAME"
        )
    if is_judge(config.reward) and config.reward.get("cache") is None:  # type: ignore[union-attr]
        raise ConfigError("reward.cache: missing; name a file that keeps the judge's calls, so that none is made twice")
    return open_scoring(config.reward, machine_for(config))


def gold_for(config: RunConfig) -> Scorer | None:
    """The second scorer, if one is named.

    Raises:
        ConfigError: the name says nothing sensible.
    """
    if config.eval.gold is None:
        return None
    if is_judge(config.eval.gold) and config.eval.gold.get("cache") is None:  # type: ignore[union-attr]
        raise ConfigError("eval.gold.cache: missing; name a file that keeps the judge's calls")
    return open_scoring(config.eval.gold, machine_for(config))


def _reference(
    config: RunConfig, settled: Settled, policy: Policy, machine: Machine, name: str
) -> TokenReference | None:
    kind = config.model.reference
    if settled.kl == "none" and kind in ("auto", "none"):
        return None
    if kind == "none":
        raise ConfigError("model.reference: none, but policy.kl needs one; set --policy.kl none too")
    if kind == "precomputed":
        raise ConfigError("model.reference: precomputed is not possible: the answers are new at every step")
    if kind == "adapter-off" or (kind == "auto" and config.lora is not None):
        if config.lora is None:
            raise ConfigError("model.reference: adapter-off needs --lora.rank; a full fine-tuning has no adapter")
        return AdapterOff(policy, name)
    path = config.model.path if kind in ("auto", "copy") else kind
    revision = config.model.revision if path == config.model.path else None
    copy: Any = load_causal_lm(path, dtype=machine.dtype, revision=revision)
    return FrozenCopy(
        Policy(copy.to(device=machine.device), policy.pad_id, config.model.layout), identity(path, revision)
    )


def _critic(config: RunConfig, policy: Policy, machine: Machine) -> Critic:
    """A head on the policy's states, or on a trunk of its own."""
    kind = config.policy.value
    if kind == "auto":
        kind = "shared" if config.lora is not None else "separate"
    if kind == "shared":
        return Critic(ValueHead(policy.inner.config.get_text_config().hidden_size).to(machine.device))
    path = config.model.path if kind == "separate" else kind
    trunk: Any = load_causal_lm(path, dtype=machine.dtype)
    trunk.to(machine.device)
    trunk.requires_grad_(True)
    for parameter in trunk.get_output_embeddings().parameters():
        if not getattr(trunk.config.get_text_config(), "tie_word_embeddings", False):
            parameter.requires_grad_(False)  # no value depends on it
    inner = Policy(trunk, policy.pad_id, config.model.layout)
    return Critic(ValueHead(inner.inner.config.get_text_config().hidden_size).to(machine.device), inner)


def _optimizer(config: RunConfig, policy: Policy, critic: Critic | None, peak: float) -> AnyOptimizer:
    """Policy and critic each clip their own gradients and have their own rate."""
    own = Optimizer(trainable(policy.model), config.train)
    if critic is None:
        return own
    given = config.policy.value_lr
    named = critic.named_parameters()
    parts = {
        "policy": (own, 1.0),
        "head": (
            Optimizer([n for n in named if n[0].startswith("value_head.")], config.train),
            (given or HEAD_LR) / peak,
        ),
    }
    if trunk := [n for n in named if n[0].startswith("critic.")]:
        parts["trunk"] = (Optimizer(trunk, config.train), (given or peak) / peak)
    return Several(parts)


def _objective(
    config: RunConfig, method: Method, settled: Settled, policy: Policy, critic: Critic | None, prepared: Prepared
) -> PolicyObjective:
    clip = tuple(float(config.loss.get(n, POLICY["ppo"].arguments[n])) for n in ("clip_low", "clip_high"))
    weights = Weights(
        value=config.policy.value_coef if critic else 0.0,
        entropy=config.policy.entropy_coef,
        kl=config.policy.kl_coef if settled.kl == "loss" else 0.0,
        ptx=config.policy.ptx_coef if config.policy.ptx_path else 0.0,
        value_clip=config.policy.value_clip,
        by_answer=settled.by_answer,
    )
    loss = partial(POLICY["reinforce" if settled.advantage == "reinforce" else "ppo"].fn, **config.loss)
    return PolicyObjective(policy, critic, loss, (clip[0], clip[1]), weights, _ptx(config, prepared))


def _ptx(config: RunConfig, prepared: Prepared) -> Callable[[int, int], list[CompletionTokens]] | None:
    """Which pretraining rows go with a step."""
    path = config.policy.ptx_path
    if path is None:
        return None
    renderer = renderer_for(config, prepared.tokenizer)
    try:
        rows = [renderer.completion(r) for r in read_rows(path, wanted=Example).rows]  # type: ignore[arg-type]
    except RowRejected as error:
        raise DataError(f"{path}: {error}") from None
    if not rows:
        raise DataError(f"{path}: no rows")
    return lambda step, count: [rows[i] for i in batch_at(len(rows), min(count, len(rows)), config.train.seed, step)]


def sampling_of(config: RunConfig) -> Sampling:
    """How answers are drawn; the seed is the step's."""
    given = config.sample.model_dump(exclude={"slots"})
    return Sampling(**given)


def _recipe(config: RunConfig, settled: Settled) -> Recipe:
    chosen = config.policy
    return Recipe(
        sampling=sampling_of(config),
        credit=Credit(
            kind=settled.advantage, gamma=chosen.gamma, lam=chosen.lam, kl_estimator=chosen.kl_estimator,
            whiten_advantages=chosen.whiten_advantages, whiten_rewards=chosen.whiten_rewards,
        ),
        kl_in_reward=settled.kl == "reward",
        epochs=chosen.epochs,
        minibatches=chosen.minibatches,
        step_kl=chosen.step_kl,
        scale_scores=chosen.scale_scores,
        score_clip=chosen.score_clip,
        missing_eos_penalty=chosen.missing_eos_penalty,
        value_warmup=chosen.value_warmup,
    )  # fmt: skip


def check_policy(policy: Policy, tasks: Sequence[Task]) -> None:
    """Step 0: both layouts and the model's own output layer agree, on prompts that answer their first halves."""
    groups = []
    for task in [t for t in tasks if len(t.ids) > 1][:2]:
        half = len(task.ids) // 2
        groups.append(Branches(task.ids[:half], (task.ids[half:],), (np.ones(len(task.ids) - half, dtype=bool),)))
    if groups:
        worst = check_layouts(policy, groups)
        log.info("self-check: layouts and output layer agree within %.2g nats a token", worst)
