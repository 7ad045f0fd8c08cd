"""How each fault of benchmarks/faults.py is planted: by putting a spoilt part in place of a sound one, for one run."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fault_world as world
import numpy as np
import torch

from trueup.data.render import CompletionTokens, PairTokens
from trueup.models.reference import ReferenceFigures
from trueup.models.tiny import EOS, tiny_tokenizer
from trueup.recipes import build, rollouts
from trueup.train import loop, optim, ppo
from trueup.train.loop import Plan


@dataclass(slots=True)
class Clock:
    """The step that is being taken."""

    step: int = 1


@contextlib.contextmanager
def replaced(place: Any, name: str, part: Any) -> Iterator[None]:
    sound = getattr(place, name)
    setattr(place, name, part)
    try:
        yield
    finally:
        setattr(place, name, sound)


def scored_by(function: Callable[[str, int], float], clock: Clock) -> Any:
    """The world's scorer in place of the one that the settings name."""
    return replaced(rollouts, "scorer_for", lambda _: world.Scores("world", function, lambda: clock.step))


def sound(text: str, _step: int) -> float:
    return world.quality(text)


def plain(clock: Clock, _begins: int) -> Any:
    return scored_by(sound, clock)


def likes_length(clock: Clock, begins: int) -> Any:
    return scored_by(lambda t, s: world.quality(t) if s < begins else 0.2 * world.words_in(t), clock)


def likes_a_phrase(clock: Clock, begins: int) -> Any:
    return scored_by(lambda t, s: world.quality(t) if s < begins else world.phrase_share(t), clock)


def gives_nan(clock: Clock, begins: int) -> Any:
    """Every third step, so that the run does not end by its own rule."""

    def score(text: str, step: int) -> float:
        return float("nan") if step >= begins and (step - begins) % 3 == 0 else world.quality(text)

    return scored_by(score, clock)


def leaps(clock: Clock, begins: int) -> Any:
    def rate(config: Any, peak: float, step: int, total: int) -> float:
        return optim.learning_rate(config, peak, step, total) * (100.0 if step >= begins else 1.0)

    del clock
    return replaced(loop, "learning_rate", rate)


class Moving:
    """A reference that is the policy as it is."""

    identity = "itself"

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    @torch.no_grad()
    def sequences(self, groups: Any, *, common: bool = False) -> ReferenceFigures:
        figures = self.policy.sequences(self.policy.layout(groups), common=common)
        return ReferenceFigures(figures.logprob, figures.common)


def reference_is_policy(clock: Clock, begins: int) -> Any:
    del clock, begins
    return replaced(build, "open_reference", lambda _config, _method, policy, *_: Moving(policy))


@contextlib.contextmanager
def stale(clock: Clock, begins: int) -> Iterator[None]:
    """Answers come from the weights of four steps ago."""
    fresh, weights = ppo.draw, deque[dict[str, Any]](maxlen=5)

    def draw(sampler: Any, tasks: Any, sampling: Any, *, seed: int) -> Any:
        model = sampler.policy.model
        weights.append({n: p.detach().clone() for n, p in model.state_dict().items()})
        if clock.step < begins:
            return fresh(sampler, tasks, sampling, seed=seed)
        model.load_state_dict(weights[0])
        answers = fresh(sampler, tasks, sampling, seed=seed)
        model.load_state_dict(weights[-1])
        return answers

    with plain(clock, begins), replaced(ppo, "draw", draw):
        yield


@contextlib.contextmanager
def greedy(clock: Clock, begins: int) -> Iterator[None]:
    fresh = ppo.draw

    def draw(sampler: Any, tasks: Any, sampling: Any, *, seed: int) -> Any:
        collapsed = replace(sampling, temperature=0.0) if clock.step >= begins else sampling
        return fresh(sampler, tasks, collapsed, seed=seed)

    with plain(clock, begins), replaced(ppo, "draw", draw):
        yield


def spoilt_rows(begins: int, spoil: Callable[[PairTokens, random.Random], PairTokens]) -> Any:
    """Rows of every batch from a step on go through ``spoil``."""
    made = build.plan_for

    def plan_for(config: Any, method: Any, rows: Sequence[Any]) -> Plan[Any]:
        plan = made(config, method, rows)

        def batch(step: int) -> list[Any]:
            rng = random.Random(config.train.seed * 1000 + step)
            return [spoil(r, rng) if step >= begins else r for r in plan.batch(step)]

        return Plan(plan.total, batch, plan.peak_lr)

    return replaced(build, "plan_for", plan_for)


def swapped(clock: Clock, begins: int) -> Any:
    def spoil(pair: PairTokens, rng: random.Random) -> PairTokens:
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen) if rng.random() < 0.3 else pair

    del clock
    return spoilt_rows(begins, spoil)


def other_template(clock: Clock, begins: int) -> Any:
    """Turns as ``[INST] ... [/INST] ... </s>`` instead of the model's own roles and end."""
    tokenizer: Any = tiny_tokenizer()

    def ids(text: str) -> np.ndarray:
        return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def spoil(pair: PairTokens, rng: random.Random) -> PairTokens:
        del rng
        asked = tokenizer.decode(pair.chosen.ids[: pair.shared], skip_special_tokens=True)
        prefix = ids(f"[INST] {asked.removeprefix('user').removesuffix('assistant' + chr(10)).strip()} [/INST]")
        sides = []
        for side in (pair.chosen, pair.rejected):
            words = [int(i) for i in side.ids[pair.shared :] if i != EOS]
            whole = np.concatenate([prefix, np.array(words, dtype=np.int32), ids("</s>")])
            sides.append(CompletionTokens(id=side.id, ids=whole, mask=np.arange(len(whole)) >= len(prefix)))
        return replace(pair, chosen=sides[0], rejected=sides[1], shared=len(prefix))

    del clock
    return spoilt_rows(begins, spoil)


PLANTS: dict[str, Callable[[Clock, int], Any]] = {
    "none": plain,
    "length-hackable reward": likes_length,
    "constant-phrase exploit": likes_a_phrase,
    "learning rate x100": leaps,
    "KL coefficient 0": plain,
    "reference moves": reference_is_policy,
    "stale rollouts": stale,
    "30 % swapped labels": swapped,
    "duplicated prompts": plain,
    "truncating length limit": plain,
    "wrong chat template": other_template,
    "NaN in the reward": gives_nan,
    "collapsed sampler": greedy,
}
