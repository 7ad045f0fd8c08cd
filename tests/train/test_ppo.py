"""PPO against a computation written apart: one answer at a time, plain logits, loops instead of tensors, in float64.

The model's normalisation layers compute in fp32 whatever its weights, so two ways through it agree to about 1e-8.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from trueup.config import TrainConfig
from trueup.errors import MidStepError
from trueup.feedback.base import Answered
from trueup.losses.policy import ppo_clip
from trueup.models.policy import Policy
from trueup.models.reference import FrozenCopy
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampling
from trueup.models.tiny import tiny_model, tiny_tokenizer
from trueup.models.value import Critic, ValueHead
from trueup.ops.returns import KLCoefficient
from trueup.train.actions import PolicyObjective, Weights
from trueup.train.loop import LoopState, Plan
from trueup.train.optim import Optimizer, Several
from trueup.train.ppo import Actors, Memory, Recipe, draw, improve, step_seed
from trueup.train.rollout import Credit, Task
from trueup.types import Step

CONFIG = TrainConfig(seed=3, warmup=0, schedule="constant", precision="fp32", max_grad_norm=1e9)


class CountsVowels:
    """A scorer that needs no model: bytes a to e in the answer."""

    identity = "counts"

    def score(self, answers: Any) -> np.ndarray:
        return np.array([float(sum(c in "abcdeABCDE" for c in a.answer)) + 0.1 * len(a.answer) for a in answers])


def actors(weights: Weights, seed: int = 0, critic: bool = True, kind: Any = "llama") -> Actors:
    model = tiny_model(kind=kind, seed=seed).double()
    policy = Policy(model, pad_id=0)
    reference: Any = tiny_model(kind=kind, seed=seed).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.02)  # some way off, so that the KL is not 0
    head = ValueHead(64, torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-0.1, 0.1, 64))
    value = Critic(head) if critic else None
    optimizer = {"policy": (Optimizer(model.named_parameters(), CONFIG), 1.0)}
    if value:
        optimizer["head"] = (Optimizer(value.named_parameters(), CONFIG), 1.0)
    return Actors(
        policy=policy,
        sampler=LocalSampler(policy, tiny_tokenizer(), identity="tiny"),
        critic=value,
        reference=FrozenCopy(Policy(reference, pad_id=0), "other"),
        judge=CountsVowels(),
        objective=PolicyObjective(policy, value, partial(ppo_clip), (0.2, 0.2), weights),
        optimizer=Several(optimizer),
    )


def tasks(count: int = 4) -> list[Task]:
    random = np.random.default_rng(1)
    return [
        Task(id=f"t{i}", ids=random.integers(4, 260, 3 + 2 * i).astype(np.int32), prompt=f"p{i}") for i in range(count)
    ]


def run(who: Actors, recipe: Recipe, steps: int = 1, lr: float = 1e-4, config: TrainConfig = CONFIG) -> list[Step]:
    plan = Plan(steps, lambda _: tasks(), lr)
    return list(improve(who, recipe, plan, config, Memory(KLCoefficient(0.3)), LoopState()))


def recipe(kind: str = "gae", **changes: Any) -> Recipe:
    sampling = Sampling(n=3, max_new_tokens=7, temperature=1.0)
    credit = Credit(kind=kind, gamma=0.97, lam=0.9, kl_estimator=changes.pop("estimator", "k1"))
    return replace(Recipe(sampling=sampling, credit=credit, epochs=1), **changes)


def plain_answers(who: Actors, how: Recipe) -> list[dict[str, Any]]:
    """Every answer of the first step with its numbers, from plain forward passes over one sequence each."""
    found = []
    for task, group in zip(tasks(), draw(who.sampler, tasks(), how.sampling, seed=step_seed(3, 1)), strict=True):
        for sample in group:
            ids = np.concatenate([task.ids, sample.ids]).astype(np.int64)  # type: ignore[list-item]
            whole, at = torch.from_numpy(ids)[None], len(task.ids)
            logits, states = both(who.policy.inner, whole)
            with torch.no_grad():
                other = both(who.reference.policy.inner, whole)[0]  # type: ignore[union-attr]
            target = whole[0, at:]
            rows = torch.arange(len(target))
            value = states[at - 1 : -1] @ who.critic.head.weight + who.critic.head.bias  # type: ignore[union-attr]
            found.append({
                "logp": logits[at - 1 : -1].log_softmax(-1)[rows, target],
                "entropy": torch.distributions.Categorical(logits=logits[at - 1 : -1]).entropy(),
                "reference": other[at - 1 : -1].log_softmax(-1)[rows, target], "value": value, "task": task.id,
                "score": float(CountsVowels().score([Answered(id="", prompt="", answer=sample.text)])[0]),
            })  # fmt: skip
    return found


def both(model: Any, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    states = model.model(whole).last_hidden_state[0]
    return model.lm_head(states), states


def by_hand(answers: list[dict[str, Any]], estimator: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Policy and value loss at the first update, where π is π_old and V is V_old."""
    advantages, returns = [], []
    for a in answers:
        u = (a["logp"] - a["reference"]).tolist()
        kl = u if estimator == "k1" else [math.exp(-x) - 1 + x for x in u]
        rewards = [-0.3 * x for x in kl]
        rewards[-1] += a["score"]
        values, following, own = a["value"].tolist(), 0.0, []
        for t in reversed(range(len(rewards))):
            after = values[t + 1] if t + 1 < len(values) else 0.0
            following = rewards[t] + 0.97 * after - values[t] + 0.97 * 0.9 * following
            own.insert(0, following)
        advantages += own
        returns += [x + v for x, v in zip(own, values, strict=True)]
    mean = sum(advantages) / len(advantages)
    spread = math.sqrt(sum((x - mean) ** 2 for x in advantages) / len(advantages) + 1e-8)
    white = torch.tensor([(x - mean) / spread for x in advantages], dtype=torch.float64)
    logp, value = (torch.cat([a[name] for a in answers]) for name in ("logp", "value"))
    policy = -(white * (logp - logp.detach()).exp()).mean()
    return policy, 0.5 * (value - torch.tensor(returns, dtype=torch.float64)).square().mean()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_losses_and_gradients_of_a_step_are_those_computed_apart(estimator: str) -> None:
    weights = Weights(value=0.5, entropy=0.01)
    how = recipe(estimator=estimator)
    who = actors(weights)
    answers = plain_answers(who, how)
    policy, value = by_hand(answers, estimator)
    entropy = torch.cat([a["entropy"] for a in answers]).mean()
    parameters = [*who.policy.model.parameters(), *who.critic.head.parameters()]  # type: ignore[union-attr]
    wanted = torch.autograd.grad(policy + 0.5 * value - 0.01 * entropy, parameters)
    policy, value, entropy = policy.detach(), value.detach(), entropy.detach()
    norm = math.sqrt(sum(float(g.square().sum()) for g in wanted[:-2]))
    (step,) = run(who, how)
    assert step.metrics["loss/policy"] == pytest.approx(policy.item(), abs=1e-7)
    assert step.metrics["loss/value"] == pytest.approx(0.5 * value.item(), rel=1e-7)
    assert step.metrics["loss/entropy"] == pytest.approx(-0.01 * entropy.item(), rel=1e-7)
    assert step.metrics["entropy"] == pytest.approx(entropy.item(), rel=1e-7)
    assert step.metrics["grad_norm"] == pytest.approx(norm, rel=1e-6)
    kl = sum(float((a["logp"] - a["reference"]).detach().sum()) for a in answers) / len(answers)
    assert step.metrics["kl"] == pytest.approx(kl, rel=1e-6)
    assert step.metrics["score"] == pytest.approx(np.mean([a["score"] for a in answers]))
    assert step.metrics["ratio/first"] == pytest.approx(1.0, abs=1e-7)
    assert step.metrics["ratio/largest"] == pytest.approx(1.0, abs=1e-6)
    assert step.metrics["sampler/largest"] < 1e-5  # log-probabilities when sampling are kept in fp32 or better


@pytest.mark.parametrize("kind", ["gae", "rloo", "grpo", "reinforce"])
def test_cutting_a_minibatch_changes_nothing(kind: str) -> None:
    curves = []
    for micro in (None, 1, 3):
        config = CONFIG.model_copy(update={"micro_batch": micro})
        weights = Weights(value=0.5 if kind == "gae" else 0.0, entropy=0.01, kl=0.05, by_answer=kind == "grpo")
        who = actors(weights, critic=kind == "gae")
        how = recipe(kind, epochs=2, minibatches=2)
        curves.append([s.metrics for s in run(who, how, steps=2, lr=1e-3, config=config)])
    for other in curves[1:]:
        for a, b in zip(curves[0], other, strict=True):
            assert {k: a[k] for k in a} == pytest.approx(dict(b), rel=1e-6, abs=1e-7, nan_ok=True)


def test_models_that_cannot_share_prompts_learn_the_same() -> None:
    """Rows of their own instead of a shared prompt: the same loss and gradient."""
    steps = []
    for layout in ("shared", "rows"):
        who = actors(Weights(value=0.5))
        policy = Policy(who.policy.model, 0, layout)
        objective = PolicyObjective(policy, who.critic, ppo_clip, (0.2, 0.2), Weights(value=0.5))
        sampler = LocalSampler(policy, tiny_tokenizer())
        steps += run(replace(who, policy=policy, objective=objective, sampler=sampler), recipe())
    shared, rows = ({k: v for k, v in s.metrics.items() if k != "tokens"} for s in steps)
    assert shared == pytest.approx(rows, rel=1e-6, abs=1e-7)
    assert steps[0].metrics["tokens"] < steps[1].metrics["tokens"]


@pytest.mark.parametrize("kind", ["gae", "rloo", "grpo", "reinforce"])
def test_the_score_rises(kind: str) -> None:
    who = actors(Weights(value=0.5 if kind == "gae" else 0.0), critic=kind == "gae")
    steps = run(replace(who, reference=None), recipe(kind, epochs=2), steps=25, lr=3e-3)
    first, last = (np.mean([s.metrics["score"] for s in part]) for part in (steps[:5], steps[-5:]))
    assert last > first + 0.5


def test_the_passes_end_when_the_step_is_too_long() -> None:
    (long,) = run(actors(Weights()), recipe(epochs=6), lr=1e-2)
    (short,) = run(actors(Weights()), recipe(epochs=6, step_kl=1e-4), lr=1e-2)
    assert long.metrics["updates"] == 6
    assert short.metrics["updates"] == 2  # the first update is at KL 0
    assert long.metrics["clip/high"] + long.metrics["clip/low"] > 0


def test_warming_the_critic_leaves_the_policy_alone() -> None:
    who = actors(Weights(value=0.5))
    before = {n: p.detach().clone() for n, p in who.policy.model.named_parameters()}
    head = who.critic.head.weight.detach().clone()  # type: ignore[union-attr]
    frozen = replace(who, optimizer=who.optimizer)
    who.policy.model.requires_grad_(False)
    run(frozen, recipe(value_warmup=1))
    assert all(torch.equal(p, before[n]) for n, p in who.policy.model.named_parameters())
    assert not torch.equal(who.critic.head.weight, head)  # type: ignore[union-attr]


def test_equal_scores_end_the_run_with_a_reason() -> None:
    class Same:
        identity = "same"

        def score(self, answers: Any) -> np.ndarray:
            return np.full(len(answers), 2.5)

    who = replace(actors(Weights(), critic=False), judge=Same())
    with pytest.raises(MidStepError, match=r"step 5: for 5 steps every answer was given the same score, 2\.5"):
        run(who, recipe("rloo"), steps=9)


def test_a_ratio_that_is_not_one_is_refused() -> None:
    who = actors(Weights(), critic=False)
    other = tiny_model(seed=5).double()
    wrong = PolicyObjective(Policy(other, 0), None, ppo_clip, (0.2, 0.2), Weights())
    with pytest.raises(MidStepError, match="ratio before the first update"):
        run(replace(who, objective=wrong), recipe("rloo"))


def test_a_prompt_that_is_there_twice_is_answered_anew() -> None:
    who, sampling = actors(Weights(), critic=False), Sampling(n=2, max_new_tokens=12)
    one, other = tasks(2)
    first, _, again = draw(who.sampler, [one, other, one], sampling, seed=5)
    assert [s.text for s in first] == [s.text for s in draw(who.sampler, [one], sampling, seed=5)[0]]
    assert {s.text for s in first}.isdisjoint(s.text for s in again)
    assert {s.prompt for s in again} == {one.id}
