"""Online and iterative preference learning: any pairwise loss on pairs of the model's own answers.

for each round:
    answers    ~ π(· | prompts)                        n a prompt
    pairs      = the better and the worse by score     ties give none
    ρ          = log-probabilities of the pairs under the reference, once
    for step of the round:
        loss   = mean of ℓ(π, ρ) over a batch of pairs;  step
    reference  = as it was, or the policy now, or a moving average of it

Online DPO (Guo et al. 2024, arXiv 2402.04792): a round is one step. Iterative DPO (Xiong et al. 2023, arXiv 2312.11456;
Dong et al. 2024, arXiv 2405.07863): a few rounds of many steps.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trueup.config import TrainConfig
from trueup.data.order import batch_at, micro_batches
from trueup.data.pairing import Candidate, Paired, Pairing, pair_up
from trueup.data.render import CompletionTokens, PairTokens
from trueup.errors import MidStepError
from trueup.feedback.base import Scorer
from trueup.feedback.ranking import ranked
from trueup.models.layout import Branches
from trueup.models.reference import Reference, ReferenceFigures, group_key
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sample, Sampling
from trueup.train.answers import answer_metrics, defined, repeats
from trueup.train.loop import LoopState, Plan, stop_if_lost, take_step
from trueup.train.optim import AnyOptimizer, learning_rate
from trueup.train.ppo import answered, draw, step_seed
from trueup.train.preference import PreferenceObjective, branches_of
from trueup.train.rollout import Task
from trueup.types import Step

log = logging.getLogger(__name__)

BARREN = 5  # rounds in a row without a single pair
SHOWN = 4


class Stored:
    """Reference log-probabilities that were computed at the start of a round.

    Attributes:
        values: group key -> summed log-probabilities of the branches, and of their common length.
    """

    def __init__(self, identity: str, device: torch.device) -> None:
        self.identity, self.device = identity, device
        self.values: dict[str, tuple[list[float], list[float]]] = {}

    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        """As they were."""
        kept = [self.values[group_key(g)] for g in groups]
        logprob, shared = (torch.tensor([x for v in kept for x in v[k]], device=self.device) for k in (0, 1))
        return ReferenceFigures(logprob, shared if common else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The numbers of the algorithm.

    Attributes:
        prompts: of a round.
        steps: optimizer steps of a round.
        batch: pairs of a step; None: all pairs of the round.
        sampling, pairing: how answers are drawn and paired.
        reference: ``fixed``: the start; ``round``: the policy at the start of the round; ``ema``: a moving average.
        decay: of the moving average, a round.
    """

    prompts: int
    steps: int
    batch: int | None
    sampling: Sampling
    pairing: Pairing
    reference: str = "fixed"
    decay: float = 0.5


@dataclass(slots=True)
class Buffer:
    """What a run remembers of its rounds.

    Attributes:
        round: number of the round whose pairs these are; 0: none yet.
        pairs: (prompt id, prompt ids, chosen ids, rejected ids, score difference).
        reference: as :class:`Stored`.
        figures: of the round's sampling.
        table: a line for each finished round.
        first: held-out scores before the first round.
        barren: rounds in a row without pairs.
    """

    round: int = 0
    pairs: list[list[Any]] = field(default_factory=list[list[Any]])
    reference: dict[str, Any] = field(default_factory=dict[str, Any])
    figures: dict[str, float] = field(default_factory=dict[str, float])
    table: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    first: list[float] = field(default_factory=list[float])
    barren: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def take(self, value: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_json`, in place."""
        for name, kept in value.items():
            setattr(self, name, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """Everyone who takes part.

    Attributes:
        sampler: the policy as a sampler.
        judge: the scorer.
        objective: a pairwise loss whose reference is ``stored`` (or none).
        optimizer: of the policy.
        start: the reference at the start; None where the loss needs none.
        stored: what the objective reads.
        average: moving average of the weights by name; empty unless it is the reference.
    """

    sampler: LocalSampler
    judge: Scorer
    objective: PreferenceObjective
    optimizer: AnyOptimizer
    start: Reference | None
    stored: Stored
    average: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])


def learn_in_rounds(
    players: Players,
    rounds: Rounds,
    plan: Plan[Task],
    config: TrainConfig,
    buffer: Buffer,
    state: LoopState,
    close: Callable[[int], Mapping[str, float]] | None = None,
) -> Iterator[Step]:
    """Yields one :class:`Step` after each optimizer step; ``plan.total`` is rounds times steps.

    Args:
        players: who takes part.
        rounds: the numbers.
        plan: ``batch(round)`` are the prompts of a round.
        config: optimisation.
        buffer: the memory; filled at the start of a round.
        state: of the loop.
        close: called with the round's number after its last step; its figures join that step's.

    Raises:
        MidStepError: five rounds in a row gave no pair.
        TrainingError: three non-finite steps in a row.
        ScoringError: an answer could not be scored; no weight was changed for it.
    """
    while state.step < plan.total:
        index = state.step + 1
        number, place = (index - 1) // rounds.steps + 1, (index - 1) % rounds.steps
        begun = time.perf_counter()
        shown: list[dict[str, Any]] = []
        if buffer.round != number:
            shown = fill(players, rounds, plan.batch(number), config, buffer, number)
        players.stored.values = {k: (v[0], v[1]) for k, v in buffer.reference.items()}
        metrics: dict[str, float] = {"loss": 0.0, "round": float(number), **buffer.figures}
        batch = _batch(buffer, rounds, config.seed, place)
        skipped = False
        if batch:
            rate = state.lr_scale * learning_rate(config, plan.peak_lr, index, plan.total)
            taken = take_step(players.objective, players.optimizer, batch, config, state, index, rate)
            skipped = taken.skipped
            metrics |= {**taken.metrics, "grad_norm": taken.norm, "lr": rate, "tokens": float(taken.tokens)}
        state.step = index
        if close is not None and place == rounds.steps - 1:
            metrics |= close(number)
        seconds = time.perf_counter() - begun
        yield Step(
            index=index,
            metrics=metrics,
            rows=tuple(p.id for p in batch),
            timings={"seconds": seconds, "sampled_tokens_per_second": players.sampler.speed.tokens_per_second},
            skipped=skipped,
            samples=tuple(shown),
        )
        stop_if_lost(state, index, [p.id for p in batch])


def fill(
    players: Players, rounds: Rounds, tasks: Sequence[Task], config: TrainConfig, buffer: Buffer, number: int
) -> list[dict[str, Any]]:
    """Samples, scores and pairs for a round, and looks the pairs up under the reference; some answers to show."""
    groups = draw(players.sampler, tasks, rounds.sampling, seed=step_seed(config.seed, number))
    said, spread = ranked(players.judge, [[answered(t, s) for s in g] for t, g in zip(tasks, groups, strict=True)])
    scores = np.stack([r.scores for r in said])
    unscored = Counter(reason for r in said for reason in r.reasons if reason)
    for reason, count in unscored.items():
        log.warning("round %d: %d answers are left out, unscored: %s", number, count, reason)
    found = [
        pair_up([_candidate(s, x) for s, x in zip(group, row, strict=True)], rounds.pairing, number * len(tasks) + i)
        for i, (group, row) in enumerate(zip(groups, scores, strict=True))
    ]
    buffer.round, buffer.pairs = number, _pairs(tasks, groups, scores, found)
    buffer.figures = _figures(groups, scores, found) | answer_metrics(groups, scores.ravel())
    buffer.figures |= defined({"score/disagreement": spread})
    if unscored:
        buffer.figures["score/unscored"] = float(np.isnan(scores).mean())
    buffer.figures |= repeats([t.id for t in tasks], [t.ids.tobytes() for t in tasks])
    buffer.barren = 0 if buffer.pairs else buffer.barren + 1
    if not buffer.pairs:
        why = ", ".join(f"{reason}: {n}" for reason, n in Counter(p.reason for p in found).items())
        log.warning("round %d: none of %d prompts gave a pair (%s): nothing is learnt from it", number, len(tasks), why)
        if buffer.barren == BARREN:
            raise MidStepError(f"round {number}: {BARREN} rounds in a row gave no pair ({why}); look at samples.jsonl")
    buffer.reference = _look_up(players, rounds, [tokens_of(p) for p in buffer.pairs], config)
    flat = [(s, x) for group, row in zip(groups, scores, strict=True) for s, x in zip(group, row, strict=True)]
    return [
        {"row": s.prompt, "round": number, "answer": s.text, "score": float(x), "finish": s.finish}
        for s, x in flat[:SHOWN]
    ]


def _candidate(sample: Sample, score: float) -> Candidate:
    assert sample.ids is not None
    return Candidate(text=sample.text, score=float(score), length=len(sample.ids))


def _pairs(
    tasks: Sequence[Task], groups: Sequence[Sequence[Sample]], scores: np.ndarray, found: Sequence[Paired]
) -> list[list[Any]]:
    return [
        [f"{t.id}/{k}", t.ids.tolist(), _ids(group[better]), _ids(group[worse]), float(row[better] - row[worse])]
        for t, group, row, paired in zip(tasks, groups, scores, found, strict=True)
        for k, (better, worse) in enumerate(paired.pairs)
    ]


def _ids(sample: Sample) -> list[int]:
    assert sample.ids is not None
    return sample.ids.tolist()


def _figures(groups: Sequence[Sequence[Sample]], scores: np.ndarray, found: Sequence[Paired]) -> dict[str, float]:
    lengths = [len(_ids(s)) for group in groups for s in group]
    longer = [
        float(len(_ids(group[b])) > len(_ids(group[w])))
        for group, paired in zip(groups, found, strict=True)
        for b, w in paired.pairs
    ]
    told = scores[~np.isnan(scores)]
    figures = {"score": float(told.mean()), "score/std": float(told.std())} if told.size else dict[str, float]()
    figures |= {
        "pairs": float(sum(len(p.pairs) for p in found)),
        "prompts_without_pair": float(np.mean([not p.pairs for p in found])),
        "length": float(np.mean(lengths)),
        "truncated": float(np.mean([s.finish == "length" for group in groups for s in group])),
    }
    return figures | ({"longer_won": float(np.mean(longer))} if longer else {})


def tokens_of(pair: Sequence[Any]) -> PairTokens:
    """A pair of the buffer as tokens."""
    name, prompt, *sides = pair[:4]
    made = []
    for side in sides:
        ids = np.array([*prompt, *side], dtype=np.int32)
        made.append(CompletionTokens(id=name, ids=ids, mask=np.arange(len(ids)) >= len(prompt)))
    return PairTokens(id=name, chosen=made[0], rejected=made[1], shared=len(prompt))


@torch.no_grad()
def _look_up(players: Players, rounds: Rounds, pairs: Sequence[PairTokens], config: TrainConfig) -> dict[str, Any]:
    """Reference log-probabilities of the round's pairs by group key."""
    if players.start is None or not pairs:
        return {}
    kept: dict[str, Any] = {}
    with reference_of(players, rounds) as reference:
        for part in micro_batches([len(p.chosen.ids) + len(p.rejected.ids) for p in pairs], None, config.micro_tokens):
            groups = [branches_of(pairs[i]) for i in part]
            figures = reference.sequences(groups, common=True)
            assert figures.common is not None
            sums, common = figures.logprob.tolist(), figures.common.tolist()
            for k, group in enumerate(groups):
                kept[group_key(group)] = [sums[2 * k : 2 * k + 2], common[2 * k : 2 * k + 2]]
    return kept


@contextlib.contextmanager
def reference_of(players: Players, rounds: Rounds) -> Iterator[Reference]:
    """The reference of the round: the start, the policy as it is, or the moving average put in its place meanwhile."""
    if rounds.reference == "fixed":
        assert players.start is not None
        yield players.start
        return
    policy = players.objective.policy
    named = dict(policy.model.named_parameters())
    kept = {name: named[name].detach().clone() for name in players.average}
    for name, mean in players.average.items():
        mean.lerp_(kept[name].to(mean.dtype), 1 - rounds.decay)
        named[name].data.copy_(mean)
    try:
        yield _Now(policy)
    finally:
        for name, weight in kept.items():
            named[name].data.copy_(weight)


class _Now:
    """The policy with the weights it has."""

    identity = "the policy at the start of the round"

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def sequences(self, groups: Sequence[Branches], *, common: bool = False) -> ReferenceFigures:
        figures = self.policy.sequences(self.policy.layout(groups), common=common)
        return ReferenceFigures(figures.logprob, figures.common)


def _batch(buffer: Buffer, rounds: Rounds, seed: int, place: int) -> list[PairTokens]:
    """The pairs of a step of the round; a round with few pairs goes over them again."""
    count = len(buffer.pairs)
    if rounds.batch is None or count == 0:
        return [tokens_of(p) for p in buffer.pairs]
    size = min(rounds.batch, count)
    return [tokens_of(buffer.pairs[i]) for i in batch_at(count, size, step_seed(seed, buffer.round), place)]


def win_rate(scores: Sequence[float], first: Sequence[float]) -> float:
    """Share of prompts answered better than before the first round; ties count half."""
    pairs = list(zip(scores, first, strict=True))
    return float(np.mean([1.0 if a > b else 0.5 * (a == b) for a, b in pairs]))


def held_out(
    players: Players, sampling: Sampling, tasks: Sequence[Task], seed: int
) -> tuple[list[list[Sample]], np.ndarray]:
    """One answer to each held-out prompt and its score, drawn alike every time."""
    groups = draw(players.sampler, tasks, replace(sampling, n=1), seed=seed)
    pairs = [answered(t, g[0]) for t, g in zip(tasks, groups, strict=True)]
    return groups, np.asarray(players.judge.score(pairs), dtype=np.float64)
