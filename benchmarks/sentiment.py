"""The task of Ziegler et al. 2019 in small: reviews made kinder, judged by a lexicon that the reward model never saw.

A reward model is trained here on `rt_polarity` (positive over negative reviews); a method raises its score on
continuations of openings; VADER (PyPI) is the gold score on held-out openings, which only measure.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.feedback.base import Answered
from trueup.feedback.reward_model import RewardModel
from trueup.models.load import load_tokenizer
from trueup.models.sampling import Sampling
from trueup.ops.diversity import distinct
from trueup.ops.stats import Interval, wilson
from trueup.recipes.answers import open_sampler
from trueup.recipes.build import machine_named
from trueup.recipes.train import train
from trueup.train.ppo import draw
from trueup.train.rollout import Task, branches_of

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared/data/rt_polarity/rt_polarity.jsonl.gz"
MODEL = "bundled:smollm2-135m-instruct"
NEW = 24
PAIRS, LAST, OPENINGS, HELD_OUT = 1600, 2700, 1600, 256  # of each label, reviews between PAIRS and LAST give openings
OPENING = 4  # words
Reviews = Literal["whole", "cut"]  # what a reward model reads


def texts_by_label(path: str) -> dict[str, list[str]]:
    """Reviews, each once, in an order that a seed fixes."""
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


def as_answered(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A review cut as the answers of a policy are: an opening, then as many tokens as are drawn."""
    words = text.split()
    ids = tokenizer(" " + " ".join(words[OPENING:]), add_special_tokens=False).input_ids[:NEW]
    return " ".join(words[:OPENING]) + str(tokenizer.decode(ids))


def as_read(texts: list[str], reviews: Reviews) -> list[str]:
    """Reviews as the reward model reads them."""
    if reviews == "whole":
        return [" " + t for t in texts]
    tokenizer = load_tokenizer(MODEL)
    return [" " + as_answered(t, tokenizer) for t in texts]


def files(folder: Path, data: str, reviews: Reviews = "cut", tuning: bool = False) -> tuple[Path, Path, Path]:
    """Pairs for the reward model; openings for learning and for measuring, of reviews that it never saw.

    ``reviews``: "whole", the first 1600 of each label as they are; "cut", those and all beyond the openings' as long as
    answers are. ``tuning``: other openings measure, so that settings are not chosen on those that the results are of.
    """
    texts = texts_by_label(data)
    good, bad = (
        as_read(texts[k][:PAIRS] + (texts[k][LAST:] if reviews == "cut" else []), reviews) for k in ("pos", "neg")
    )
    pairs = [{"prompt": "Review:", "chosen": a, "rejected": b} for a, b in zip(good, bad, strict=False)]
    rest = [t for both in zip(texts["pos"][PAIRS:LAST], texts["neg"][PAIRS:LAST], strict=True) for t in both]
    openings = list(dict.fromkeys("Review: " + " ".join(t.split()[:OPENING]) for t in rest))
    rows = [{"id": f"o{i}", "prompt": o} for i, o in enumerate(openings)]
    measure = rows[HELD_OUT + OPENINGS :][:HELD_OUT] if tuning else rows[:HELD_OUT]
    learn, name = rows[HELD_OUT : HELD_OUT + OPENINGS], "tuning.jsonl" if tuning else "measure.jsonl"
    told = write(folder / f"pairs-{reviews}.jsonl", pairs)
    return told, write(folder / "learn.jsonl", learn), write(folder / name, measure)


def reward_model(pairs: Path) -> Path:
    """The reward model's run, made once, beside its pairs."""
    out = pairs.with_name(pairs.stem.replace("pairs", "reward"))
    if not (out / "model").exists():
        config = RunConfig(
            method="reward",
            model=ModelConfig(path=MODEL),
            data=DataConfig(path=str(pairs), chat="plain", eval_fraction=0.0, max_length=128),
            train=TrainConfig(batch_size=32, epochs=1.0, lr=2e-5, seed=0),
        )
        train(config, out)
    return out


def held_out_accuracy(reward: Path, data: str, reviews: Reviews) -> Interval:
    """How often the reward model puts a positive review above a negative one, both new to it."""
    texts, judge = texts_by_label(data), RewardModel(reward)
    sides = []
    for label in ("pos", "neg"):
        new = as_read(texts[label][PAIRS:LAST][:200], reviews)
        sides.append(judge.score([Answered(id=str(i), prompt="Review:", answer=t) for i, t in enumerate(new)]))
    return wilson(int((sides[0] > sides[1]).sum()), len(sides[0]))


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
        kl = (ours - theirs).double().cpu().numpy()
        return {
            "gold": float(gold.mean()), "gold_std": float(gold.std(ddof=1)),
            "gold_se": float(gold.std(ddof=1) / len(gold) ** 0.5), "proxy": float(self.judge.score(answers).mean()),
            "kl": float(kl.mean()), "kl_se": float(kl.std(ddof=1) / len(kl) ** 0.5), "distinct_2": distinct(texts, 2),
            "length": float(np.mean([len(g[0].ids) for g in groups])),  # type: ignore[arg-type]
            "samples": texts[:6],
        }  # fmt: skip
