"""What learning from the model's own answers reached: text and curves from benchmarks/results/learning/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t as student

HERE = Path(__file__).resolve().parent
RUNS = HERE / "results" / "learning"
PICTURE = HERE.parent / "docs" / "images" / "learning.png"
SENTIMENT = ("ppo", "rloo", "grpo", "reinforce", "iterative-dpo", "offline-dpo")
REVIEWS = {"cut": "reviews cut to the length of the answers", "whole": "whole reviews, and fewer of them"}
KL, DISTINCT, GAIN = 10.0, 0.7, 1.0  # wanted of PPO


def runs() -> dict[str, list[dict[str, Any]]]:
    """By the name of the file without its seed, seeds in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RUNS.glob("*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
    return {name: sorted(seeds, key=lambda r: r["seed"]) for name, seeds in found.items()}


def where(run: dict[str, Any]) -> str:
    """The machine in a few words."""
    machine = run["machine"]
    return machine.get("gpu") if run["device"] == "cuda" else f"{machine['cores']} cores"


def sentiment(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables of the reviews task, one a reward model; empty without a run of it."""
    tables = {r: {m: found[f"{m}-{r}"] for m in SENTIMENT if f"{m}-{r}" in found} for r in REVIEWS}
    tables = {r: mine for r, mine in tables.items() if mine}
    if not tables:
        return []
    first = next(iter(next(iter(tables.values())).values()))[0]
    lines = [
        f"Reviews made kinder, after Ziegler et al. 2019 (`benchmarks/learn_rl.py`): LoRA, 24 new tokens after four words of "
        f"a review. The reward model is trained here; gold is VADER, which it never saw, on {first['openings']} held-out "
        f"openings, in standard deviations of the base model's score (gold before: {first['before']['gold']:.2f}, deviation "
        f"{first['before']['gold_std']:.2f}). PPO was to gain {GAIN:g} deviation at KL below {KL:g} nats an answer with "
        f"{DISTINCT:.0%} of the base model's distinct-2. Settings were chosen on other openings and another seed. "
        "Runs of the second table of more than ten minutes shared the machine with other work.\n"
    ]
    for reviews, mine in tables.items():
        accuracy = next(iter(mine.values()))[0]["reward_model_accuracy"]
        lines += [
            f"Reward model of {REVIEWS[reviews]}, held-out accuracy {accuracy[0]:.3f} [{accuracy[1]:.3f}, {accuracy[2]:.3f}]:\n",
            "| method | seed | gold gain | gold after | proxy before, after | KL | distinct-2 share | minutes | on |",
            "|---|---|---|---|---|---|---|---|---|",
            *(row(name, run) for name, seeds in mine.items() for run in seeds),
            "",
            *bound(mine, reviews),
        ]
    return [*lines, *rounds(next((mine for mine in tables.values() if "iterative-dpo" in mine), {}))]


def row(name: str, run: dict[str, Any]) -> str:
    """A line of the table."""
    after = run["after"]
    return (
        f"| {name} | {run['seed']} | {run['gold_gain_in_base_deviations']:+.2f} | {after['gold']:.2f} ± "
        f"{1.96 * after['gold_se']:.2f} | {run['before']['proxy']:.2f}, {after['proxy']:.2f} | {after['kl']:.1f} | "
        f"{run['distinct_2_share']:.2f} | {run['seconds'] / 60:.1f} | {where(run)} |"
    )


def gains(seeds: list[dict[str, Any]]) -> np.ndarray:
    """Gold gain of each seed, in standard deviations of the base model's score."""
    return np.array([r["gold_gain_in_base_deviations"] for r in seeds])


def half_width(seeds: np.ndarray) -> float:
    """Of the 95 % interval of a mean over seeds, Student's."""
    n = len(seeds)
    return float(student.ppf(0.975, n - 1) * seeds.std(ddof=1) / n**0.5) if n > 1 else float("inf")


def rounds(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Whether three rounds beat one on the same samples; by seed, because a seed's runs share their openings."""
    if not ("iterative-dpo" in found and "offline-dpo" in found):
        return []
    pairs = list(zip(found["iterative-dpo"], found["offline-dpo"], strict=False))
    three, one = gains([a for a, _ in pairs]), gains([b for _, b in pairs])
    d = three - one
    half = half_width(d)
    verdict = "beats" if d.mean() > half else "does not measurably beat"
    kl = [r["after"]["kl"] for r, _ in pairs]
    why = (
        f" Why: the policy moved by {min(kl):.1f} to {max(kl):.1f} nats in all, so that answers of the second and third round "
        f"are hardly others than those of the first; there is little distribution shift for fresh samples to mend."
    )
    return [
        f"Three rounds against one, on the same budget of answers: {three.mean():+.2f} against {one.mean():+.2f} deviations, "
        f"difference {d.mean():+.3f} ± {half:.3f} (95 %, Student over {len(d)} seeds). Iterative DPO **{verdict}** a single "
        f"offline round here.{'' if d.mean() > half else why}\n"
    ]


def bound(mine: dict[str, list[dict[str, Any]]], reviews: str) -> list[str]:
    """What a reward model can buy at all, and what PPO bought."""
    path = HERE / "results" / f"reward_limit_{reviews}.json"
    if "ppo" not in mine or not path.exists():
        return []
    limit, each = json.loads(path.read_text()), gains(mine["ppo"])
    last = limit["points"][-1]
    kl = [r["after"]["kl"] for r in mine["ppo"]]
    over = [f"seed {r['seed']} ({r['after']['kl']:.1f} ± {1.96 * r['after']['kl_se']:.1f})" for r in mine["ppo"]
            if r["after"]["kl"] >= KL]  # fmt: skip
    return [
        f"**PPO gains {each.mean():+.2f} ± {half_width(each):.2f} deviations in the mean** of {len(each)} seeds (95 %, Student), "
        f"{(each >= GAIN).sum()} of them {GAIN:g} or more, at a KL of {np.mean(kl):.1f} nats in the mean; over {KL:g} nats: "
        f"{', '.join(over) or 'none'}. What this reward model can buy: among "
        f"{limit['answers']} answers of the base model to one opening its score and VADER's correlate by "
        f"{limit['correlation']:.2f}. Choosing the best of {last['n']} by it ({last['kl']:.2f} nats) gains {last['gold']:+.2f} ± "
        f"{1.96 * last['gold_se']:.2f} deviations of gold, and {last['proxy']:+.2f} of its own score; choosing by VADER "
        f"itself, {last['ceiling']:+.2f}. A line over the square root of the KL, as Gao et al. 2022 found for best-of-n and "
        f"RL, gives {limit['at_10_nats']:+.2f} at {KL:g} nats (`benchmarks/reward_limit.py --reviews {reviews}`)."
        f"{longer() if reviews == 'whole' else leash()}\n"
    ]


def leash() -> str:
    """How the KL's target was chosen."""
    run = json.loads((HERE / "results" / "ppo-cut-tuning.json").read_text())
    target = run["settings"]["policy"]["kl_target"]
    return (
        f" On other openings and another seed, a KL target of {target:g} in {run['settings']['train']['max_steps']} steps had given "
        f"{run['gold_gain_in_base_deviations']:+.2f} at {run['after']['kl']:.1f} nats; target and steps were raised once "
        "after that, before the seeds were run."
    )


def longer() -> str:
    """That more steps did not help where the reward model was the limit."""
    run = json.loads((HERE / "results" / "ppo-longer.json").read_text())
    train = run["settings"]["train"]
    return (
        f" {train['max_steps']} steps at a rate of {train['lr']:g}, on other openings and another seed, raised the proxy to "
        f"{run['after']['proxy']:.2f} and gold by no more than {run['gold_gain_in_base_deviations']:+.2f}. What helped is the "
        "reward model above, whose reviews look as the answers do."
    )


def arithmetic(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Of GRPO with an exact-answer reward; empty without a run of it."""
    if not (seeds := found.get("grpo-arithmetic")):
        return []
    lines = [
        "GRPO with an exact-answer reward, sums and differences of one- and two-digit numbers "
        "(`benchmarks/learn_arithmetic.py`): greedy accuracy on 300 held-out problems. Settings were chosen on other "
        "problems and another seed.\n",
        "| seed | before | after | difference | sign test p | minutes | on |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in seeds:
        b, a, d = run["before"], run["after"], run["difference"]
        lines.append(
            f"| {run['seed']} | {b[0]:.3f} [{b[1]:.3f}, {b[2]:.3f}] | {a[0]:.3f} [{a[1]:.3f}, {a[2]:.3f}] | {d[0]:+.3f} "
            f"[{d[1]:+.3f}, {d[2]:+.3f}] | {run['p_value']:.1g} | {run['seconds'] / 60:.1f} | {where(run)} |"
        )
    return [*lines, ""]


def draw(found: dict[str, list[dict[str, Any]]]) -> None:
    """Score and KL over steps, a line a seed, a panel a method that draws more than once."""
    names = [n for n, seeds in found.items() if any(len({p.get("score") for p in r["curve"]}) > 1 for r in seeds)]
    figure, grid = plt.subplots(2, len(names), figsize=(3.1 * len(names), 5), sharex="col", squeeze=False)
    for column, name in enumerate(names):
        for row, (key, label) in enumerate((("score", "score of the answers drawn"), ("kl", "KL, nats an answer"))):
            axis = grid[row][column]
            for run in found[name]:
                points = [(p["step"], p[key]) for p in run["curve"] if key in p]
                if points:
                    x, y = np.array(points).T
                    axis.plot(x, y, linewidth=1.2, label=f"seed {run['seed']}")
            if not axis.lines:  # pairwise methods measure no KL a step
                axis.set_axis_off()
                grid[0][column].tick_params(labelbottom=True)
                grid[0][column].set_xlabel("step", fontsize=9)
                continue
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
            if row == 0:
                axis.set_title(name, fontsize=10)
            else:
                axis.set_xlabel("step", fontsize=9)
            if column == 0:
                axis.set_ylabel(label, fontsize=9)
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    plt.close(figure)


def lines() -> list[str]:
    """For docs/benchmarks.md; draws the picture on the way."""
    if not (found := runs()):
        return []
    draw(found)
    return ["\n## Learning from the model's own answers\n", *sentiment(found), *arithmetic(found),
            "![score of the answers drawn and KL over steps](images/learning.png)"]  # fmt: skip
