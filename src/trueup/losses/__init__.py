"""The registries: a name, a function, what it eats, and where it comes from.

    PREFERENCE["dpo"].fn(Pairs(...), beta=0.1)  ->  [B]

To add a loss: a function, a line here, a row in ``WORKED`` of ``tests/losses/test_losses.py``, a page in
``docs/methods/``; the suite fails if any is missing.
"""

from __future__ import annotations

from trueup.losses import preference as p
from trueup.losses.policy import ppo_clip, reinforce
from trueup.losses.registry import (
    F_DIVERGENCE,
    LD_ALPHA,
    LENGTH_NORM,
    REFERENCE_FREE,
    SFT_WEIGHT,
    WPO,
    Loss,
)
from trueup.losses.reward import bradley_terry
from trueup.losses.supervised import nll
from trueup.losses.unpaired import apo_zero_unpaired, kto
from trueup.tensors import Actions, Labels, Likelihoods, Pairs, Scores

_EVERY = frozenset({LENGTH_NORM, LD_ALPHA, WPO, REFERENCE_FREE, SFT_WEIGHT})
_OF_DELTA = _EVERY | {F_DIVERGENCE}  # reads c and r only through Δ = c − r
_SORTED = _EVERY - {WPO}  # the k-th number is not the k-th row's
_NORMED = _EVERY - {LENGTH_NORM}  # has its own division by length
_FREE = frozenset({LD_ALPHA, WPO, SFT_WEIGHT})  # no reference, own normalisation

PREFERENCE: dict[str, Loss] = {
    "dpo": Loss(
        p.dpo, Pairs, "Direct Preference Optimisation; with label_smoothing, conservative DPO",
        "−(1−ε) log σ(βΔ) − ε log σ(−βΔ)",
        "Rafailov et al. 2023, arXiv 2305.18290, eq. 7; Mitchell 2023, 'A note on DPO with noisy preferences', eq. 3",
        "TRL accepts label_smoothing on its sigmoid loss and ignores it; here it is cDPO.", options=_OF_DELTA),
    "robust": Loss(
        p.robust, Pairs, "Robust DPO", "[−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε)",
        "Chowdhury et al. 2024, arXiv 2403.00409, eq. 12", options=_OF_DELTA),
    "hinge": Loss(
        p.hinge, Pairs, "SLiC hinge on log-ratios", "max(0, 1 − βΔ)",
        "Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657, table 1", options=_OF_DELTA),
    "ipo": Loss(
        p.ipo, Pairs, "Identity Preference Optimisation", "(Δ − 1/(2β))², with average: (c/|yc| − r/|yr| − 1/(2β))²",
        "Azar et al. 2023, arXiv 2310.12036, eq. 17",
        "The default sums over tokens, as the paper and its seed code; TRL and HALOs average (average=True here).",
        options=_OF_DELTA),
    "exo": Loss(
        p.exo, Pairs, "Efficient exact optimisation, pairs", "q(log q − log(1−ε)) + (1−q)(log(1−q) − log ε), q = σ(βΔ)",
        "Ji et al. 2024, arXiv 2402.00856, eq. 16", options=_OF_DELTA),
    "nca": Loss(
        p.nca, Pairs, "Noise-contrastive alignment, pairs", "−log σ(βc) − ½ log σ(−βc) − ½ log σ(−βr)",
        "Chen et al. 2024, arXiv 2402.05369, eq. 11", options=_EVERY),
    "bco": Loss(
        p.bco, Pairs, "Binary classifier optimisation, pairs", "−log σ(βc) − log σ(−βr)",
        "Jung et al. 2024, arXiv 2404.04656, eq. 12",
        "The paper subtracts a running mean reward δ; it is left out here and in TRL, kept in LLaMA-Factory.",
        options=_EVERY),
    "sppo": Loss(
        p.sppo, Pairs, "Self-play preference optimisation, hard labels", "(c − 1/(2β))² + (r + 1/(2β))²",
        "Wu et al. 2024, arXiv 2405.00675, eq. 4.7", options=_EVERY),
    "aot": Loss(
        p.aot, Pairs, "Alignment via optimal transport, paired",
        "−(1−ε) log σ(βδ) − ε log σ(−βδ), δ = sort(πc − πr) − sort(ρc − ρr)",
        "Melnyk et al. 2024, arXiv 2406.05882, eq. 3",
        "Sorted over the global batch, however it is cut; TRL sorts within a micro-batch.",
        coupled=True, options=_SORTED),
    "aot_unpaired": Loss(
        p.aot_unpaired, Pairs, "Alignment via optimal transport, unpaired",
        "−(1−ε) log σ(βδ) − ε log σ(−βδ), δ = sort(c) − sort(r)",
        "Melnyk et al. 2024, arXiv 2406.05882, eq. 5",
        "Sorted over the global batch, however it is cut; TRL sorts within a micro-batch.",
        coupled=True, options=_SORTED),
    "apo_zero": Loss(
        p.apo_zero, Pairs, "Anchored preference optimisation, zero", "1 − σ(βc) + σ(βr)",
        "D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 3", options=_EVERY),
    "apo_down": Loss(
        p.apo_down, Pairs, "Anchored preference optimisation, down", "σ(βc) + 1 − σ(βΔ)",
        "D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 4", options=_EVERY),
    "discopop": Loss(
        p.discopop, Pairs, "Discovered preference optimisation (LRML)",
        "L(1−m) + e^(−βΔ) m, L = −log σ(βΔ), m = σ(βΔ/τ)", "Lu et al. 2024, arXiv 2406.08414, eq. 5",
        options=_OF_DELTA),
    "sigmoid_norm": Loss(
        p.sigmoid_norm, Pairs, "Length-normalised DPO", "−log σ(β(c/|yc| − r/|yr|))",
        "Lambert et al. 2024 (Tülu 3), arXiv 2411.15124, section 5.1.1",
        "The same as dpo with the option length_norm; open-instruct uses β = 5.", options=_NORMED),
    "orpo": Loss(
        p.orpo, Pairs, "Odds-ratio preference optimisation",
        "−lc − β log σ(lc − lr − log(1−e^lc) + log(1−e^lr))", "Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7",
        "The NLL is over the chosen completion only, a token mean a row; TRL and the authors' code average over prompt "
        "and completion of the batch.", reference=False, options=_FREE - {LD_ALPHA}),
    "simpo": Loss(
        p.simpo, Pairs, "Simple preference optimisation", "−log σ(β lc − β lr − γ)",
        "Meng et al. 2024, arXiv 2405.14734, eq. 6",
        "γ is the paper's; the authors' code takes γ/β as gamma_beta_ratio. TRL adds an NLL unless cpo_alpha is 0.",
        reference=False, options=_FREE - {LD_ALPHA}),
    "cpo": Loss(
        p.cpo, Pairs, "Contrastive preference optimisation", "−log σ(β(πc − πr)) − α lc",
        "Xu et al. 2024, arXiv 2401.08417, eq. 5", "The NLL is a token mean a row.",
        reference=False, options=_FREE | {LENGTH_NORM}),
}  # fmt: skip

UNPAIRED: dict[str, Loss] = {
    "kto": Loss(
        kto, Labels, "Kahneman-Tversky Optimisation", "good: λD[1 − σ(β(r − z))]; bad: λU[1 − σ(β(z − r))]",
        "Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8",
        "z is estimated on mismatched pairs of the global batch, drawn anew at every step; TRL rotates fixed blocks "
        "of rows. Liger's fused form ignores the class weights.",
        needs_kl=True),
    "apo_zero_unpaired": Loss(
        apo_zero_unpaired, Labels, "Anchored preference optimisation on single completions",
        "good: λD[1 − σ(βr)]; bad: λU σ(βr)", "D'Oosterlinck et al. 2024, arXiv 2408.06266, section 3"),
}  # fmt: skip

REWARD: dict[str, Loss] = {
    "reward": Loss(
        bradley_terry, Scores, "Bradley-Terry reward model", "−log σ(rc − rr − m) + k (rc + rr)²",
        "Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margin: Touvron et al. 2023, arXiv 2307.09288, eq. 2; "
        "centring: Eisenstein et al. 2023, arXiv 2312.09244",
        "OpenRLHF's log-exp form ignores the margin and overflows; TRL filters rows beyond max_length out.",
        reference=False),
}  # fmt: skip

SUPERVISED: dict[str, Loss] = {
    "sft": Loss(
        nll, Likelihoods, "Supervised fine-tuning", "−Σ_t log π(y_t | x, y_<t), over the tokens of the batch",
        "Ouyang et al. 2022, arXiv 2203.02155, section 3.5",
        "Divided by the trained tokens of the global batch, so cutting it into micro-batches changes nothing; a mean "
        "of micro-batch means, as in older loops, weighs tokens of short batches more.", reference=False),
}  # fmt: skip

POLICY: dict[str, Loss] = {
    "ppo": Loss(
        ppo_clip, Actions, "Proximal policy optimisation with a KL leash (RLHF)",
        "−min(ρA, clip(ρ, 1 − εl, 1 + εh) A), ρ = π / π_old, A by GAE",
        "Schulman et al. 2017, arXiv 1707.06347, eq. 7; Ouyang et al. 2022, arXiv 2203.02155, eq. 2",
        "The score stands at the answer's true last token (TRL: one position later); KL, entropy and ratio are means "
        "over sampled tokens alone (TRL averages over padding too)."),
    "rloo": Loss(
        ppo_clip, Actions, "REINFORCE with a leave-one-out baseline",
        "−min(ρA, clip(ρ) A), A_i = R_i − mean of the other answers",
        "Ahmadian et al. 2024, arXiv 2402.14740, eq. 8", "With one pass a batch the clip never acts, and this is the "
        "paper's REINFORCE."),
    "grpo": Loss(
        ppo_clip, Actions, "Group-relative policy optimisation",
        "−min(ρA, clip(ρ) A) + β KL, A_i = (R_i − mean) / (std + 1e-4)",
        "Shao et al. 2024, arXiv 2402.03300, eq. 3", "Averaged answer by answer as in the paper; policy.average tokens "
        "gives DAPO's token mean."),
    "reinforce": Loss(
        reinforce, Actions, "REINFORCE with the batch's mean reward as baseline",
        "−A log π, A_t = Σ_{u≥t} r_u − mean R",
        "Williams 1992, Machine Learning 8"),
}  # fmt: skip

__all__ = ["POLICY", "PREFERENCE", "REWARD", "SUPERVISED", "UNPAIRED", "Loss"]
