"""How often the printed 95 % intervals hold the truth, over simulated evaluations whose truth is known.

    python benchmarks/coverage.py [--simulations 4000] [--only NAME] [--out benchmarks/results/coverage.json]
    python benchmarks/coverage.py --page    (the table in docs/evaluation.md, from the results)

Every row is a function of the library on data drawn anew; a row passes if 93.5-96.5 % of its intervals hold the truth.
Bootstrap replicates are fewer than the defaults (300): each simulation has its own, so their noise averages out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueup.evals.figure import difference_figure, rate_figure
from trueup.ops.agreement import agreement, cohen_kappa, krippendorff_alpha
from trueup.ops.calibration import best_of_n_credit, brier
from trueup.ops.ratings import rate_models
from trueup.ops.stats import Interval, bootstrap_mean, paired_test, wilson
from trueup.ops.winrate import join_orders, length_controlled, win_rate

HERE = Path(__file__).resolve().parent
SIZES = (50, 200, 805)
BAND = (0.935, 0.965)
DRAWS = 300
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Case:
    """One interval on one kind of data: ``simulate(rng, n, seed)`` gives an interval and the truth."""

    simulate: Callable[[Rng, int, int], tuple[Interval, float]]
    costly: bool = False  # half as many simulations


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x)))


def prompts(n: int, each: int) -> list[str]:
    return [str(i // each) for i in range(n)]


def shared(rng: Rng, n: int, each: int) -> np.ndarray:
    """A normal number shared by ``each`` rows at a time."""
    return np.repeat(rng.normal(size=-(-n // each)), each)[:n]


# --- the simulated worlds -----------------------------------------------------------------------------------------


def wilson_case(low: float, high: float) -> Case:
    def simulate(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
        rate = rng.uniform(low, high)
        return wilson(int(rng.binomial(n, rate)), n), rate

    return Case(simulate)


def mean_plain(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    return bootstrap_mean(rng.gamma(2.0, size=n), seed=seed, draws=DRAWS), 2.0


def mean_clustered(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    values = shared(rng, n, 5) + rng.normal(size=n)
    return bootstrap_mean(values, clusters=prompts(n, 5), seed=seed, draws=DRAWS), 0.0


def mean_weighted(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    """Answers weighted by their number of tokens, which goes with their value: truth E[wx]/E[w]."""
    weights = rng.integers(10, 200, n).astype(float)
    values = weights / 100 + rng.normal(size=n)
    truth = float((np.arange(10, 200) ** 2).mean() / np.arange(10, 200).mean() / 100)
    return bootstrap_mean(values, weights=weights, seed=seed, draws=DRAWS), truth


def wins_and_ties(low: float, high: float, tie: float) -> Case:
    def simulate(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
        rate = rng.uniform(low, high)
        drawn = np.where(rng.random(n) < tie, 0.5, rng.random(n) < rate)
        return win_rate(drawn), tie / 2 + (1 - tie) * rate

    return Case(simulate)


def wins_soft(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    """A judge's probabilities, most near 0 or 1, as in AlpacaEval 2."""
    return win_rate(rng.beta(0.1, 0.4, n)), 0.2


def wins_clustered(each: int, rate: float) -> Case:
    cut = {0.5: 0.0, 0.2: -0.8416212335729142 * math.sqrt(2)}[rate]

    def simulate(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
        return win_rate((shared(rng, n, each) + rng.normal(size=n) < cut).astype(float), prompts(n, each)), rate

    return Case(simulate)


def both_orders(rng: Rng, n: int, flips: bool) -> tuple[Interval, float]:
    """A judge who likes what stands first: both orders of one row share its quality."""
    quality, liking = rng.normal(size=n), 0.5
    first = (quality + liking + 0.7 * rng.normal(size=n) > 0).astype(float)
    second = (quality - liking + 0.7 * rng.normal(size=n) > 0).astype(float)
    joined = join_orders(first, second)
    if flips:
        return win_rate(joined.flipped), FLIPS
    return win_rate(joined.preferences), 0.5


def _flip_truth() -> float:
    """∫ φ(q) (a(q)(1 − b(q)) + (1 − a(q)) b(q)) dq, a and b the chances to win in each order."""
    q = np.linspace(-9, 9, 40001)
    weight = np.exp(-q * q / 2) / math.sqrt(2 * math.pi) * (q[1] - q[0])
    erf = np.vectorize(math.erf)
    a, b = ((1 + erf((q + s) / 0.7 / math.sqrt(2))) / 2 for s in (0.5, -0.5))
    return float((weight * (a * (1 - b) + (1 - a) * b)).sum())


FLIPS = _flip_truth()


def orders_clustered(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    quality = shared(rng, n, 4) + rng.normal(size=n)
    verdicts = [(quality + s + rng.normal(size=n) > 0).astype(float) for s in (0.5, -0.5)]
    return win_rate(join_orders(*verdicts).preferences, prompts(n, 4)), 0.5


def controlled(theta: float, phi: float, soft: float = 0.0, each: int = 1) -> Case:
    """logit p = θ + φ·tanh(gap/sd); ``soft`` > 0: Beta labels of that concentration; else wins and losses."""

    def simulate(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
        gap = 400 * rng.normal(size=n) * np.exp(rng.normal(0, 0.5, n))
        mean = sigmoid(theta + phi * np.tanh(gap / (400 * math.exp(0.25 * 2))))
        if soft:
            labels = np.clip(rng.beta(mean * soft, (1 - mean) * soft), 0, 1)
        else:  # a threshold that rows of a prompt share in part keeps each row's chance at ``mean``
            mix = shared(rng, n, each) * math.sqrt(0.5) + rng.normal(size=n) * math.sqrt(0.5)
            labels = (normal_cdf(mix) < mean).astype(float)
        names = prompts(n, each) if each > 1 else None
        got = length_controlled(labels, gap, np.zeros(n), clusters=names, draws=DRAWS, seed=seed)
        return got.win_rate, float(sigmoid(theta))

    return Case(simulate, costly=True)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.asarray([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])


def paired(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    common = rng.normal(size=n)
    before, after = ((common + rng.normal(size=n) + s > 0).astype(float) for s in (0.0, 0.3))
    truth = 0.5 * math.erfc(-0.3 / 2) - 0.5
    return paired_test(after, before, seed=seed).difference, truth


def paired_clustered(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    names = prompts(n, 4)
    return paired_test(0.2 + shared(rng, n, 4) + rng.normal(size=n), np.zeros(n), clusters=names, seed=seed)[0], 0.2


STRENGTH = np.array([-0.9, -0.3, 0.2, 1.0])


def rated(ties: str, model: int) -> Case:
    """n prompts, each with three of the six pairs of four models; the prompt moves two of them together."""

    def simulate(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
        pairs = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])
        chosen = pairs[np.argsort(rng.random((n, 6)), axis=1)[:, :3]].reshape(-1, 2)
        gap = STRENGTH[chosen[:, 0]] - STRENGTH[chosen[:, 1]]
        nu = 0.8 if ties == "davidson" else 0.0
        odds = np.stack([np.exp(gap / 2), np.full_like(gap, nu), np.exp(-gap / 2)], axis=1)
        edges = np.cumsum(odds / odds.sum(1, keepdims=True), axis=1)
        drawn = (rng.random(len(gap))[:, None] > edges).sum(1)
        one, two = ([f"m{i}" for i in chosen[:, side]] for side in (0, 1))
        got = rate_models(one, two, 1 - drawn / 2, clusters=prompts(3 * n, 3), ties=ties, draws=DRAWS, seed=seed)
        if model < 0:
            assert got.tie is not None
            return got.tie, nu
        return got.ratings[model], float(STRENGTH[model])

    return Case(simulate, costly=True)


TABLE = np.array([[0.40, 0.08, 0.02], [0.05, 0.25, 0.03], [0.02, 0.03, 0.12]])
EXPECTED = float((TABLE.sum(0) * TABLE.sum(1)).sum())
KAPPA = (float(np.trace(TABLE)) - EXPECTED) / (1 - EXPECTED)


def two_raters(rng: Rng, n: int) -> tuple[list[int], list[int]]:
    cells = rng.choice(9, n, p=TABLE.ravel())
    return (cells // 3).tolist(), (cells % 3).tolist()


def agree(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    return agreement(*two_raters(rng, n)), float(np.trace(TABLE))


def kappa(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    return cohen_kappa(*two_raters(rng, n), draws=DRAWS, seed=seed), KAPPA


def kappa_clustered(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    """Two rows a prompt with the same truth; each rater is right with probability 0.85: κ = 1 − 4·0.85·0.15."""
    truth = np.repeat(rng.random(n // 2) < 0.5, 2)
    one, two = ((truth ^ (rng.random(len(truth)) < 0.15)).tolist() for _ in range(2))
    return cohen_kappa(one, two, clusters=prompts(len(truth), 2), draws=DRAWS, seed=seed), 1 - 4 * 0.85 * 0.15


def alpha(rng: Rng, n: int, seed: int) -> tuple[Interval, float]:
    """Three raters, a fifth of the labels missing; balanced truth, each right with 0.85: α = 1 − 4·0.85·0.15."""
    truth = rng.random((n, 1)) < 0.5
    given = truth ^ (rng.random((n, 3)) < 0.15)
    missing = rng.random((n, 3)) < 0.2
    rows = [[None if m else bool(g) for g, m in zip(a, b, strict=True)] for a, b in zip(given, missing, strict=True)]
    return krippendorff_alpha(rows, draws=DRAWS, seed=seed), 1 - 4 * 0.85 * 0.15


def best_of_four(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    """Integer scores, so that ties happen; truth by enumeration of the four scores."""
    scores = rng.integers(0, 4, (n, 4))
    scores[:, 0] += rng.integers(0, 3, n)
    return win_rate(best_of_n_credit(scores, np.zeros(n, dtype=int))), BEST


def _best_truth() -> float:
    total = 0.0
    for top in range(6):
        share = sum(1 for a in range(4) for b in range(3) if a + b == top) / 12
        below, same = min(top, 4) / 4, 0.25 if top < 4 else 0.0
        total += share * sum(math.comb(3, t) * same**t * below ** (3 - t) / (t + 1) for t in range(4))
    return total


BEST = _best_truth()


def brier_case(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    p = rng.random(n)  # calibrated: E (p − y)² = E p(1 − p) = 1/6
    return brier(p, (rng.random(n) < p).astype(float)), 1 / 6


def rates_apart(rng: Rng, n: int, _: int) -> tuple[Interval, float]:
    """Refusals to unsafe and to safe prompts, 4 : 5 as in XSTest."""
    safe = n * 5 // 9
    one, two = (rng.random(k) < rate for k, rate in ((n - safe, 0.8), (safe, 0.2)))
    got = difference_figure("gap", *(rate_figure("rate", hits.astype(float)) for hits in (one, two)))
    return Interval(got.mean, got.low, got.high), 0.6


CASES: dict[str, Case] = {
    "wilson, rates 0.4-0.6": wilson_case(0.4, 0.6),
    "wilson, rates 0.2-0.4": wilson_case(0.2, 0.4),
    "wilson, rates 0.05-0.2": wilson_case(0.05, 0.2),
    "bootstrap_mean, skewed": Case(mean_plain),
    "bootstrap_mean, 5 rows a prompt": Case(mean_clustered),
    "bootstrap_mean, weights": Case(mean_weighted),
    "win_rate, 0.4-0.6, no ties": wins_and_ties(0.4, 0.6, 0.0),
    "win_rate, 0.2-0.4, 30 % ties": wins_and_ties(0.2, 0.4, 0.3),
    "win_rate, 0.05-0.2, 10 % ties": wins_and_ties(0.05, 0.2, 0.1),
    "win_rate, soft labels": Case(wins_soft),
    "win_rate, 2 rows a prompt": wins_clustered(2, 0.5),
    "win_rate, 5 rows a prompt, 0.2": wins_clustered(5, 0.2),
    "win_rate, two orders": Case(lambda rng, n, _: both_orders(rng, n, flips=False)),
    "win_rate, flips of two orders": Case(lambda rng, n, _: both_orders(rng, n, flips=True)),
    "win_rate, two orders, 4 rows a prompt": Case(orders_clustered),
    "length_controlled, 0.5": controlled(0.0, 1.0),
    "length_controlled, 0.27": controlled(-1.0, 1.5),
    "length_controlled, soft": controlled(-0.7, 1.5, soft=0.5),
    "length_controlled, 2 rows a prompt": controlled(0.5, 1.0, each=2),
    "paired_test": Case(paired),
    "paired_test, 4 rows a prompt": Case(paired_clustered),
    "rate_models, middle": rated("half", 2),
    "rate_models, strongest": rated("half", 3),
    "rate_models, Davidson, strongest": rated("davidson", 3),
    "rate_models, Davidson, ties": rated("davidson", -1),
    "agreement": Case(agree),
    "cohen_kappa": Case(kappa),
    "cohen_kappa, 2 rows a prompt": Case(kappa_clustered),
    "krippendorff_alpha, missing labels": Case(alpha),
    "accuracy, best of 4 with ties": Case(best_of_four),
    "brier": Case(brier_case),
    "difference_figure, refusals": Case(rates_apart),
}


def measure(name: str, n: int, simulations: int) -> dict[str, str | int | float | bool]:
    case = CASES[name]
    count = simulations // 2 if case.costly else simulations
    rng, below, above, width, began = np.random.default_rng(20_000 + n), 0, 0, 0.0, time.perf_counter()
    for trial in range(count):
        got, truth = case.simulate(rng, n, trial)
        below += not got.low <= truth  # the interval lies above the truth; nan counts as a miss
        above += got.low <= truth and not truth <= got.high
        width += got.high - got.low
    covered = 1 - (below + above) / count
    return {
        "interval": name,
        "n": n,
        "simulations": count,
        "covered": round(covered, 4),
        "monte_carlo_error": round(math.sqrt(covered * (1 - covered) / count), 4),
        "truth_below": round(below / count, 4),
        "truth_above": round(above / count, 4),
        "mean_width": round(width / count, 4),
        "within_band": BAND[0] <= covered <= BAND[1],
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One row an interval, one column a size."""
    sizes = sorted({row["n"] for row in rows})
    lines = ["| interval | " + " | ".join(f"n = {n}" for n in sizes) + " |", "|---|" + "---|" * len(sizes)]
    for name in dict.fromkeys(row["interval"] for row in rows):
        own = {row["n"]: row for row in rows if row["interval"] == name}
        cells = " | ".join(f"{100 * own[n]['covered']:.1f} %" for n in sizes)
        lines.append(f"| {name} ({own[sizes[0]]['simulations']:,} simulations) | {cells} |")
    return "\n".join(lines)


def page(results: Path) -> None:
    """Puts the table between the marks of docs/evaluation.md."""
    place = HERE.parent / "docs" / "evaluation.md"
    rows = json.loads(results.read_text())["rows"]
    before, _, rest = place.read_text().partition("<!-- coverage -->\n")
    place.write_text(
        f"{before}<!-- coverage -->\n{table(rows)}\n<!-- /coverage -->{rest.partition('<!-- /coverage -->')[2]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--page", action="store_true", help="write the table in docs/evaluation.md, and nothing else")
    parser.add_argument("--only", default="", help="rows whose name starts with this")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coverage.json")
    options = parser.parse_args()
    if options.page:
        page(options.out)
        return
    rows = []
    for name in CASES:
        if name.startswith(options.only):
            for n in options.sizes:
                rows.append(measure(name, n, options.simulations))
                print(rows[-1], flush=True)
    missed = [f"{row['interval']} (n={row['n']}): {row['covered']}" for row in rows if not row["within_band"]]
    options.out.write_text(
        json.dumps({"band": BAND, "bootstrap_draws": DRAWS, "missed": missed, "rows": rows}, indent=1) + "\n"
    )
    print(f"{len(rows)} rows, {len(missed)} outside {BAND}: {missed}")


if __name__ == "__main__":
    main()
