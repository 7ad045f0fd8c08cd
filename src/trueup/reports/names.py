"""What the figures of a run are called, in which unit, and which of them are drawn together.

``docs/metrics.md`` defines each of them; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["up", "down"]

SHARE = "share, 0 to 1"
NATS = "nats an answer"
TOKEN = "nats a token"
SCORER = "the scorer's unit"


@dataclass(frozen=True, slots=True)
class Name:
    """What a figure is called.

    Attributes:
        title: in words.
        unit: of its values.
        better: the direction that is wanted; None: neither in itself.
    """

    title: str
    unit: str
    better: Better | None = None


NAMES: dict[str, Name] = {
    "loss": Name("Loss", "the method's unit", "down"),
    "grad_norm": Name("Gradient norm", "loss a unit move"),
    "lr": Name("Learning rate", "step size"),
    "tokens": Name("Tokens computed", "tokens a step"),
    "skipped": Name("Steps skipped", "true or absent", "down"),
    "trained_tokens": Name("Tokens trained on", "tokens a step"),
    "accuracy": Name("Pairs ranked rightly", SHARE, "up"),
    "margin": Name("Score margin", "logits", "up"),
    "score/chosen": Name("Score of chosen answers", "logits"),
    "score/rejected": Name("Score of rejected answers", "logits"),
    "rewards/chosen": Name("Implicit reward, chosen", "nats times β"),
    "rewards/rejected": Name("Implicit reward, rejected", "nats times β"),
    "rewards/margin": Name("Implicit reward margin", "nats times β", "up"),
    "rewards/accuracy": Name("Preference accuracy", SHARE, "up"),
    "logps/chosen": Name("Log-probability, chosen", NATS),
    "logps/rejected": Name("Log-probability, rejected", NATS),
    "logps/chosen_per_token": Name("Log-probability a token, chosen", TOKEN),
    "logps/rejected_per_token": Name("Log-probability a token, rejected", TOKEN),
    "rewards/desirable": Name("Implicit reward, good answers", "nats times β"),
    "rewards/undesirable": Name("Implicit reward, bad answers", "nats times β"),
    "desirable_share": Name("Good answers in the batch", SHARE),
    "eval/logratio": Name("Log-ratio to the reference, held-out", NATS),
    "eval/desirable": Name("Good answers, held-out", SHARE),
    "kl": Name("KL to the reference", NATS),
    "kl/k3": Name("KL to the reference, k3", NATS),
    "kl/se": Name("Standard error of the KL", NATS),
    "kl/step": Name("KL of one step", TOKEN),
    "kl_coefficient": Name("KL coefficient", "reward a nat"),
    "score": Name("Score", SCORER, "up"),
    "score/raw": Name("Score as given", SCORER, "up"),
    "score/std": Name("Spread of scores", SCORER),
    "reward": Name("Reward", SCORER, "up"),
    "groups/equal": Name("Prompts whose answers scored alike", SHARE, "down"),
    "entropy": Name("Entropy", TOKEN),
    "ratio": Name("Probability ratio, mean", "π / π_old"),
    "ratio/first": Name("Probability ratio before the update", "π / π_old"),
    "ratio/largest": Name("Largest probability ratio", "π / π_old"),
    "clip/low": Name("Clipped below", "share of tokens"),
    "clip/high": Name("Clipped above", "share of tokens"),
    "loss/policy": Name("Loss, policy term", "advantage"),
    "loss/value": Name("Loss, value term", "squared reward"),
    "loss/entropy": Name("Loss, entropy term", TOKEN),
    "loss/kl": Name("Loss, KL term", TOKEN),
    "loss/ptx": Name("Loss, pretraining term", TOKEN),
    "value/mean": Name("Value estimate", SCORER),
    "value/explained_variance": Name("Explained variance of the value", "share", "up"),
    "updates": Name("Updates", "optimizer steps"),
    "length": Name("Length of answers", "tokens"),
    "truncated": Name("Answers cut off", SHARE, "down"),
    "sampler/kl": Name("Sampler against trainer, KL", TOKEN),
    "sampler/largest": Name("Sampler against trainer, largest", "nats"),
    "round": Name("Round", "count"),
    "pairs": Name("Pairs of the round", "count"),
    "prompts_without_pair": Name("Prompts without a pair", SHARE, "down"),
    "longer_won": Name("Longer answer chosen", "share of pairs"),
    "round/score": Name("Score after the round, held-out", SCORER, "up"),
    "round/win_rate": Name("Win rate against the start, held-out", SHARE, "up"),
    "round/length": Name("Length after the round, held-out", "tokens"),
    "round/distinct_2": Name("Distinct word pairs after the round", SHARE),
    "round/pairs": Name("Pairs, by round", "count"),
    "round/kl": Name("KL to the start, held-out", NATS),
    "rows/duplicates": Name("Rows that repeat another of the batch", SHARE, "down"),
    "contradicted": Name("Margin that contradicts the labels", SHARE, "down"),
    "eval/longer_accuracy": Name("What the longer answer would get right", SHARE),
    "rewards/contradicted": Name("Margin that contradicts the labels", SHARE, "down"),
    "logratio/chosen_per_token": Name("Log-ratio to the reference a token, chosen", TOKEN),
    "reference/chosen_per_token": Name("Reference's log-probability a token, chosen", TOKEN),
    "score/length_correlation": Name("Correlation of score and length", "−1 to 1"),
    "score/disagreement": Name("Disagreement of the scorers", SCORER),
    "score/unscored": Name("Answers that the judge could not judge", SHARE, "down"),
    "eval/gold": Name("Second scorer", "the second scorer's unit", "up"),
    "answers/distinct_2": Name("Distinct token pairs", SHARE),
    "answers/repeated": Name("Repetition within answers", SHARE, "down"),
    "answers/shared": Name("Answer shared by other prompts", SHARE, "down"),
    "answers/same": Name("Answers equal to another of the prompt", SHARE),
    "sampler/error": Name("Sampler against trainer, factor", "factor; 1 is equal"),
    "watching_seconds": Name("Time of the monitors", "seconds", "down"),
    "seconds": Name("Time of a step", "seconds", "down"),
    "tokens_per_second": Name("Throughput", "tokens a second", "up"),
    "micro_batches": Name("Micro-batches", "count"),
    "sampling_seconds": Name("Time of sampling", "seconds", "down"),
    "sampled_tokens_per_second": Name("Sampling throughput", "tokens a second", "up"),
}

# held-out figures that results.json names without eval/
_HELD_OUT = {"logratio": NAMES["eval/logratio"], "desirable": NAMES["eval/desirable"], "gold": NAMES["eval/gold"],
             "longer_accuracy": NAMES["eval/longer_accuracy"],
             "distinct_2": Name("Distinct word pairs", SHARE)}  # fmt: skip


def name_of(metric: str) -> Name:
    """The name of a metric; one that is not known here is called what the run calls it."""
    plain = metric.removeprefix("eval/")
    return NAMES.get(metric) or NAMES.get(plain) or _HELD_OUT.get(plain) or Name(metric, "")


@dataclass(frozen=True, slots=True)
class Panel:
    """Metrics that are drawn in one chart.

    Attributes:
        title: of the chart.
        metrics: metric -> its direct label.
    """

    title: str
    metrics: dict[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Charts that answer one question.

    Attributes:
        title: of the group.
        panels: its charts.
        folded: shown on demand only.
    """

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


def _one(metric: str) -> Panel:
    return Panel(NAMES[metric].title, {metric: "training"})


GROUPS: tuple[Group, ...] = (
    Group(
        "What is learnt",
        (
            Panel("Loss", {"loss": "training"}),
            Panel("Score and reward", {"score": "score", "reward": "reward"}),
            Panel("Second scorer", {"eval/gold": "held-out"}),
            Panel("Preference accuracy", {"rewards/accuracy": "training"}),
            Panel("Pairs ranked rightly", {"accuracy": "training"}),
            Panel("Implicit reward margin", {"rewards/margin": "training"}),
            Panel("Implicit reward", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
            Panel("Implicit reward", {"rewards/desirable": "good", "rewards/undesirable": "bad"}),
            Panel("Score margin", {"margin": "training"}),
            Panel("Score of the pair", {"score/chosen": "chosen", "score/rejected": "rejected"}),
            _one("round/score"),
            _one("round/win_rate"),
        ),
    ),
    Group(
        "How far it went",
        (
            Panel("KL to the reference", {"kl": "k1", "kl/k3": "k3"}),
            _one("round/kl"),
            Panel("Log-probability of an answer", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
            Panel(
                "Log-probability a token", {"logps/chosen_per_token": "chosen", "logps/rejected_per_token": "rejected"}
            ),
            Panel("Log-ratio to the reference", {"eval/logratio": "held-out"}),
            _one("kl_coefficient"),
        ),
    ),
    Group(
        "What the answers are like",
        (
            _one("length"),
            _one("truncated"),
            _one("entropy"),
            _one("score/std"),
            _one("score/length_correlation"),
            _one("answers/distinct_2"),
            _one("answers/repeated"),
            _one("answers/shared"),
            _one("round/length"),
            _one("round/distinct_2"),
            _one("longer_won"),
        ),
    ),
    Group(
        "How the training went",
        (
            _one("grad_norm"),
            _one("lr"),
            Panel("Log-ratio a token, chosen", {"logratio/chosen_per_token": "training"}),
            _one("reference/chosen_per_token"),
            _one("rewards/contradicted"),
            _one("contradicted"),
            _one("answers/same"),
            _one("score/disagreement"),
            _one("score/unscored"),
            _one("rows/duplicates"),
            _one("sampler/error"),
            _one("watching_seconds"),
            _one("value/explained_variance"),
            _one("value/mean"),
            Panel("Terms of the loss", {"loss/policy": "policy", "loss/value": "value"}),
            Panel(
                "Terms of the loss, a token", {"loss/entropy": "entropy", "loss/kl": "KL", "loss/ptx": "pretraining"}
            ),
            Panel("Tokens clipped", {"clip/low": "below", "clip/high": "above"}),
            _one("ratio/largest"),
            Panel("Probability ratio", {"ratio": "mean", "ratio/first": "first"}),
            _one("kl/step"),
            _one("kl/se"),
            _one("groups/equal"),
            _one("updates"),
            _one("pairs"),
            _one("prompts_without_pair"),
            _one("sampler/kl"),
            _one("sampler/largest"),
            _one("desirable_share"),
            Panel("Tokens of a step", {"tokens": "computed", "trained_tokens": "trained"}),
            _one("seconds"),
            _one("tokens_per_second"),
            _one("sampled_tokens_per_second"),
        ),
        folded=True,
    ),
)
