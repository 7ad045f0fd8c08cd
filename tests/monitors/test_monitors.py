"""Every monitor: a history that must raise it, one near by that must not, and figures worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from trueup.monitors import MONITORS
from trueup.monitors.base import HEAD, KEPT, Facts, Finding, History, above, below, jump
from trueup.monitors.mismatch import sampler_mismatch
from trueup.thresholds import MonitorConfig

LIMITS = MonitorConfig()
Values = Sequence[float] | float
Metrics = Mapping[str, Values]


def history(metrics: Metrics, facts: Facts | None = None, steps: int = 40) -> History:
    """A run in which each metric has these values, the last of them at the last step; a number stands for all steps."""
    made = History(facts)
    columns = {n: [v] * steps if isinstance(v, int | float) else list(v) for n, v in metrics.items()}
    length = max(len(c) for c in columns.values())
    for step in range(1, length + 1):
        there = {n: c[step - 1 - length + len(c)] for n, c in columns.items() if step > length - len(c)}
        made.add(step, there)
    return made


def found(name: str, metrics: Metrics, facts: Facts | None = None, steps: int = 40, **limits: Any) -> Finding | None:
    return MONITORS[name].fn(history(metrics, facts, steps), LIMITS.model_copy(update=limits))


def then(before: float, after: float, at: int = 30, steps: int = 40, noise: float = 0.0) -> list[float]:
    """One value, and from some step on another, with alternating noise."""
    return [(before if s < at else after) + noise * (-1) ** s for s in range(1, steps + 1)]


CLIMB = [1e-5 * s for s in range(1, 41)]
LEARNS = {"lr": 1e-5, "grad_norm": 1.0}
OVER = {"eval/gold": [0.1, 0.8, 0.5, 0.4], "eval/gold/high": [0.2, 0.9, 0.6, 0.6], "eval/score": [0.1, 0.5, 0.6, 0.7],
        "kl": [0.1, 1.0, 4.0, 9.0]}  # fmt: skip
GAP = {"rewards/accuracy": 0.95, "eval/rewards/accuracy": 0.7, "eval/rewards/accuracy/high": 0.8}
FACTS = Facts(reference=True)

# monitor, metrics that must raise it (with level and step of onset), metrics near by that must not
CASES: list[tuple[str, Metrics, str, int | None, Metrics]] = [
    ("non_finite", {"loss": [1.0, math.nan]}, "alarm", 2,
     {"loss": 1.0, "eval/loss/low": math.nan, "value/explained_variance": math.nan}),
    ("lr_jump", {"lr": then(1e-5, 1e-3, at=40)}, "alarm", 40, {"lr": CLIMB}),
    ("loss_spike", {"loss": then(1.0, 5.0, at=40, noise=0.1)}, "warn", None,
     {"loss": then(1.0, 1.5, at=40, noise=0.1)}),
    ("loss_rise", {"loss": then(1.0, 2.5, at=36)}, "alarm", 36, {"loss": then(1.0, 2.5, at=37)}),
    ("kl_negative", {"kl": -1.0, "kl/se": 0.2}, "alarm", 1, {"kl": -1.0, "kl/se": 0.9}),
    ("kl_high", {"kl": then(1.0, 60.0)}, "alarm", 30, {"kl": 19.0}),
    ("kl_unleashed", {"kl_coefficient": then(0.1, 0.0), "kl": 2.0}, "warn", 30, {"kl_coefficient": 1e-4, "kl": 2.0}),
    ("reference_moves", {**LEARNS, "rewards/chosen": 0.0, "rewards/rejected": 0.0}, "alarm", 36,
     {**LEARNS, "rewards/chosen": 0.0, "rewards/rejected": -1e-3}),
    ("sampler_mismatch", {"sampler/kl": then(1e-8, 0.02)}, "alarm", 30, {"sampler/kl": 9e-4}),
    ("step_size", {"kl/step": then(0.01, 0.2)}, "alarm", 30, {"kl/step": 0.019}),
    ("clip_fraction", {"clip/low": 0.3, "clip/high": 0.3}, "alarm", None, {"clip/low": 0.1, "clip/high": 0.1}),
    ("ratio_first", {"ratio/first": then(1.0, 1.001)}, "alarm", 30, {"ratio/first": 1.00005}),
    ("ratio_large", {"ratio": 1.0, "ratio/largest": then(2.0, 50.0)}, "alarm", 30,
     {"ratio": 1.0, "ratio/largest": 9.0}),
    ("value_failure", {"value/explained_variance": then(0.4, -1.0, at=20)}, "alarm", 20,
     {"value/explained_variance": 0.3}),
    ("over_optimisation", OVER, "alarm", 2, {**OVER, "eval/gold/high": [0.2, 0.9, 0.85, 0.85]}),
    ("disagreement", {"score/disagreement": then(1.0, 3.0)}, "warn", 30, {"score/disagreement": then(1.0, 1.9)}),
    ("principle_conflict", {"principles/conflict": [0.2]}, "warn", 1, {"principles/conflict": [0.09]}),
    ("length_hacking", {"score/length_correlation": then(0.1, 0.5)}, "alarm", 30, {"score/length_correlation": 0.29}),
    ("length_drift", {"length": then(10, 16)}, "warn", 30, {"length": then(10, 14)}),
    ("truncation", {"truncated": then(0.0, 0.6)}, "alarm", 30, {"truncated": 0.04}),
    ("length_only", {"eval/accuracy": [0.5, 0.7], "eval/accuracy/low": [0.4, 0.6], "eval/longer_accuracy": 0.62},
     "warn", None, {"eval/accuracy": [0.5, 0.7], "eval/accuracy/low": [0.4, 0.66], "eval/longer_accuracy": 0.62}),
    ("entropy_collapse", {"entropy": then(2.0, 0.1)}, "alarm", 30, {"entropy": then(2.0, 0.6)}),
    ("mode_collapse", {"answers/distinct_2": then(0.8, 0.5)}, "warn", 30, {"answers/distinct_2": then(0.8, 0.6)}),
    ("shared_answer", {"answers/shared": then(0.0, 0.2)}, "alarm", 30,
     {"answers/shared": [*[0.0] * 35, 0.0, 0.3, 0.0, 0.0, 0.3]}),
    ("same_answers", {"answers/same": then(0.1, 1.0)}, "alarm", 30, {"answers/same": 0.4}),
    ("repetition", {"answers/repeated": then(0.1, 0.6)}, "alarm", 30, {"answers/repeated": then(0.1, 0.29)}),
    ("equal_groups", {"groups/equal": then(0.1, 0.95)}, "alarm", 30, {"groups/equal": 0.5}),
    ("displacement", {"logps/chosen_per_token": 0.0, "logratio/chosen_per_token": then(0.0, -0.3)}, "warn", 30,
     {"logps/chosen_per_token": then(0.0, -9.0), "logratio/chosen_per_token": -0.15}),
    ("settled", {"rewards/accuracy": 1.0, "rewards/margin": then(1.0, 20.0)}, "warn", 30,
     {"rewards/accuracy": 0.9, "rewards/margin": 20.0}),
    ("accuracy_gap", GAP, "warn", None, {**GAP, "eval/rewards/accuracy/high": 0.96}),
    ("foreign_data", {"logps/chosen_per_token": then(-4.0, -1.0)}, "warn", 1,
     {"logps/chosen_per_token": then(-1.0, -4.0)}),
    ("data_shift", {"reference/chosen_per_token": then(-1.0, -2.0, at=36, noise=0.1)}, "alarm", 36,
     {"reference/chosen_per_token": then(-1.0, -2.0, at=36, noise=0.9)}),
    ("sources_apart", {"logps/chosen_per_token": -1.0, "logps/rejected_per_token": -2.0}, "warn", 1,
     {"logps/chosen_per_token": -1.0, "logps/rejected_per_token": -1.4}),
    ("duplicate_rows", {"rows/duplicates": then(0.0, 0.6)}, "alarm", 30, {"rows/duplicates": 0.09}),
    ("swapped_labels", {"rewards/contradicted": then(0.05, 0.3, at=36, noise=0.02)}, "alarm", 36,
     {"rewards/contradicted": then(0.05, 0.3, at=36, noise=0.3)}),
]  # fmt: skip


def test_every_monitor_has_a_case() -> None:
    assert sorted({case[0] for case in CASES}) == sorted(MONITORS)


@pytest.mark.parametrize(("name", "bad", "level", "since", "good"), CASES, ids=[c[0] for c in CASES])
def test_a_monitor_finds_what_it_is_for_and_nothing_near_by(
    name: str, bad: Metrics, level: str, since: int | None, good: Metrics
) -> None:
    finding = found(name, bad, FACTS)
    assert finding is not None
    assert (finding.level, finding.since) == (level, since)
    assert (
        len(finding.cause) > 20
        and len(finding.action) > 10
        and any(c.isdigit() for c in finding.seen.replace("nan", "0"))
    )
    assert found(name, good, FACTS) is None


@pytest.mark.parametrize("name", [c[0] for c in CASES])
def test_a_monitor_reads_what_it_says_and_is_silent_where_that_is_not_logged(name: str) -> None:
    bad = next(c[1] for c in CASES if c[0] == name)
    assert not MONITORS[name].reads or set(MONITORS[name].reads) & set(bad)
    assert found(name, {"something/else": 1.0}, FACTS) is None


@pytest.mark.parametrize("name", [c[0] for c in CASES if c[0] not in ("non_finite", "principle_conflict")])
def test_a_single_step_raises_nothing_that_needs_a_window(name: str) -> None:
    bad = next(c[1] for c in CASES if c[0] == name)
    last = {n: v if isinstance(v, int | float) else v[-1] for n, v in bad.items()}
    finding = found(name, last, FACTS, steps=1)
    assert (finding is None) == (name not in ("kl_unleashed", "ratio_first"))  # these two are facts, not statistics


Change = tuple[str, Metrics, Facts, Callable[[Finding | None], bool]]
FURTHER: list[Change] = [
    ("kl_negative", {"kl": -0.04, "kl/se": 0.0}, FACTS, lambda f: f is None),
    ("kl_negative", {"kl": -1.0, "kl/se": 0.0}, FACTS, lambda f: f is not None and "no spread" in f.seen),
    ("kl_high", {"kl": 13.0}, Facts(kl_target=6.0), lambda f: f is not None and f.level == "alarm"),
    ("kl_high", {"kl": [*[13.0] * 39, 11.0]}, Facts(kl_target=6.0), lambda f: f is None),
    ("kl_unleashed", {"kl_coefficient": 0.0}, FACTS, lambda f: f is not None and "not measured" in f.seen),
    ("kl_unleashed", {"kl_coefficient": 0.0, "kl": 6.0}, FACTS, lambda f: f is not None and f.level == "alarm"),
    ("kl_unleashed", {"kl_coefficient": 0.0}, Facts(kl_unwanted=True), lambda f: f is None),
    ("reference_moves", {"lr": 1e-5, "grad_norm": 0.0, "rewards/chosen": 0.0}, FACTS, lambda f: f is None),
    ("reference_moves", {**LEARNS, "rewards/chosen": 0.0}, Facts(), lambda f: f is None),
    ("reference_moves", {**LEARNS, "rewards/chosen": 0.0}, Facts(reference=True, reference_fixed=False),
     lambda f: f is None),
    ("reference_moves", {**LEARNS, "kl/k3": 1e-6, "kl/step": 0.01, "length": 10.0}, FACTS, lambda f: f is not None),
    ("reference_moves", {**LEARNS, "kl/k3": 0.1, "kl/step": 0.01, "length": 10.0}, FACTS, lambda f: f is None),
    ("ratio_first", {"ratio/first": 1.01}, Facts(low_precision=True), lambda f: f is None),
    ("ratio_large", {"ratio": 3.0, "ratio/largest": 4.0}, FACTS, lambda f: f is not None),
    ("sampler_mismatch", {"sampler/kl": 1e-9, "sampler/error": 1.2}, FACTS, lambda f: f is not None),
    ("sampler_mismatch", {"sampler/kl": 1e-9, "sampler/largest": 0.1}, FACTS, lambda f: f is not None),
    ("sampler_mismatch", {"sampler/kl": 1e-9, "sampler/largest": 0.1}, Facts(low_precision=True), lambda f: f is None),
    ("value_failure", {"value/explained_variance": -0.5}, Facts(value_warmup=30), lambda f: f is None),
    ("value_failure", {"value/explained_variance": -0.5}, Facts(total=400), lambda f: f is None),
    ("value_failure", {"value/explained_variance": -0.1}, FACTS, lambda f: f is not None and f.level == "warn"),
    ("value_failure", {"value/explained_variance": then(0.0, -0.1, at=1, noise=0.5)}, FACTS, lambda f: f is None),
    ("length_hacking", {"longer_won": 0.8}, FACTS, lambda f: f is not None and f.level == "warn"),
    ("length_drift", {"length": then(10, 4)}, FACTS, lambda f: f is not None and "collapse" in f.cause),
    ("non_finite", {"score": [math.nan], "loss": [math.nan]}, FACTS, lambda f: f is not None and "scorer" in f.cause),
    ("non_finite", {"loss": [math.inf]}, FACTS, lambda f: f is not None and "learning rate" in f.cause),
    ("non_finite", {f"a{i}": [math.nan] for i in range(7)}, FACTS, lambda f: f is not None and "and 2 more" in f.seen),
    ("loss_spike", {"loss": 1.0, "grad_norm": then(1.0, 9.0, at=40, noise=0.1)}, FACTS,
     lambda f: f is not None and f.seen.startswith("grad_norm 9.1")),
    ("loss_rise", {"loss": then(-1.0, 3.0, at=36)}, FACTS, lambda f: f is None),
    ("lr_jump", {"lr": [0.0, 0.0, 1e-3]}, FACTS, lambda f: f is None),
    ("displacement", {"logps/chosen_per_token": then(-1.0, -2.0)}, Facts(),
     lambda f: f is not None and f.level == "alarm" and f.values["lost"] == pytest.approx(1.0)),
    ("data_shift", {"reference/chosen_per_token": then(-2.0, -1.0, at=36, noise=0.1)}, FACTS,
     lambda f: f is not None and "easier" in f.cause),
    ("data_shift", {"reference/chosen_per_token": then(-1.0, -2.0, at=36)}, Facts(reference_fixed=False),
     lambda f: f is None),
    ("duplicate_rows", {"rows/duplicates": 0.3}, FACTS, lambda f: f is not None and f.level == "warn"),
    ("swapped_labels", {"contradicted": then(0.05, 0.3, at=36, noise=0.02)}, FACTS, lambda f: f is not None),
    ("accuracy_gap", {"accuracy": 1.0, "eval/accuracy": 0.6, "eval/accuracy/high": 0.7}, FACTS,
     lambda f: f is not None),
    ("accuracy_gap", {"accuracy": 0.7, "eval/accuracy": 0.6, "eval/accuracy/high": 0.65}, FACTS, lambda f: f is None),
    ("over_optimisation", {**OVER, "eval/score": [0.1, 0.5, 0.7, 0.6]}, FACTS, lambda f: f is None),
    ("over_optimisation", {n: v for n, v in OVER.items() if n != "kl"}, FACTS,
     lambda f: f is not None and "peak" not in f.values),
    ("length_only", {"eval/accuracy": 0.5, "eval/accuracy/low": 0.4, "eval/longer_accuracy": 0.62}, FACTS,
     lambda f: f is None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "metrics", "facts", "holds"), FURTHER, ids=[f"{c[0]}-{i}" for i, c in enumerate(FURTHER)]
)
def test_what_a_run_is_changes_what_its_figures_mean(
    name: str, metrics: Metrics, facts: Facts, holds: Callable[[Finding | None], bool]
) -> None:
    assert holds(found(name, metrics, facts))


def test_a_gap_that_a_few_steps_explain_is_called_stale_and_its_age_is_told() -> None:
    """KL grows with the square of the steps: 9 times that of one step is three steps."""
    made = history({"sampler/kl": 0.018, "kl/step": 0.002})
    stale = sampler_mismatch(made, LIMITS)
    assert stale is not None and "stale rollouts" in stale.cause and "about 3 steps" in stale.cause
    other = sampler_mismatch(history({"sampler/kl": 2.5, "kl/step": 0.002}), LIMITS)
    assert other is not None and "another computation" in other.cause and "chat template" in other.cause


def test_the_predicted_peak_is_that_of_gaos_law() -> None:
    """gold = d (1 − 0.5 log d) peaks at d = e: past it the gold falls, and the alarm says where the peak was."""
    d = np.array([1.0, 2.0, math.e, 4.0, 6.0])
    gold = d * (1 - 0.5 * np.log(d))
    metrics = {"eval/gold": [0.0, *gold], "eval/gold/high": [0.1, *(gold + 0.01)], "eval/score": list(range(6)),
               "kl": [0.0, *np.square(d)]}  # fmt: skip
    finding = found("over_optimisation", metrics)
    assert finding is not None and finding.values["peak"] == pytest.approx(math.e, rel=1e-6)


def test_history_is_bounded_and_knows_both_ends() -> None:
    made = history({"x": [float(s) for s in range(1, 1001)]})
    assert made.size <= 4 * KEPT + HEAD
    assert made.recent("x", 1000, least=1).tolist() == [float(s) for s in range(1001 - KEPT, 1001)]  # type: ignore[union-attr]
    assert made.last("x") == made.now("x") == 1000.0
    assert made.start("x", 4) == pytest.approx(2.5)
    assert made.first("x", 3).tolist() == [1.0, 2.0, 3.0]  # type: ignore[union-attr]
    assert made.recent("x", 3).tolist() == [998.0, 999.0, 1000.0]  # type: ignore[union-attr]
    assert made.steps("x", 2) == [999, 1000]
    assert made.at("x", 990) == 990.0
    assert made.at("x", 10) is None
    assert made.since("x", lambda v: v > 950) == 951
    assert (made.recent("y", 1), made.start("y", 1), made.first("y", 1), made.last("y"), made.now("y")) == (None,) * 5


def test_history_keeps_no_number_that_is_none() -> None:
    made = history({"x": [1.0, math.inf, 3.0]})
    assert made.recent("x", 2).tolist() == [1.0, 3.0]  # type: ignore[union-attr]
    made.add(4, {"x": math.nan})
    assert list(made.broken) == ["x"] and made.now("x") is None and made.last("x") == 3.0


def test_above_and_below_by_hand() -> None:
    made = history({"x": [0.0, 1.0, 3.0, 5.0]})
    high = above(made, "x", 2, 3.5, 3.9)
    assert high is not None and (high.level, high.mean, high.threshold, high.since) == ("alarm", 4.0, 3.9, 4)
    assert above(made, "x", 2, 4.0) is None
    assert above(made, "x", 5, 0.0) is None
    low = below(made, "x", 4, 2.5)
    assert low is not None and (low.level, low.mean, low.threshold) == ("warn", 2.25, 2.5)
    assert below(made, "x", 4, 2.0) is None
    assert below(made, "x", 5, 9.0) is None


def test_a_jump_is_measured_in_standard_errors_of_a_difference_of_means() -> None:
    """Before: 20 values of ±1, σ = 1; after: 5 of 3. The error is √(1/5 + 1/20) = 0.5, so the rise is six of them."""
    values = [*[1.0, -1.0] * 10, *[3.0] * 5]
    leap = jump(history({"x": values}), "x", LIMITS)
    assert leap is not None
    assert (leap.rise, leap.error, leap.since) == (3.0, pytest.approx(0.5), 21)
    assert jump(history({"x": values}), "x", LIMITS.model_copy(update={"jump_sigma": 6.0})) is None
    assert jump(history({"x": values[-12:]}), "x", LIMITS) is None
