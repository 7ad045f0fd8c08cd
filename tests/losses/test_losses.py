"""Every registered loss has a number worked out by hand (30 digits, from the equation); a missing one fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED
from trueup.losses.metrics import contradicted, preference_metrics, unpaired_metrics
from trueup.losses.options import Options, bound, mixture, with_options
from trueup.tensors import Actions, Labels, Likelihoods, Pairs, Scores

LOG2 = math.log(2)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def golden(**changes: Any) -> Pairs:
    """πc = −12, πr = −15, ρc = −13, ρr = −14.5: c = 1, r = −0.5, Δ = 1.5; |yc| = 6, |yr| = 10."""
    fields: dict[str, Any] = {
        "policy_chosen": row(-12.0),
        "policy_rejected": row(-15.0),
        "reference_chosen": row(-13.0),
        "reference_rejected": row(-14.5),
        "chosen_length": torch.tensor([6]),
        "rejected_length": torch.tensor([10]),
    }
    return Pairs(**{**fields, **changes})


def by_mean(lc: float, lr: float) -> Pairs:
    """Pairs with the given mean log-probabilities a token, one token long."""
    return Pairs(policy_chosen=row(lc), policy_rejected=row(lr), chosen_length=torch.tensor([1]),
                 rejected_length=torch.tensor([1]))  # fmt: skip


START = golden(policy_chosen=row(-13.0), policy_rejected=row(-14.5))  # policy == reference

# name, arguments, value on the golden vector, value where policy == reference
WORKED: list[tuple[str, dict[str, Any], float, float]] = [
    ("dpo", {}, 0.620957047789532, LOG2),
    ("dpo", {"label_smoothing": 0.1}, 0.635957047789532, LOG2),
    ("robust", {"label_smoothing": 0.1}, 0.602207047789532, LOG2),
    ("hinge", {}, 0.85, 1.0),
    ("ipo", {"average": True}, 22.8802777777778, 25.0),
    ("ipo", {}, 12.25, 25.0),
    ("exo", {"label_smoothing": 0.1}, 0.431388457222786, 0.5108256237659907),
    ("nca", {}, 1.35082481411700, 2 * LOG2),
    ("bco", {}, 1.31285630808686, 2 * LOG2),
    ("sppo", {}, 36.25, 50.0),
    ("aot", {}, 0.620957047789532, LOG2),
    ("aot_unpaired", {}, 0.620957047789532, LOG2),
    ("apo_zero", {}, 0.962523416036850, 1.0),
    ("apo_down", {}, 0.987549342135190, 1.0),
    ("discopop", {}, 0.849337579289386, 0.8465735902799727),
    ("sigmoid_norm", {}, 0.682372526634401, LOG2),
]
# reference-free: lc = −2, lr = −1.5
FREE: list[tuple[str, dict[str, Any], float]] = [
    ("orpo", {}, 2.0 + 0.104205780792713),
    ("simpo", {"beta": 0.1, "gamma": 0.5}, 1.00549248146334),
    ("simpo", {}, 1.70141327798275),
    # −log σ(0.1·(−0.5)) + 2 = log(1 + e^0.05) + 2
    ("cpo", {}, 2.0 + math.log1p(math.exp(0.05))),
    ("cpo", {"alpha": 0.0}, math.log1p(math.exp(0.05))),
]


@pytest.mark.parametrize(("name", "arguments", "value", "_start"), WORKED)
def test_golden_value(name: str, arguments: dict, value: float, _start: float) -> None:
    assert PREFERENCE[name].fn(golden(), **arguments).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("name", "arguments", "_value", "start"), WORKED)
def test_value_where_policy_equals_reference(name: str, arguments: dict, _value: float, start: float) -> None:
    assert PREFERENCE[name].fn(START, **arguments).item() == pytest.approx(start, abs=1e-9)


@pytest.mark.parametrize(("name", "arguments", "value"), FREE)
def test_golden_value_without_reference(name: str, arguments: dict, value: float) -> None:
    assert PREFERENCE[name].fn(by_mean(-2.0, -1.5), **arguments).item() == pytest.approx(value, abs=1e-9)


def test_orpo_log_odds_term() -> None:
    # log odds = −0.5 − (log(1−e^−2) − log(1−e^−1.5)) = −0.607069001056595
    term = PREFERENCE["orpo"].fn(by_mean(-2.0, -1.5)).item() - 2.0
    assert term == pytest.approx(0.1 * math.log1p(math.exp(0.607069001056595)), abs=1e-12)


KTO_ROW = {"policy": row(1.0, -0.5), "reference": row(0.0, 0.0), "desirable": torch.tensor([True, False])}
WORKED_UNPAIRED: list[tuple[str, dict[str, Any], list[float]]] = [
    ("kto", {}, [0.482507142333610, 0.480010659844418]),
    ("kto", {"desirable_weight": 2.0, "undesirable_weight": 3.0}, [0.965014284667220, 1.440031979533254]),
    # 1 − σ(0.1) and σ(−0.05)
    ("apo_zero_unpaired", {}, [1 - 1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(0.05))]),
]


@pytest.mark.parametrize(("name", "arguments", "values"), WORKED_UNPAIRED)
def test_golden_value_unpaired(name: str, arguments: dict, values: list[float]) -> None:
    labels = Labels(**KTO_ROW, kl=torch.tensor(0.3, dtype=torch.float64))
    assert UNPAIRED[name].fn(labels, **arguments).tolist() == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_unpaired_start_is_one_half(name: str) -> None:
    labels = Labels(policy=row(-3.0, -4.0), reference=row(-3.0, -4.0), desirable=torch.tensor([True, False]),
                    kl=torch.tensor(0.0, dtype=torch.float64))  # fmt: skip
    assert UNPAIRED[name].fn(labels).tolist() == [0.5, 0.5]


WORKED_REWARD: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("reward", {}, {}, 0.403186048885458),
    ("reward", {"margin": row(0.3)}, {}, 0.513015252399953),
    ("reward", {}, {"centring": 0.01}, 0.432086048885458),
    # 0.75 · log(1+e^−0.7) + 0.25 · log(1+e^0.7)
    ("reward", {"preference": row(0.75)}, {}, 0.75 * math.log1p(math.exp(-0.7)) + 0.25 * math.log1p(math.exp(0.7))),
]


@pytest.mark.parametrize(("name", "fields", "arguments", "value"), WORKED_REWARD)
def test_golden_value_reward(name: str, fields: dict, arguments: dict, value: float) -> None:
    scores = Scores(chosen=row(1.2), rejected=row(0.5), **fields)
    assert REWARD[name].fn(scores, **arguments).item() == pytest.approx(value, abs=1e-9)


WORKED_SUPERVISED = [("sft", 6.5)]


# log π = −1.0, ratio 1.5, A = 2 and −2: min(3, 1.2·2) = 2.4; max side 3; plain −A log π = 2 · 1.0
WORKED_POLICY = {"ppo": [-2.4, 3.0], "rloo": [-2.4, 3.0], "grpo": [-2.4, 3.0], "reinforce": [2.0, -2.0]}


@pytest.mark.parametrize(("name", "values"), WORKED_POLICY.items())
def test_golden_value_of_policy_losses(name: str, values: list[float]) -> None:
    old = row(-1.0, -1.0) - math.log(1.5)
    actions = Actions(policy=row(-1.0, -1.0), old=old, advantage=row(2.0, -2.0))
    assert POLICY[name].fn(actions).tolist() == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize(("name", "value"), WORKED_SUPERVISED)
def test_golden_value_supervised(name: str, value: float) -> None:
    assert SUPERVISED[name].fn(Likelihoods(policy=row(-6.5), length=torch.tensor([3]))).tolist() == [value]


def test_every_registered_loss_has_a_worked_example() -> None:
    worked = {r[0] for table in (WORKED, FREE, WORKED_UNPAIRED, WORKED_REWARD, WORKED_SUPERVISED) for r in table}
    assert worked == {*PREFERENCE, *UNPAIRED, *REWARD, *SUPERVISED}
    assert set(WORKED_POLICY) == set(POLICY)


DEFAULTS: dict[str, dict[str, Any]] = {
    "robust": {"beta": 0.1, "label_smoothing": 0.1},
    "dpo": {"beta": 0.1, "label_smoothing": 0.0},
    "aot": {"beta": 0.1, "label_smoothing": 0.0},
    "aot_unpaired": {"beta": 0.1, "label_smoothing": 0.0},
    "exo": {"beta": 0.1, "label_smoothing": 1e-3},
    "ipo": {"beta": 0.1, "average": False},
    "discopop": {"beta": 0.1, "tau": 0.05},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "cpo": {"beta": 0.1, "alpha": 1.0},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "apo_zero_unpaired": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "reward": {"centring": 0.0},
    "sft": {},
    **{name: {"clip_low": 0.2, "clip_high": 0.2} for name in ("ppo", "rloo", "grpo")},
    "reinforce": {},
}


@pytest.mark.parametrize("name", [*PREFERENCE, *UNPAIRED, *REWARD, *SUPERVISED, *POLICY])
def test_defaults_are_frozen(name: str) -> None:
    loss = {**PREFERENCE, **UNPAIRED, **REWARD, **SUPERVISED, **POLICY}[name]
    assert loss.arguments == DEFAULTS.get(name, {"beta": 0.1})


@pytest.mark.parametrize(
    ("divergence", "value"),
    [("reverse_kl", 0.620957047789532), ("forward_kl", 0.631154383572105), ("js", 0.660652162510155),
     ("alpha", 0.627690947068558)],
)  # fmt: skip
def test_golden_value_of_each_divergence(divergence: Any, value: float) -> None:
    loss = with_options(PREFERENCE["dpo"].fn, Options(f_divergence=divergence))
    assert loss(golden()).item() == pytest.approx(value, abs=1e-9)


def test_golden_value_reference_free() -> None:
    loss = with_options(PREFERENCE["dpo"].fn, Options(reference_free=True))
    assert loss(golden(reference_chosen=None, reference_rejected=None)).item() == pytest.approx(
        0.554355244468527, abs=1e-9
    )


PAIRWISE = [(n, PREFERENCE[n].fn) for n in PREFERENCE if not PREFERENCE[n].coupled]


SMOOTH = [(name, fn) for name, fn in PAIRWISE if name != "hinge"]  # its corner is tested by hand below


@pytest.mark.parametrize(("name", "fn"), SMOOTH)
def test_gradients_are_those_of_finite_differences(name: str, fn: Callable) -> None:
    c, r = row(-3.0, -7.0, -1.2).requires_grad_(), row(-4.0, -2.0, -9.0).requires_grad_()

    def value(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return fn(Pairs(policy_chosen=chosen, policy_rejected=rejected, reference_chosen=row(-3.5, -6.0, -1.0),
                        reference_rejected=row(-4.5, -2.5, -8.0), chosen_length=torch.tensor([3, 4, 2]),
                        rejected_length=torch.tensor([4, 1, 7])))  # fmt: skip

    assert torch.autograd.gradcheck(value, (c, r), eps=1e-6, atol=1e-6)


def test_hinge_slope_by_hand() -> None:
    c = row(-12.0, 20.0).requires_grad_()
    pairs = golden(policy_chosen=c, policy_rejected=row(-15.0, -15.0), reference_chosen=row(-13.0, -13.0),
                   reference_rejected=row(-14.5, -14.5), chosen_length=None, rejected_length=None)  # fmt: skip
    PREFERENCE["hinge"].fn(pairs).sum().backward()
    assert c.grad is not None and c.grad.tolist() == pytest.approx([-0.1, 0.0])


@pytest.mark.parametrize(("name", "fn"), PAIRWISE)
def test_soft_labels_are_the_expected_loss(name: str, fn: Callable) -> None:
    pairs = golden()
    soft = fn(golden(preference=row(0.8)))
    assert soft.item() == pytest.approx(0.8 * fn(pairs).item() + 0.2 * fn(pairs.swap()).item(), abs=1e-12)
    assert fn(golden(preference=row(1.0))).item() == pytest.approx(fn(pairs).item(), abs=1e-12)


def test_soft_labels_equal_label_smoothing() -> None:
    soft = PREFERENCE["dpo"].fn(golden(preference=row(0.9)))
    assert soft.item() == pytest.approx(PREFERENCE["dpo"].fn(golden(), label_smoothing=0.1).item(), abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "robust", "hinge", "ipo", "exo", "sigmoid_norm"])
def test_a_label_of_one_half_pushes_neither_way_at_the_start(name: str) -> None:
    c, r = row(-13.0).requires_grad_(), row(-14.5).requires_grad_()
    PREFERENCE[name].fn(golden(policy_chosen=c, policy_rejected=r, preference=row(0.5))).sum().backward()
    assert abs(c.grad.item()) < 1e-12 and abs(r.grad.item()) < 1e-12  # type: ignore[union-attr]


def test_an_identical_pair_gives_no_gradient() -> None:
    policy = row(-5.0).requires_grad_()
    pairs = Pairs(
        policy_chosen=policy, policy_rejected=policy, reference_chosen=row(-4.0), reference_rejected=row(-4.0)
    )
    PREFERENCE["dpo"].fn(pairs).sum().backward()
    assert policy.grad is not None and policy.grad.item() == 0.0


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_aot_sorts_the_batch(name: str) -> None:
    c, r = row(1.0, 3.0, 2.0), row(0.0, -1.0, 0.5)
    zero = torch.zeros(3, dtype=torch.float64)
    pairs = Pairs(policy_chosen=c, policy_rejected=r, reference_chosen=zero, reference_rejected=zero)
    # aot: sort(c − r) = (1, 1.5, 4) minus zeros; aot_unpaired: (1, 2, 3) − (−1, 0, 0.5) = (2, 2, 2.5)
    delta = row(1.0, 1.5, 4.0) if name == "aot" else row(2.0, 2.0, 2.5)
    want = torch.log1p(torch.exp(-0.1 * delta))
    torch.testing.assert_close(PREFERENCE[name].fn(pairs), want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="soft labels"):
        PREFERENCE[name].fn(pairs.replace(preference=row(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(("name", "fn"), PAIRWISE)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_no_overflow_far_away(name: str, fn: Callable, size: float) -> None:
    far = Pairs(policy_chosen=torch.tensor([-size, -1.0, -size]), policy_rejected=torch.tensor([-1.0, -size, -size]),
                reference_chosen=torch.tensor([-1.0, -size, -1.0]),
                reference_rejected=torch.tensor([-size, -1.0, -1.0]),
                chosen_length=torch.tensor([5, 5, 5]), rejected_length=torch.tensor([5, 5, 5]))  # fmt: skip
    assert torch.isfinite(fn(far)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orpo_next_to_probability_one(dtype: torch.dtype) -> None:
    for lc in (-1e-8, -1e-6, 0.0):
        chosen = torch.tensor([lc], dtype=dtype, requires_grad=True)
        pairs = Pairs(policy_chosen=chosen, policy_rejected=torch.tensor([-2.0], dtype=dtype),
                      chosen_length=torch.tensor([1]), rejected_length=torch.tensor([1]))  # fmt: skip
        loss = PREFERENCE["orpo"].fn(pairs)
        loss.sum().backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all() and chosen.grad is not None and torch.isfinite(chosen.grad).all()
    exact = PREFERENCE["orpo"].fn(by_mean(-1e-6, -2.0)).item()
    wide = PREFERENCE["orpo"].fn(by_mean(-1e-6, -2.0).replace(policy_chosen=torch.tensor([-1e-6]),
                                                              policy_rejected=torch.tensor([-2.0]))).item()  # fmt: skip
    assert wide == pytest.approx(exact, rel=1e-4)


def test_bf16_is_computed_in_fp32() -> None:
    half = golden(**{k: getattr(golden(), k).bfloat16() for k in
                     ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")})  # fmt: skip
    loss = PREFERENCE["dpo"].fn(half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.620957047789532, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [("dpo", {"label_smoothing": 0.5}, "label_smoothing"), ("robust", {"label_smoothing": 0.5}, "label_smoothing"),
     ("aot", {"label_smoothing": 0.5}, "label_smoothing"),
     ("aot_unpaired", {"label_smoothing": -0.1}, "label_smoothing"),
     ("exo", {"label_smoothing": 0.0}, "label_smoothing"), ("ipo", {"beta": 0.0}, "beta"),
     ("sppo", {"beta": 0.0}, "beta"), ("discopop", {"tau": 0.0}, "tau")],
)  # fmt: skip
def test_impossible_arguments_are_named(name: str, arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        PREFERENCE[name].fn(golden(), **arguments)


def test_missing_fields_are_named() -> None:
    bare = Pairs(policy_chosen=row(-1.0), policy_rejected=row(-2.0))
    with pytest.raises(ValueError, match="reference_chosen"):
        PREFERENCE["dpo"].fn(bare)
    with pytest.raises(ValueError, match="chosen_length"):
        PREFERENCE["simpo"].fn(bare)
    with pytest.raises(ValueError, match="reference"):
        UNPAIRED["apo_zero_unpaired"].fn(Labels(policy=row(1.0), desirable=torch.tensor([True])))
    with pytest.raises(ValueError, match="KL"):
        UNPAIRED["kto"].fn(Labels(policy=row(1.0), reference=row(1.0), desirable=torch.tensor([True])))
    with pytest.raises(ValueError, match="centring"):
        REWARD["reward"].fn(Scores(chosen=row(1.0), rejected=row(0.0)), centring=-1.0)


def test_swapping_twice_changes_nothing() -> None:
    pairs = golden(preference=row(0.75), policy_chosen_common=row(-10.0), policy_rejected_common=row(-9.0))
    twice = pairs.swap().swap()
    for name in Pairs.__slots__:
        a, b = getattr(pairs, name), getattr(twice, name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert pairs.swap().policy_chosen_common.item() == -9.0  # type: ignore[union-attr]


def test_ld_dpo_weighs_the_tokens_beyond_the_common_length() -> None:
    pairs = golden(policy_chosen_common=row(-12.0), policy_rejected_common=row(-9.0),
                   reference_chosen_common=row(-13.0), reference_rejected_common=row(-8.0))  # fmt: skip
    # α = .5: πr = −9 + .5·(−6) = −12, ρr = −8 + .5·(−6.5) = −11.25; Δ = 1 − (−0.75) = 1.75
    loss = with_options(PREFERENCE["dpo"].fn, Options(ld_alpha=0.5))
    assert loss(pairs).item() == pytest.approx(math.log1p(math.exp(-0.175)), abs=1e-12)
    plain = with_options(PREFERENCE["dpo"].fn, Options(ld_alpha=1.0))
    assert plain(pairs).item() == pytest.approx(0.620957047789532, abs=1e-9)
    with pytest.raises(ValueError, match="policy_chosen_common"):
        loss(golden())


@pytest.mark.parametrize("known", [True, False])
def test_ld_dpo_without_a_reference_scales_the_policy_only(known: bool) -> None:
    pairs = golden(policy_chosen_common=row(-12.0), policy_rejected_common=row(-9.0),
                   reference_chosen_common=row(-13.0), reference_rejected_common=row(-8.0))  # fmt: skip
    if not known:
        pairs = pairs.replace(reference_chosen=None, reference_rejected=None, reference_chosen_common=None,
                              reference_rejected_common=None)  # fmt: skip
    # α = .5: πc = −12, πr = −9 + .5·(−6) = −12, and ρ = 0 whether or not one is known; Δ = 0
    loss = with_options(PREFERENCE["dpo"].fn, Options(ld_alpha=0.5, reference_free=True))
    assert loss(pairs).item() == pytest.approx(LOG2, abs=1e-12)


def test_ld_dpo_of_a_loss_that_reads_no_reference() -> None:
    pairs = golden(reference_chosen=None, reference_rejected=None, policy_chosen_common=row(-12.0),
                   policy_rejected_common=row(-9.0))  # fmt: skip
    # πc = πr = −12 as above: −log σ(0), and the NLL a token 12/6
    loss = with_options(PREFERENCE["cpo"].fn, Options(ld_alpha=0.5))
    assert loss(pairs).item() == pytest.approx(LOG2 + 2.0, abs=1e-12)


@pytest.mark.parametrize("options", [Options(length_norm=True), Options(f_divergence="js"), Options(sft_weight=1.0)])
def test_options_compute_bf16_in_fp32(options: Options) -> None:
    half = golden(**{k: getattr(golden(), k).bfloat16() for k in
                     ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")})  # fmt: skip
    loss = with_options(PREFERENCE["dpo"].fn, options)
    assert loss(half).item() == pytest.approx(loss(golden()).item(), rel=1e-6)


def test_length_norm_of_dpo_is_sigmoid_norm_and_of_ipo_its_averaged_form() -> None:
    options = Options(length_norm=True)
    assert with_options(PREFERENCE["dpo"].fn, options)(golden()).item() == pytest.approx(0.682372526634401, abs=1e-9)
    assert with_options(PREFERENCE["ipo"].fn, options)(golden()).item() == pytest.approx(22.8802777777778, abs=1e-9)


def test_wpo_weight_by_hand_at_most_one_and_without_gradient() -> None:
    c = row(-12.0).requires_grad_()
    pairs = golden(policy_chosen=c, chosen_log_weight=row(-0.5), rejected_log_weight=row(-0.25))
    loss = with_options(PREFERENCE["dpo"].fn, Options(wpo=True))
    assert loss(pairs).item() == pytest.approx(math.exp(-0.75) * 0.620957047789532, abs=1e-9)
    high = pairs.replace(chosen_log_weight=row(3.0))
    assert loss(high).item() == pytest.approx(0.620957047789532, abs=1e-9)
    with pytest.raises(ValueError, match="chosen_log_weight"):
        loss(golden())


def test_sft_term_and_mixture_add_up() -> None:
    loss = with_options(PREFERENCE["dpo"].fn, Options(sft_weight=0.5))
    assert loss(golden()).item() == pytest.approx(0.620957047789532 + 0.5 * 2.0, abs=1e-9)
    mixed = mixture([(PREFERENCE["dpo"].fn, 0.8), (bound(PREFERENCE["ipo"].fn, {"average": True}), 0.2)])
    assert mixed(golden()).item() == pytest.approx(0.8 * 0.620957047789532 + 0.2 * 22.8802777777778, abs=1e-9)


def test_options_refuse_nonsense() -> None:
    for arguments in ({"ld_alpha": 2.0}, {"ld_alpha": -0.1}, {"sft_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Options(**arguments)  # type: ignore[arg-type]
    misspelt = Options()
    object.__setattr__(misspelt, "f_divergence", "forward")  # the suite's type checks stop the plain way earlier
    with pytest.raises(ValueError, match="f_divergence must be reverse_kl"):
        misspelt.__post_init__()
    with pytest.raises(ValueError, match="alpha_coefficient"):
        Options(alpha_coefficient=0.3).used()
    assert Options(f_divergence="alpha", alpha_coefficient=0.3).used() == {"f_divergence"}
    assert Options().used() == set()


def test_metrics_by_hand() -> None:
    figures = preference_metrics(golden(), beta=0.1)
    assert figures["rewards/chosen"].item() == pytest.approx(0.1)
    assert figures["rewards/rejected"].item() == pytest.approx(-0.05)
    assert figures["rewards/margin"].item() == pytest.approx(0.15)
    assert figures["rewards/accuracy"].item() == 1.0
    assert figures["logps/rejected_per_token"].item() == pytest.approx(-1.5)
    assert figures["logratio/chosen_per_token"].item() == pytest.approx(1 / 6)
    assert figures["reference/chosen_per_token"].item() == pytest.approx(-13 / 6)
    alone = preference_metrics(golden(reference_chosen=None, reference_rejected=None), beta=0.1)
    assert "logps/chosen_per_token" in alone and "reference/chosen_per_token" not in alone
    assert preference_metrics(START, beta=0.1)["rewards/accuracy"].item() == 0.5
    assert "logps/chosen_per_token" not in preference_metrics(by_mean(-1, -2).replace(chosen_length=None), beta=1.0)


def test_contradicted_margin_weighs_errors_by_how_sure_they_are() -> None:
    assert contradicted(row(3.0, -1.0, 0.0, -2.0)) == (3.0, 6.0)
    assert contradicted(row(0.0, 0.0)) == (0.0, 0.0)


def test_unpaired_metrics_count_each_class_for_itself() -> None:
    labels = Labels(
        policy=row(1.0, -0.5, 3.0), reference=row(0.0, 0.0, 0.0), desirable=torch.tensor([True, False, True])
    )
    sums = unpaired_metrics(labels, beta=0.1)
    assert sums["rewards/desirable"] == pytest.approx((0.4, 2.0))
    assert sums["rewards/undesirable"] == pytest.approx((-0.05, 1.0))
    assert sums["desirable_share"] == (2.0, 3.0)
