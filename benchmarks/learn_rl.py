"""Does learning from the model's own answers work? Reviews made kinder, judged by a lexicon the reward model never saw.

The experiment of Ziegler et al. 2019 in small: a reward model is trained here on `rt_polarity` (positive over negative
reviews); PPO, RLOO or GRPO with LoRA raise its score on continuations of held-out openings; VADER (PyPI) is the gold
score. Reported for each seed: gold before and after in standard deviations of the base model's, KL to the base in nats an
answer, distinct-2 before and after. Settings were fixed before the first run of a seed; held-out openings only measure.

    python benchmarks/learn_rl.py --method ppo --seeds 0 1 2 [--steps 40]
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import machine
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from trueup.config import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from trueup.feedback.base import Answered
from trueup.feedback.reward_model import RewardModel
from trueup.models.sampling import Sampling
from trueup.ops.diversity import distinct
from trueup.ops.stats import Interval, wilson
from trueup.recipes.answers import open_sampler
from trueup.recipes.build import machine_named
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl
from trueup.train.ppo import draw
from trueup.train.rollout import Task, branches_of

HERE = Path(__file__).resolve().parent
MODEL = "bundled:smollm2-135m-instruct"
NEW = 24
PAIRS, OPENINGS, HELD_OUT = 1600, 1600, 128


def reviews(path: str) -> dict[str, list[str]]:
    """Texts by label, each once, in an order that a seed fixes."""
    found: dict[str, set[str]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            found.setdefault(row["label"], set()).add(row["text"].strip())
    random = np.random.default_rng(0)
    return {label: [sorted(texts)[i] for i in random.permutation(len(texts))] for label, texts in found.items()}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Lines of JSON."""
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def files(folder: Path, data: str) -> tuple[Path, Path, Path]:
    """Pairs for the reward model; openings for learning and for measuring, of reviews that it never saw."""
    texts = reviews(data)
    pairs = [
        {"prompt": "Review:", "chosen": " " + good, "rejected": " " + bad}
        for good, bad in zip(texts["pos"][:PAIRS], texts["neg"][:PAIRS], strict=True)
    ]
    rest = [t for both in zip(texts["pos"][PAIRS:], texts["neg"][PAIRS:], strict=False) for t in both]
    openings = list(dict.fromkeys("Review: " + " ".join(t.split()[:4]) for t in rest))
    rows = [{"id": f"o{i}", "prompt": o} for i, o in enumerate(openings)]
    learn, measure = rows[HELD_OUT : HELD_OUT + OPENINGS], rows[:HELD_OUT]
    return (
        write(folder / "pairs.jsonl", pairs), write(folder / "learn.jsonl", learn), write(folder / "measure.jsonl", measure)
    )  # fmt: skip


def reward_model(folder: Path, pairs: Path) -> Path:
    """The reward model's run, made once."""
    out = folder / "reward"
    if not (out / "model").exists():
        config = RunConfig(
            method="reward",
            model=ModelConfig(path=MODEL),
            data=DataConfig(path=str(pairs), chat="plain", eval_fraction=0.0, max_length=128),
            train=TrainConfig(batch_size=32, epochs=1.0, lr=2e-5, seed=0),
        )
        train(config, out)
    return out


def held_out_accuracy(reward: Path, data: str) -> Interval:
    """How often the reward model puts a positive review above a negative one, both new to it."""
    texts, judge = reviews(data), RewardModel(reward)
    sides = [
        judge.score(
            [Answered(id=str(i), prompt="Review:", answer=" " + t) for i, t in enumerate(texts[k][PAIRS:][:200])]
        )
        for k in ("pos", "neg")
    ]
    return wilson(int((sides[0] > sides[1]).sum()), len(sides[0]))


def config_for(method: str, seed: int, steps: int, learn: Path, reward: Path) -> RunConfig:
    """What a seed runs with."""
    many = method in ("rloo", "grpo")
    return RunConfig(
        method=method,
        model=ModelConfig(path=MODEL),
        data=DataConfig(path=str(learn), chat="plain", eval_fraction=0.0, max_length=64),
        reward=str(reward),
        sample=SampleConfig(n=4 if many else 1, max_new_tokens=NEW),
        policy=PolicyConfig(kl_coef=0.05, kl="reward", epochs=2, minibatches=2, value_clip=None)
        if method == "ppo"
        else PolicyConfig(kl_coef=0.05, kl="reward", epochs=1, minibatches=2),
        lora=LoraConfig(rank=16, alpha=32.0),
        train=TrainConfig(lr=2e-4, batch_size=16 if many else 64, max_steps=steps, epochs=99, warmup=0.1, seed=seed),
    )


class Measure:
    """Gold score, proxy score, KL and diversity on the held-out openings, drawn alike for every model."""

    def __init__(self, measure: Path, reward: Path) -> None:
        rows = [json.loads(line) for line in measure.read_text().splitlines()]
        self.machine = machine_named()
        self.base = open_sampler(MODEL, self.machine)
        tokenizer = self.base.tokenizer
        self.tasks = [
            Task(id=r["id"], ids=np.array(tokenizer(r["prompt"]).input_ids, dtype=np.int32), prompt=r["prompt"])
            for r in rows
        ]
        self.judge, self.gold = RewardModel(reward), SentimentIntensityAnalyzer()

    def __call__(self, model: str) -> dict[str, Any]:
        sampler = self.base if model == MODEL else open_sampler(model, self.machine)
        groups = draw(sampler, self.tasks, Sampling(n=1, max_new_tokens=NEW), seed=999)
        texts = [g[0].text for g in groups]
        answers = [Answered(id=t.id, prompt=t.prompt, answer=x) for t, x in zip(self.tasks, texts, strict=True)]
        gold = np.array([self.gold.polarity_scores(x)["compound"] for x in texts])
        branches = [branches_of(t, g) for t, g in zip(self.tasks, groups, strict=True)]
        with torch.no_grad():
            ours, theirs = (
                torch.cat([p.sequences(p.layout(branches[i : i + 16])).logprob for i in range(0, len(branches), 16)])
                for p in (sampler.policy, self.base.policy)
            )
        kl = (ours - theirs).double().numpy()
        return {
            "gold": float(gold.mean()), "gold_std": float(gold.std(ddof=1)),
            "gold_se": float(gold.std(ddof=1) / len(gold) ** 0.5), "proxy": float(self.judge.score(answers).mean()),
            "kl": float(kl.mean()), "kl_se": float(kl.std(ddof=1) / len(kl) ** 0.5), "distinct_2": distinct(texts, 2),
            "length": float(np.mean([len(g[0].ids) for g in groups])),  # type: ignore[arg-type]
            "samples": texts[:6],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(HERE.parents[1] / "shared/data/rt_polarity/rt_polarity.jsonl.gz"))
    parser.add_argument("--method", choices=["ppo", "rloo", "grpo", "reinforce"], default="ppo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for runs; the reward model is kept in it")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    pairs, learn, measure = files(arguments.scratch, arguments.data)
    reward = reward_model(arguments.scratch, pairs)
    accuracy = held_out_accuracy(reward, arguments.data)
    print("reward model, held-out pairs:", accuracy, flush=True)
    look = Measure(measure, reward)
    before = look(MODEL)
    target = arguments.out / f"sentiment_{arguments.method}.json"
    report = json.loads(target.read_text()) if target.exists() else {"machine": machine(), "seeds": {}}
    report |= {"before": before, "reward_model_accuracy": list(accuracy)}
    print("before", {k: v for k, v in before.items() if k != "samples"}, flush=True)
    for seed in arguments.seeds:
        out = arguments.scratch / f"{arguments.method}-{seed}-{int(time.time())}"
        config = config_for(arguments.method, seed, arguments.steps, learn, reward)
        begun = time.monotonic()
        train(
            config,
            out,
            (lambda s: print(s.index, {k: round(s.metrics[k], 3) for k in ("score", "kl", "entropy")}, flush=True),),
        )
        seconds = time.monotonic() - begun
        after = look(str(out))
        curve = [
            {k: line[k] for k in ("step", "score", "kl", "entropy", "length")}
            for line in read_jsonl(out / "metrics.jsonl")
        ]
        report["seeds"][str(seed)] = {
            "seconds": seconds, "after": after, "curve": curve,
            "gold_gain_in_base_deviations": (after["gold"] - before["gold"]) / before["gold_std"],
            "distinct_2_share": after["distinct_2"] / before["distinct_2"],
            "settings": config.model_dump(mode="json", exclude={"data", "reward"}),
        }  # fmt: skip
        target.write_text(json.dumps(report, indent=1) + "\n")
        print(seed, round(seconds), {k: v for k, v in after.items() if k != "samples"}, flush=True)


if __name__ == "__main__":
    main()
