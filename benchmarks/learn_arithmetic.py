"""Does GRPO with an exact-answer reward teach arithmetic? Sums and differences of one- and two-digit numbers.

The prompt shows three worked problems; the answer is right if its number is. Held-out problems share no pair of operands
with those of training and only measure (greedy). Settings were fixed before the first run of a seed.

    python benchmarks/learn_arithmetic.py --seed 0 --scratch FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from run import machine

from trueup.config import RunConfig
from trueup.feedback.base import Answered
from trueup.feedback.rules import Rule
from trueup.models.sampling import Sampling
from trueup.ops.stats import paired_test, wilson
from trueup.recipes.answers import open_sampler, read_prompts, rendered
from trueup.recipes.build import machine_named
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl
from trueup.settings import load_config, parse_overrides

OUT = Path(__file__).resolve().parent / "results" / "learning"
MODEL = "bundled:smollm2-135m-instruct"
SHOTS = "4+5=9\n31-7=24\n12+40=52\n"
NEW, HELD_OUT = 5, 300


def problems(tuning: bool = False) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """For training and for measuring; half of the operands have one digit. ``tuning``: other problems measure."""
    rng = random.Random(0)
    small, large = range(1, 10), range(10, 100)
    pairs = [(rng.choice(rng.choice((small, large))), rng.choice(rng.choice((small, large)))) for _ in range(6000)]
    pairs = list(dict.fromkeys((max(p), min(p)) for p in pairs))
    rng.shuffle(pairs)
    rows = []
    for i, (a, b) in enumerate(pairs):
        plus = rng.random() < 0.5
        text = f"{a}{'+' if plus else '-'}{b}="
        rows.append({"id": f"p{i}", "prompt": SHOTS + text, "answer": str(a + b if plus else a - b)})
    learn = rows[2 * HELD_OUT :]
    return learn, rows[HELD_OUT : 2 * HELD_OUT] if tuning else rows[:HELD_OUT]


def right(model: str, path: Path) -> np.ndarray:
    """1 for each held-out problem that the greedy answer solves, ``[n]``."""
    sampler = open_sampler(model, machine_named(), chat="plain")
    prompts = read_prompts(str(path))
    found = {
        s.prompt: s.text
        for s in sampler.sample_ids(
            rendered(sampler, prompts), Sampling(temperature=0.0, max_new_tokens=NEW, stop=("\n",))
        )
    }
    rows = [Answered(id=p.id, prompt=p.prompt, answer=found[p.id], meta=p.meta) for p in prompts]
    return Rule("exact_number").score(rows)


def config_for(seed: int, steps: int, learn: Path, more: list[str]) -> RunConfig:
    """What a seed runs with."""
    given: dict[str, Any] = {
        "method": "grpo", "model.path": MODEL, "data.path": str(learn), "data.chat": "plain", "data.eval_fraction": 0.0,
        "data.max_length": 64, "reward": "rule:exact_number", "sample.n": 8, "sample.max_new_tokens": NEW,
        "sample.stop": ["\n"], "policy.kl_coef": 0.01, "policy.epochs": 1, "policy.minibatches": 1, "lora.rank": 16,
        "lora.alpha": 32.0, "train.lr": 5e-4, "train.batch_size": 64, "train.max_steps": steps, "train.epochs": 99.0,
        "train.warmup": 0.1, "train.seed": seed,
    }  # fmt: skip
    chosen = parse_overrides(more)
    return load_config(None, more, {key: value for key, value in given.items() if key not in chosen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for runs")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--tuning", action="store_true", help="measure on other problems, to choose settings")
    arguments, more = parser.parse_known_args()
    seed = arguments.seed
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in zip(("learn", "measure"), problems(arguments.tuning), strict=True):
        paths.append(arguments.scratch / f"arithmetic-{name}-{seed}.jsonl")
        paths[-1].write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = right(MODEL, paths[1])
    out = arguments.scratch / f"arithmetic-{seed}-{int(time.time() * 1000)}"
    config = config_for(seed, arguments.steps, paths[0], more)
    begun = time.monotonic()
    train(config, out, (lambda s: print(s.index, round(s.metrics["score"], 3), flush=True),))
    after, seconds = right(str(out), paths[1]), time.monotonic() - begun
    test = paired_test(after, before)
    keys = ("step", "score", "kl", "entropy", "length")
    report: dict[str, Any] = {
        "machine": machine(rates=False), "device": str(machine_named().device), "method": "grpo-arithmetic", "seed": seed,
        "seconds": seconds, "before": list(wilson(float(before.sum()), len(before))),
        "after": list(wilson(float(after.sum()), len(after))),
        "difference": list(test.difference), "p_value": test.p_value,
        "curve": [{k: line[k] for k in keys} for line in read_jsonl(out / "metrics.jsonl")],
        "settings": config.model_dump(mode="json", exclude={"data"}),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"grpo-arithmetic-{seed}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(
        "RESULT arithmetic",
        seed,
        more,
        round(seconds),
        report["before"],
        report["after"],
        report["difference"],
        flush=True,
    )


if __name__ == "__main__":
    main()
