"""How much gold score this reward model can buy at all, for a given KL: the best of n answers of the base model.

Choosing the best of n moves the distribution by log n − (n−1)/n nats (Stiennon et al. 2020, appendix G.3) and is close to
the most reward that any policy has at that KL (Gao et al. 2022, section 3). The gain of gold is expected over all subsets of
n among the drawn answers, so a curve needs one set of samples. Openings are those that were learnt from.

    python benchmarks/reward_limit.py --scratch FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from run import machine
from sentiment import DATA, HERE, MODEL, NEW, files, reward_model
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from trueup.feedback.base import Answered
from trueup.feedback.reward_model import RewardModel
from trueup.models.sampling import Sampling
from trueup.recipes.answers import open_sampler
from trueup.recipes.build import machine_named
from trueup.train.ppo import draw
from trueup.train.rollout import Task

OPENINGS, ANSWERS, SEED = 64, 64, 77


def best_of(choose: np.ndarray, gain: np.ndarray, n: int) -> np.ndarray:
    """Expected ``gain`` of the answer with the highest ``choose`` among n, over all subsets: ``[o, a]`` to ``[o]``."""
    total = choose.shape[1]
    order = np.argsort(choose, axis=1, kind="stable")
    weight = np.array([math.comb(i, n - 1) for i in range(total)], dtype=float) / math.comb(total, n)
    return np.take_along_axis(gain, order, axis=1) @ weight


def correlation(gold: np.ndarray, proxy: np.ndarray) -> float:
    """Of the two scores among the answers to one opening, pooled."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (gold, proxy))
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def curve(gold: np.ndarray, proxy: np.ndarray) -> list[dict[str, Any]]:
    """By n: KL, and gains in standard deviations of the base model's answers, chosen by the reward model and by gold."""
    sigma, points = gold.std(ddof=1), []
    for n in [2**k for k in range(1, int(math.log2(gold.shape[1])) + 1)]:
        by_proxy, by_gold = (best_of(chosen, gold, n) - gold.mean(axis=1) for chosen in (proxy, gold))
        points.append({
            "n": n, "kl": math.log(n) - (n - 1) / n, "gold": float(by_proxy.mean() / sigma),
            "gold_se": float(by_proxy.std(ddof=1) / len(gold) ** 0.5 / sigma), "ceiling": float(by_gold.mean() / sigma),
            "proxy": float(((best_of(proxy, proxy, n) - proxy.mean(axis=1)).mean()) / proxy.std(ddof=1)),
        })  # fmt: skip
    return points


def at(points: list[dict[str, Any]], kl: float) -> float:
    """Gain at a KL that was not drawn: a line through the origin over √KL (Gao et al. 2022, eq. 1), weighted by 1/se²."""
    x, y, se = (np.array([p[k] for p in points]) for k in ("kl", "gold", "gold_se"))
    weight, root = 1 / se**2, np.sqrt(x)
    return float((weight * root * y).sum() / (weight * x).sum() * math.sqrt(kl))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--scratch", type=Path, required=True, help="folder of learn_rl.py, with its reward model")
    parser.add_argument("--reviews", choices=["whole", "cut"], default="cut", help="what the reward model learns from")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    pairs, learn, _ = files(arguments.scratch, arguments.data, arguments.reviews)
    judge, words = RewardModel(reward_model(pairs)), SentimentIntensityAnalyzer()
    sampler = open_sampler(MODEL, machine_named())
    rows = [json.loads(line) for line in learn.read_text().splitlines()[:OPENINGS]]
    tasks = [
        Task(id=r["id"], ids=np.array(sampler.tokenizer(r["prompt"]).input_ids, dtype=np.int32), prompt=r["prompt"])
        for r in rows
    ]
    groups = draw(sampler, tasks, Sampling(n=ANSWERS, max_new_tokens=NEW), seed=SEED)
    texts = [[s.text for s in g] for g in groups]
    gold = np.array([[words.polarity_scores(x)["compound"] for x in g] for g in texts])
    answers = [Answered(id=f"{t.id}/{i}", prompt=t.prompt, answer=x) for t, g in zip(tasks, texts, strict=True)
               for i, x in enumerate(g)]  # fmt: skip
    proxy = np.asarray(judge.score(answers), dtype=float).reshape(gold.shape)
    points = curve(gold, proxy)
    report = {"machine": machine(rates=False), "reviews": arguments.reviews, "openings": OPENINGS, "answers": ANSWERS, "points": points,
              "correlation": correlation(gold, proxy), "at_10_nats": at(points, 10.0)}  # fmt: skip
    (HERE / "results" / f"reward_limit_{arguments.reviews}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "machine"}, indent=1))


if __name__ == "__main__":
    main()
