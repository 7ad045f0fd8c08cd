"""Writes docs/methods/*.md: the prose below, and tables read from the registries so that they cannot drift.

python scripts/method_pages.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED, Loss
from trueup.losses.options import Options
from trueup.tensors import Pairs, Scores

OUT = Path(__file__).parents[1] / "docs" / "methods"
ALL: dict[str, Loss] = {**SUPERVISED, **REWARD, **PREFERENCE, **UNPAIRED, **POLICY}
ROWS = {"Pairs": "pairs", "Labels": "labelled answers", "Scores": "pairs", "Likelihoods": "answers",
        "Actions": "prompts"}  # fmt: skip

# name -> (the idea, when to use it, when not)
PROSE = {
    "sft": (
        "Show the model good answers and raise their probability, token by token. Only the assistant's turns of the completion are trained on; the prompt is context.",
        "First, whenever the model does not yet answer in the form you want: the other methods sharpen a model, they do not teach it a format.",
        "You know which answers are bad and want that to count: the loss never sees them. More than two or three passes over a small set memorise it (watch the held-out loss).",
    ),
    "reward": (
        "Put a scalar head on the last token and train it so that the chosen answer of each pair scores above the rejected one. Only differences of scores are determined; `centring` fixes their level.",
        "Something else will use the scores: PPO, best-of-N, building new pairs.",
        'You only want the aligned model: dpo gets there without it. Before trusting the scores compare the held-out accuracy with the rule "the shorter (or longer) answer is better".',
    ),
    "dpo": (
        "The reward that a KL-leashed optimal policy implies is β times its log-ratio to the reference; put into the Bradley-Terry model this gives a loss on pairs with no reward model and no sampling. `label_smoothing` assumes that a share of the labels is flipped, and then there is a finite best margin.",
        "The first thing to try with pairs, on a model that already answers in the form of the data.",
        "Few or very clear pairs, where the margin grows without end (see ipo, or smooth the labels). A reference far from the data: do sft first.",
    ),
    "robust": (
        "DPO made unbiased under random flips of the labels: its expectation over the flips is the loss on clean labels.",
        "The flip rate is known, for instance from rows labelled twice.",
        "The rate is a guess: the correction divides by 1 − 2ε, so near 0.5 little but noise is left. The loss can go below zero and has no lower bound, so it does not say when to stop; dpo with `label_smoothing` does.",
    ),
    "hinge": (
        "A margin of 1 on βΔ: pairs beyond it give no gradient at all.",
        "DPO goes on pulling at pairs that are settled.",
        "Many labels are wrong: every pair short of the margin pulls with the same full force, the hopeless ones too.",
    ),
    "ipo": (
        "Regress the log-ratio difference Δ onto the finite target 1/(2β) instead of pushing it to infinity, so that a deterministic preference does not tear the policy from its reference. β is the paper's τ.",
        "Small sets and clear preferences, where DPO's margin runs away.",
        "Lengths differ much and `average` is off: one target for sums over 20 and over 500 tokens asks very different things of a token. A few pairs with a huge Δ dominate a squared loss.",
    ),
    "exo": (
        "Match the implied preference distribution to a smoothed label in the direction opposite to DPO's cross-entropy: the policy may concentrate on one good answer rather than cover all.",
        "As a mode-seeking alternative to dpo.",
        "Far on the wrong side: σ(βΔ) vanishes and the gradient with it, so pairs that the start gets badly wrong hardly move. Little experience is reported outside its paper.",
    ),
    "nca": (
        "Tell each answer from samples of the reference. The reward of the chosen answer has a best value of its own, βc = log 2, so its absolute likelihood is held up and not only the difference.",
        "dpo lowers the likelihood of the chosen answers too (see `logps/chosen`).",
        "Only the ranking matters: the anchor stands in its way.",
    ),
    "bco": (
        'Train a classifier "chosen or rejected" whose logit is the implied reward.',
        "Pairs whose sides were judged each by itself.",
        "Nearly all answers are good (or bad) in absolute terms: without the paper's shift δ both classes are anchored at zero.",
    ),
    "sppo": (
        "Move the log-ratio of the chosen answer to +1/(2β) and that of the rejected one to −1/(2β): a step of self-play in which the win probabilities are taken as 1 and 0. β is the paper's 1/η.",
        "Rounds of sampling and training, where the reference is the last round's policy and the answers are its own.",
        "Answers that the policy did not write: the targets are derived for its own samples.",
    ),
    "aot": (
        "Compare distributions, not pairs: at every quantile the margins of the policy shall exceed those of the reference.",
        "Large global batches; the sorting runs over all of the batch, however it is cut into micro-batches.",
        "Small batches (one pair is plain dpo), soft labels, or a wish to read the loss of a single row: the k-th number is that of the k-th quantile.",
    ),
    "aot_unpaired": (
        "As aot, with the log-ratios of chosen and rejected sorted separately: the good answers as a crowd shall stand above the bad ones as a crowd.",
        "Chosen and rejected answers that do not belong together, in large global batches.",
        "Real pairs: which answer belongs to which prompt is thrown away.",
    ),
    "apo_zero": (
        "Anchored: raises the log-ratio of the chosen answer and lowers that of the rejected one, each by itself, with forces that fade as either is settled.",
        "The chosen answers are better than what the model writes (from a stronger model, or corrected by hand).",
        "The model already writes better than the chosen answers: apo_down.",
    ),
    "apo_down": (
        "Anchored: lowers both answers, the rejected one more.",
        "The chosen answers are no better than what the model writes and only the difference is to be learnt.",
        "The chosen answers are what you want to see: they become less likely here, by design.",
    ),
    "discopop": (
        "A loss found by a search over programs: logistic and exponential loss, mixed by the margin itself.",
        "As a comparison to dpo.",
        "A start from the reference itself with small steps: it is not convex, and with the defaults its slope has the wrong sign for βΔ between −0.12 and 0.07, so pairs may first settle a little on the wrong side.",
    ),
    "sigmoid_norm": (
        "DPO on log-ratios a token: long answers do not count more, and length cannot be bought.",
        "Chosen and rejected differ much in length.",
        "β is kept at DPO's 0.1: the ratios are smaller by the length, so it hardly moves. Values from 2 to 10 are usual.",
    ),
    "orpo": (
        "SFT and preference in one stage: the likelihood of the chosen answer, plus a term that raises its odds over the rejected one. No reference model.",
        "From a base model, or when memory or time is short.",
        "A model that is already well tuned: without a leash it moves further than under dpo; use fewer steps.",
    ),
    "simpo": (
        "Rank by mean log-probability a token, as generation does, with a target margin γ. No reference model.",
        "Answers got longer under dpo, or no second model fits.",
        "High learning rates or many passes: nothing holds the policy, watch `logps/chosen_per_token` and samples; a small `sft_weight` helps.",
    ),
    "cpo": (
        "DPO under a uniform reference, held by the likelihood of the chosen answer.",
        "Chosen answers of high quality (it was made for translation) and no room for a reference.",
        "Lengths differ: summed log-probabilities favour short answers unless `length_norm` is on.",
    ),
    "kto": (
        "No pairs: each answer is good or bad. A good one gains when its log-ratio rises above the KL of policy and reference, a bad one when it falls below; gains and losses saturate, as in prospect theory.",
        "Thumbs up and down, or very unequal numbers of either.",
        "You have real pairs: dpo learns more from the same rows. Global batches below about 16, where the estimate of the KL is noise.",
    ),
    "apo_zero_unpaired": (
        "KTO with the KL taken as 0: each answer is anchored at the reference.",
        "Labelled single answers when the KL estimate is too noisy, or time is short: it needs no forward passes of mismatched rows.",
        "The policy shall be allowed to drift as a whole: kto moves its anchor along, this does not.",
    ),
    "ppo": (
        "Sample answers, score them, and raise the probability of tokens that did better than a learned value function expected; the clip keeps one batch from moving the policy far, the KL in the reward keeps the whole run near its reference.",
        "A reward model or rule that is worth climbing, several epochs on each batch of answers, and credit within long answers: the value model says which token helped.",
        "Pairs and nothing that scores: dpo. Short answers with one score each: rloo does as well with one model fewer.",
    ),
    "rloo": (
        "The baseline of an answer is the mean reward of the other answers to the same prompt: unbiased, and no value model to train or keep in memory.",
        "The default among the online methods for short answers: `sample.n` of 4 or more, a reward model or rule.",
        "One answer a prompt is all that can be paid for: ppo or reinforce. All answers to a prompt get the same score (`groups/equal` near 1): nothing is learnt.",
    ),
    "grpo": (
        "As rloo, but rewards are divided by the group's standard deviation, so that every prompt with any difference among its answers counts alike; the KL is a term of the loss.",
        "Right-or-wrong rewards (arithmetic, code, format) with 4 to 16 answers a prompt.",
        "Groups with tiny differences: dividing by their deviation blows noise up to full size. Lengths that must not drift: the mean answer by answer favours long wrong answers (`policy.average tokens` does not).",
    ),
    "reinforce": (
        "The plain policy gradient with the batch's mean reward as baseline: no ratio, no clip.",
        "As the measure of what the others add; one pass a batch.",
        "More than one pass over a batch (`policy.epochs`): without a ratio the second pass is biased.",
    ),
}

LEASH = ("0.01 to 0.5", "strength of the leash: the larger, the closer the policy stays to the reference")
TARGET = ("0.01 to 1", "the difference aimed at is 1/(2β): the larger, the closer the policy stays to the reference")
ARGUMENTS: dict[str, tuple[str, str]] = {
    "beta": LEASH,
    "label_smoothing": ("0 to 0.3", "ε, assumed share of flipped labels, below 0.5"),
    "average": ("true, false", "log-ratios a token instead of sums"),
    "tau": ("0.01 to 1", "how sharply the two losses are blended"),
    "gamma": ("0.3 to 1.6", "γ, target margin; the authors' gamma_beta_ratio is γ/β"),
    "alpha": ("0 to 1", "α, weight of the likelihood term"),
    "desirable_weight": ("0.5 to 4", "λD, weight of good rows; keep λD·nD / (λU·nU) in [1, 4/3]"),
    "undesirable_weight": ("0.5 to 4", "λU, weight of bad rows"),
    "centring": ("0 to 0.01", "k, pulls the mean score of a pair to zero"),
    "clip_low": ("0.1 to 0.3", "εl: a ratio below 1 − εl gives no gradient where the advantage is negative"),
    "clip_high": ("0.1 to 0.3", "εh: a ratio above 1 + εh gives no gradient where the advantage is positive"),
}
SPECIAL: dict[str, dict[str, tuple[str, str]]] = {
    "ipo": {"beta": TARGET},
    "sppo": {"beta": ("0.001 to 0.5", TARGET[1])},
    "hinge": {"beta": ("0.05 to 1", "the margin asked of Δ is 1/β: the larger, the closer the policy stays to the reference")},
    "exo": {"label_smoothing": ("1e-4 to 0.1", "ε, above 0: the best margin is log((1−ε)/ε)/β")},
    "robust": {"label_smoothing": ("0.05 to 0.3", "ε, the measured share of flipped labels, below 0.5")},
    "sigmoid_norm": {"beta": ("2 to 10", LEASH[1])},
    "orpo": {"beta": ("0.05 to 0.5", "λ, weight of the odds-ratio term against the likelihood")},
    "simpo": {"beta": ("2 to 10", "scale of the mean log-probabilities: how sharply the ranking is enforced")},
    "cpo": {"beta": ("0.05 to 0.5", "scale of the summed log-probabilities: how sharply the ranking is enforced")},
    "kto": {"beta": ("0.01 to 0.5", "how fast gains saturate: the larger, the closer the policy stays to the reference")},
}  # fmt: skip
OPTIONS = {
    "length_norm": "divide every log-probability by its completion's tokens; β then acts on numbers smaller by the length",
    "ld_alpha": "LD-DPO, 0.3 to 0.9: tokens beyond the common length count this much, in policy and reference (LLaMA-Factory and ms-swift: policy only)",
    "wpo": "weigh pairs by how likely both answers are under the policy, at most 1",
    "reference_free": "take the reference as uniform; saves its memory and time",
    "f_divergence": "reverse_kl (plain), forward_kl, js, or alpha with `alpha_coefficient` (0.5)",
    "sft_weight": "0.01 to 1: add this times the likelihood loss a token of the chosen answer",
}

# family -> metric -> healthy; {start} is computed from the loss
METRICS: dict[str, dict[str, str]] = {
    "Pairs": {
        "loss": "{start}; falls, the held-out one too",
        "rewards/chosen": "{beta}: rises or falls slightly",
        "rewards/rejected": "falls",
        "rewards/margin": "grows and levels off; above 10 with accuracy 1 is overfitting",
        "rewards/accuracy": "{accuracy}; 0.6 to 0.8 held out; ties count half",
        "logps/chosen": "holds; falling as fast as `logps/rejected` is displacement: raise `sft_weight` or `beta`, or lower the rate",
        "logps/rejected": "falls",
        "logps/chosen_per_token": "holds, between −0.5 and −2.5 for chat",
        "logps/rejected_per_token": "falls; below −5 the answers are no longer language",
    },
    "Labels": {
        "loss": "0.5 at the start with weights 1; 0.3 to 0.49 later",
        "rewards/desirable": "rises, or falls less than the other",
        "rewards/undesirable": "falls",
        "desirable_share": "near the share in the data in every batch",
    },
    "Scores": {
        "loss": "near 0.69 at the start; 0.5 to 0.65 held out",
        "accuracy": "0.6 to 0.75 held out on crowd labels; must beat a length rule; ties count half",
        "margin": "grows; over 5 held out is over-confidence",
        "score/chosen": "wanders as a level unless centred",
        "score/rejected": "below `score/chosen`",
    },
    "Likelihoods": {
        "loss": "nats a trained token; falls, 1 to 2.5 for chat; rising held out is memorising",
        "trained_tokens": "trained tokens of the batch; steady",
    },
    "Actions": {
        "loss": "of no meaning by itself; finite",
        "loss/policy": "near 0",
        "score": "mean of the scores after scaling, clipping and penalty; rises, and levels off",
        "score/raw": "the same as the scorer gave it",
        "score/std": "above 0: at 0 no answer is told from another",
        "reward": "score less the KL's cost",
        "kl": "nats an answer against the reference, by k1; grows slowly; above 10 to 20 the answers are elsewhere",
        "kl/k3": "the same by k3, never negative; far from `kl` means few answers or large ratios",
        "kl/se": "standard error of `kl`; a `kl` below −3 of it is a bug",
        "kl/step": "KL of the batch's passes, by k3; below 0.02, above 0.1 is too far",
        "kl_coefficient": "constant, or adapting if `policy.kl_target` is given",
        "entropy": "nats a token; falls slowly; below a quarter of the start is collapse",
        "ratio/first": "1: before the first update policy and old policy are one (a run that differs stops)",
        "ratio": "mean over all updates; within a few hundredths of 1",
        "ratio/largest": "below 10",
        "clip/low": "share of tokens the lower clip acts on; 0 with one update a batch, below 0.3 with more",
        "clip/high": "the same of the upper clip",
        "groups/equal": "share of prompts all of whose answers scored alike; below 0.5 (absent with one answer)",
        "length": "tokens an answer; a rise with the score asks whether the scorer likes length",
        "truncated": "share of answers cut at the limit; below 0.05, or raise `sample.max_new_tokens`",
        "sampler/kl": "between sampling and training passes; below 0.001",
        "sampler/largest": "largest difference of a token's log-probability between them",
        "updates": "optimizer steps taken on the batch",
    },
}
COMMON = {
    "grad_norm": "before clipping; steady, spikes point at odd rows",
    "lr": "as scheduled",
    "tokens": "tokens computed in the step, prompts included",
}
KL = {"kl": "batch estimate before clamping, nats a sequence; small, may be below 0 early, over 50 is drift"}
SUMS = {  # methods that compare means a token: what is logged about sums favours the shorter answer
    "rewards/margin": "of sums, not of the means compared: read its trend",
    "rewards/accuracy": "of sums: low where chosen answers are the longer ones; its rise counts; ties count half",
    "logps/chosen": "holds; falling as fast as `logps/rejected` is displacement: add an `sft_weight` or lower the rate",
    "logps/chosen_per_token": "holds, between −0.5 and −2.5 for chat; rises above `logps/rejected_per_token`",
}
HEALTHY: dict[str, dict[str, str]] = {
    "hinge": {"rewards/margin": "grows to about 1, where the gradient ends"},
    "ipo": {"rewards/margin": "grows to 0.5, the target (unless `average` is on); beyond is noise"},
    "robust": {"loss": "{start}; may go below 0"},
    "sppo": {"rewards/chosen": "{beta}: rises to 0.5, the target", "rewards/rejected": "falls to −0.5",
             "rewards/margin": "grows to 1"},
    "orpo": SUMS,
    "simpo": SUMS,
    "nca": {"rewards/chosen": "{beta}: rises to 0.69 at most, its best value"},
    "apo_zero": {"rewards/chosen": "{beta}: rises"},
    "apo_down": {"rewards/chosen": "{beta}: falls, less than `rewards/rejected`", "logps/chosen": "falls, by design"},
    "cpo": {
        "rewards/accuracy": "{accuracy}, low where chosen answers are the longer ones; its rise counts; ties count half",
        "logps/chosen": "holds; falling as fast as `logps/rejected` is displacement: raise `alpha` or lower the rate",
    },
    "sigmoid_norm": {"rewards/margin": "of sums, not of means: large with the β usual here; read its trend"},
    "ppo": {"loss/value": "falls in the first tenth of a run", "value/mean": "follows `reward`",
            "value/explained_variance": "below 0 at first; above 0.2 after a fifth of the run"},
    "grpo": {"loss/kl": "`kl_coef` times KL, a token; grows slowly"},
    "discopop": {"loss": "{start}; may rise to 0.87 before it falls"},
}  # fmt: skip


def start(name: str) -> str:
    """What the loss is where policy and reference agree, with the default arguments."""
    if not ALL[name].reference:
        return "depends on the model and the answers' length"
    at, length = torch.tensor([-20.0], dtype=torch.float64), torch.tensor([10])
    same = Pairs(policy_chosen=at, policy_rejected=at, reference_chosen=at, reference_rejected=at,
                 chosen_length=length, rejected_length=length)  # fmt: skip
    return f"{ALL[name].fn(same).item():.4g} at the start"


def metrics(name: str) -> dict[str, str]:
    """Metric -> its healthy values, for one method."""
    loss = ALL[name]
    family = {**METRICS[loss.eats.__name__], **HEALTHY.get(name, {})}
    if loss.eats is Pairs:
        beta = "β times the log-ratio" if loss.reference else "β log π, there being no reference"
        accuracy = "0.5 at the start" if loss.reference else "need not start at 0.5"
        family = {m: t.format(start=start(name), beta=beta, accuracy=accuracy) for m, t in family.items()}
    return {**family, **(KL if loss.needs_kl else {}), **COMMON}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rows_read(loss: Loss) -> str:
    """What a method needs of data and models."""
    more = {
        "Scores": ", and `margin` where the rows have one",
        "Pairs": "",
        "Labels": "",
        "Likelihoods": "",
        "Actions": ", and who scores answers (`reward`, docs/rewards.md); settings: `policy.*`, `sample.*`",
    }
    if loss.eats in (Pairs, Scores) and not loss.coupled:
        more[loss.eats.__name__] += "; soft labels (`preference`, the probability that chosen is better) count"
    reference = "A reference policy is needed" if loss.reference else "No reference policy"
    return f"Rows: {ROWS[loss.eats.__name__]}{more[loss.eats.__name__]}. {reference}."


def page(name: str) -> str:
    """One method's page."""
    loss = ALL[name]
    idea, use, avoid = PROSE[name]
    arguments = [
        (f"`{a}`", f"`{default}`", *SPECIAL.get(name, {}).get(a, ARGUMENTS[a])) for a, default in loss.arguments.items()
    ]
    defaults = {f.name: f.default for f in dataclasses.fields(Options)}
    options = [(f"`{o}`", f"`{defaults[o]}`", text) for o, text in OPTIONS.items() if o in loss.options]
    parts = [
        f"# {name}: {loss.title}",
        idea,
        f"    {loss.equation}",
        f"Notation: [README.md](README.md). {rows_read(loss)} Worked example: `trueup losses {name}`.",
        "## When",
        f"**Use it:** {use}",
        f"**Not:** {avoid}",
        "## Arguments (`loss.*`)",
        table(("argument", "default", "usual", "what"), arguments) if arguments else "None.",
        "## Options (`options.*`)",
        table(("option", "default", "what"), options) if options else "None: an option given is an error.",
        "## Logged",
        table(("metric", "healthy"), [(f"`{m}`", text) for m, text in metrics(name).items()]),
        "## Differences from other implementations",
        loss.differences or "None known that changes a number.",
        "## Source",
        loss.source,
    ]
    return "\n\n".join(parts) + "\n"


NOTATION = [
    ("yc, yr; \\|y\\|", "chosen and rejected completion; number of completion tokens"),
    ("πc, πr", "log-probability of yc, yr under the policy, summed over completion tokens"),
    ("ρc, ρr", "the same under the reference"),
    ("c, r, Δ", "c = πc − ρc; r = πr − ρr (for single answers r alone); Δ = c − r"),
    ("lc, lr", "πc/\\|yc\\|, πr/\\|yr\\|: means a token"),
    ("σ, β, ε", "sigmoid; temperature; label smoothing"),
    ("rc, rr, m, k", "scores of a reward model; margin of the row; centring"),
    ("ρ (in ppo), A, R", "ratio of the policy to the one that sampled; advantage; reward of an answer"),
    ("z, λD, λU", "KL estimate of the batch; weights of good and bad rows"),
]


def index() -> str:
    """The table of all methods, with the notation."""
    methods = [
        (f"[{n}]({n}.md)", ROWS[loss.eats.__name__], "yes" if loss.reference else "no", loss.title,
         "`" + loss.equation.replace("|", "\\|") + "`")
        for n, loss in ALL.items()
    ]  # fmt: skip
    parts = [
        "# Methods",
        "Each page: the idea, the equation, when to use it and when not, arguments, options, what is logged and which "
        "values are healthy, how other implementations differ, the source. `trueup losses NAME` tells the short of it.",
        "Where to begin: [sft](sft.md) if the model does not answer in the right form yet; then [dpo](dpo.md) with pairs, "
        "[kto](kto.md) with thumbs up and down, [orpo](orpo.md) without room for a reference; [ipo](ipo.md) or label "
        "smoothing when the margin runs away. With a reward model or a rule instead of pairs: [rloo](rloo.md), "
        "[grpo](grpo.md) for right-or-wrong rewards, [ppo](ppo.md) for long answers.",
        table(("method", "rows", "reference", "what", "loss of a row"), methods),
        "## Notation",
        table(("symbol", "meaning"), NOTATION),
        "## Options of pairwise losses (`options.*`)",
        "Each page says which apply; one that has no effect is an error.",
        table(("option", "what"), [(f"`{o}`", text) for o, text in OPTIONS.items()]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for each in ALL:
        (OUT / f"{each}.md").write_text(page(each), encoding="utf-8")
    (OUT / "README.md").write_text(index(), encoding="utf-8")
