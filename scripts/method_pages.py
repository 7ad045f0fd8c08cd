"""Writes docs/methods/*.md: the prose below, and tables read from the registries so that they cannot drift.

python scripts/method_pages.py
"""

from __future__ import annotations

from pathlib import Path

from trueup.losses import PREFERENCE, REWARD, SUPERVISED, UNPAIRED, Loss

OUT = Path(__file__).parents[1] / "docs" / "methods"
ALL: dict[str, Loss] = {**SUPERVISED, **REWARD, **PREFERENCE, **UNPAIRED}

# name -> (the idea, when to use it and when not)
PROSE = {
    "sft": ("Show the model good answers and raise their probability, token by token. Only the assistant's turns of the completion are trained on; the prompt is context.",
            "First, whenever the base model does not yet answer in the form you want; the other methods sharpen a model, they do not teach it a format. Not enough by itself when you know which answers are bad."),
    "reward": ("Put a scalar head on the last token and train it so that the chosen answer of each pair scores above the rejected one. The scores are then a reward for PPO, best-of-N or pair building.",
               "When something else will use the scores. Compare its held-out accuracy with the rule \"the shorter (or longer) answer is better\" before trusting it."),
    "dpo": ("The reward that a KL-leashed optimal policy implies is β times its log-ratio to the reference; put into the Bradley-Terry model this gives a loss on pairs with no reward model and no sampling. `label_smoothing` assumes that a share of the labels is flipped.",
            "The first thing to try with pairs. With few or very clear pairs the margin grows without end (see ipo); with a reference far from the data, do SFT first."),
    "robust": ("DPO made unbiased under random flips of the labels: the loss is corrected so that its expectation over the flips is the clean loss.",
               "When you can estimate the flip rate. It can go below zero and is noisier than cDPO; a wrong rate over 0.3 does harm."),
    "hinge": ("A margin of 1 on βΔ: pairs beyond it give no gradient at all.",
              "When DPO overfits easy pairs. Pairs inside the margin all pull with the same force, outliers too."),
    "ipo": ("Regress the log-ratio difference Δ onto the finite target 1/(2β) instead of pushing it to infinity, so that a deterministic preference does not blow up the policy.",
            "Small or noisy data sets, where DPO's margin runs away. Sums over tokens make the target depend on length; use `average` (or the option `length_norm`) when lengths differ much."),
    "exo": ("Match the implied preference distribution to a smoothed label in the reverse direction of DPO's cross-entropy (mode seeking).",
            "An alternative to DPO with a mode-seeking objective; needs a smoothing above 0. Little reported experience outside its paper."),
    "nca": ("Treat chosen and rejected as samples to be told from the reference's own, which also holds up the absolute likelihood of the chosen answer.",
            "When DPO lowers the likelihood of chosen answers too (see `logps/chosen`)."),
    "bco": ("Train a classifier \"chosen or rejected\" whose logit is the implied reward.",
            "With noisy pairs. The published reward shift δ is left out, so the two classes are anchored at zero."),
    "sppo": ("Move the log-ratio of the chosen answer to +1/(2β) and of the rejected one to −1/(2β): one step of self-play with hard wins.",
             "In iterative training, where the reference is the last round's policy."),
    "aot": ("Compare distributions, not pairs: the sorted margins of the policy shall dominate those of the reference at every quantile.",
            "Large batches. The figure of a row is that of its quantile; a batch of one is plain DPO."),
    "aot_unpaired": ("As aot, with the log-ratios of chosen and rejected sorted separately, so pairs need not belong together.",
                     "Chosen and rejected answers that come from different prompts, in large batches."),
    "apo_zero": ("Anchored: raises the log-ratio of the chosen answer and lowers that of the rejected one, each by itself.",
                 "When chosen answers are better than what the model writes (from a stronger model)."),
    "apo_down": ("Anchored: lowers both, the rejected one more.",
                 "When chosen answers are worse than what the model writes already and only the difference is to be learnt."),
    "discopop": ("A loss found by search over programs: a blend of the logistic and the exponential loss, mixed by the margin itself.",
                 "For comparison. It is not convex, and far on the wrong side the exponential part grows fast."),
    "sigmoid_norm": ("DPO on log-ratios a token: long answers do not count more.",
                     "When chosen and rejected differ much in length. The scale of β changes: values from 2 to 10 are usual."),
    "orpo": ("SFT and preference in one stage: the likelihood of the chosen answer, plus a term that raises its odds over the rejected one. No reference model.",
             "When memory or time is short, or from a base model. It moves the model more than DPO; use fewer epochs."),
    "simpo": ("Rank by mean log-probability a token, as generation does, with a target margin γ. No reference model.",
              "When generation length matters and no second model fits. Without a leash: watch `logps/chosen_per_token`, and keep the learning rate low."),
    "cpo": ("DPO under a uniform reference, held by the likelihood of the chosen answer.",
            "As orpo; the summed log-probabilities favour short answers unless `length_norm` is on."),
    "kto": ("No pairs: each answer is good or bad. Good ones gain when their log-ratio rises above the batch's KL, bad ones when it falls below; gains saturate.",
            "Thumbs up/down data, or strongly unequal numbers of good and bad answers. With good pairs DPO usually learns more from the same rows."),
    "apo_zero_unpaired": ("KTO without its KL term: each answer is anchored at the reference.",
                          "Labelled single answers when the KL estimate is too noisy (small batches); a third cheaper than kto."),
}  # fmt: skip

ARGUMENTS = {
    "beta": ("0.01 to 0.5", "strength: the larger, the closer the policy stays to the reference"),
    "label_smoothing": ("0 to 0.4", "assumed share of flipped labels"),
    "average": ("true, false", "means a token instead of sums"),
    "tau": ("0.01 to 1", "sharpness of the blend"),
    "gamma": ("0.3 to 1.6", "target margin"),
    "alpha": ("0 to 1", "weight of the likelihood term"),
    "desirable_weight": ("0.5 to 4", "λD, weight of good rows"),
    "undesirable_weight": ("0.5 to 4", "λU, weight of bad rows"),
    "centring": ("0 to 0.01", "pulls the mean score of a pair to zero"),
}
RANGES = {"sigmoid_norm": {"beta": "2 to 10"}, "simpo": {"beta": "2 to 10"}, "orpo": {"beta": "0.05 to 0.5"}}
OPTIONS = {
    "length_norm": "divide every log-probability by its completion's tokens",
    "ld_alpha": "LD-DPO: tokens beyond the common length count this much, in policy and reference",
    "wpo": "weigh pairs by how likely both answers are under the policy, at most 1",
    "reference_free": "take the reference as uniform",
    "f_divergence": "reverse_kl (plain), forward_kl, js, or alpha with `alpha_coefficient`",
    "sft_weight": "add this times the likelihood loss a token of the chosen answer",
}
METRICS = {
    "Pairs": [("loss", "falls slowly; the start value is in `trueup losses`"), ("rewards/chosen", "β times log-ratio; rising or slightly falling"),
              ("rewards/rejected", "falling"), ("rewards/margin", "grows; above 10 with accuracy 1 is overfitting"),
              ("rewards/accuracy", "0.5 at the start, 0.6 to 0.8 on held-out rows; ties count half"),
              ("logps/chosen", "a fall of over 1 nat per 100 tokens is displacement"), ("logps/rejected", "falls"),
              ("logps/chosen_per_token", "as above, a token"), ("logps/rejected_per_token", "as above, a token")],
    "Labels": [("loss", "0.5 at the start"), ("rewards/desirable", "rises"), ("rewards/undesirable", "falls"),
               ("desirable_share", "near the share in the data in every batch")],
    "Scores": [("loss", "log 2 at the start"), ("accuracy", "0.6 to 0.75 held out on crowd labels; must beat a length rule"), ("margin", "grows"),
               ("score/chosen", "drifts freely unless centred"), ("score/rejected", "below score/chosen")],
    "Likelihoods": [("loss", "nats a trained token; falls, 1 to 2.5 for chat"), ("trained_tokens", "trained tokens of the batch")],
}  # fmt: skip
COMMON = [
    ("grad_norm", "before clipping; spikes point at odd rows"),
    ("lr", "as scheduled"),
    ("tokens", "tokens computed in the step"),
]
KL = ("kl", "batch estimate before clamping, nats a sequence; small, may be below 0 early")


def page(name: str) -> str:
    """One method's page."""
    loss = ALL[name]
    idea, when = PROSE[name]
    rows = [f"# {name}: {loss.title}\n", idea + "\n", f"    {loss.equation}\n", "Notation: [README.md](README.md).\n",
            "## When\n", when + "\n", "## Arguments (`loss.*`)\n"]  # fmt: skip
    if loss.arguments:
        rows.append("| argument | default | usual | what |\n|---|---|---|---|")
        for argument, default in loss.arguments.items():
            usual, what = ARGUMENTS[argument]
            rows.append(f"| `{argument}` | `{default}` | {RANGES.get(name, {}).get(argument, usual)} | {what} |")
    else:
        rows.append("None.")
    if loss.options:
        rows.append("\n## Options (`options.*`)\n\n| option | what |\n|---|---|")
        rows += [f"| `{o}` | {OPTIONS[o]} |" for o in sorted(loss.options)]
    rows.append("\n## Logged\n\n| metric | healthy |\n|---|---|")
    rows += [
        f"| `{m}` | {text} |" for m, text in [*METRICS[loss.eats.__name__], *([KL] if loss.needs_kl else []), *COMMON]
    ]
    rows.append(f"\nReference policy: {'needed' if loss.reference else 'none'}. Rows: {loss.eats.__name__}.")
    rows.append(
        f"\n## Differences from other implementations\n\n{loss.differences or 'None known that changes a number.'}"
    )
    rows.append(f"\n## Source\n\n{loss.source}")
    return "\n".join(rows) + "\n"


def index() -> str:
    """The table of all methods, with the notation."""
    head = (
        "# Methods\n\nNotation: yc, yr chosen and rejected completion; |y| its tokens; πc, πr log-probabilities under the policy, "
        "summed over completion tokens; ρc, ρr the same under the reference; c = πc − ρc, r = πr − ρr, Δ = c − r; "
        "lc = πc/|yc|, lr = πr/|yr|; σ the sigmoid; β temperature; ε label smoothing.\n\n"
        "| method | rows | reference | what |\n|---|---|---|---|\n"
    )
    rows = [f"| [{n}]({n}.md) | {loss.eats.__name__} | {'yes' if loss.reference else 'no'} | {loss.title} |"
            for n, loss in ALL.items()]  # fmt: skip
    tail = "\n\nOptions of pairwise losses (`options.*`; each page says which apply):\n\n| option | what |\n|---|---|\n"
    return head + "\n".join(rows) + tail + "\n".join(f"| `{o}` | {t} |" for o, t in OPTIONS.items()) + "\n"


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for each in ALL:
        (OUT / f"{each}.md").write_text(page(each), encoding="utf-8")
    (OUT / "README.md").write_text(index(), encoding="utf-8")
