"""How far a policy has gone from its reference, and how sure of itself it is, on its own answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trueup.data.order import micro_batches
from trueup.evals.figure import Figure, mean_figure, renamed
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.models.reference import TokenReference
from trueup.ops.kl import k1, k3


@torch.no_grad()
def drift_figures(
    policy: Policy,
    reference: TokenReference | None,
    answers: Sequence[Branches],
    prompts: Sequence[str],
    *,
    micro_tokens: int = 4096,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """KL to the reference and entropy, over answers that the policy drew.

    With u_t = log π(y_t) − log ρ(y_t): ``kl_k1`` = Σ_t u_t and ``kl_k3`` = Σ_t (e^(−u_t) − 1 + u_t), nats an answer;
    ``kl_per_token`` = Σ u / number of tokens; ``entropy`` = mean −Σ_v π log π, nats a token. Both estimate KL(π ‖ ρ)
    without bias only for answers drawn from π itself, at temperature 1 and unfiltered.

    Args:
        policy: π.
        reference: ρ; None: only ``entropy`` is given.
        answers: one group a prompt, its answers as branches, their tokens masked.
        prompts: the cluster of each group, ``[len(answers)]``.
        micro_tokens: tokens at once.
        seed: of the intervals.

    Raises:
        ValueError: no answers, or lengths that differ.
    """
    if not answers or len(answers) != len(prompts):
        raise ValueError(f"drift needs answers and one prompt a group, got {len(answers)} and {len(prompts)}")
    names: list[str] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("k1", "k3", "entropy", "tokens")}
    sizes = [len(g.prefix) + sum(map(len, g.branches)) for g in answers]
    for part in micro_batches(sizes, None, micro_tokens):
        groups = [answers[i] for i in part]
        layout = policy.layout(groups)
        own = policy.tokens(layout, extras=True)
        assert own.entropy is not None
        other = own.logprob if reference is None else reference.tokens(groups).to(own.logprob.device)
        ratio = own.logprob.double() - other.double()
        count = len(layout.lengths)
        for name, values in (("k1", k1(ratio)), ("k3", k3(ratio)), ("entropy", own.entropy.double())):
            sums = np.bincount(layout.sequence.cpu().numpy(), values.cpu().numpy(), minlength=count)
            columns[name].append(sums)
        columns["tokens"].append(layout.lengths.double().cpu().numpy())
        names += [prompts[i] for i in part for _ in answers[i].branches]
    figures = _figures({name: np.concatenate(values) for name, values in columns.items()}, names, seed)
    return figures if reference is not None else figures[-1:]


def _figures(sums: dict[str, np.ndarray], clusters: Sequence[str], seed: int) -> tuple[Figure, ...]:
    tokens = sums["tokens"]
    first = mean_figure("kl_k1", sums["k1"], clusters, note="nats an answer", seed=seed)
    if first.high < 0:  # no distribution is nearer than itself: the answers are not this policy's
        first = renamed(
            first, "kl_k1", "nats an answer; below 0: these answers were not drawn from this policy as it is"
        )
    floor = (0.0, np.inf)
    return (
        first,
        mean_figure("kl_k3", sums["k3"], clusters, bounds=floor, note="nats an answer", seed=seed),
        mean_figure(
            "kl_per_token", sums["k1"] / tokens, clusters, weights=tokens, note="nats a token (k1)", seed=seed
        ),
        mean_figure(
            "entropy", sums["entropy"] / tokens, clusters, weights=tokens, bounds=floor, note="nats a token", seed=seed
        ),
    )  # fmt: skip
