"""Does GRPO with an exact-answer reward teach arithmetic? Sums and differences of one- and two-digit numbers.

The prompt shows three worked problems; the answer is right if its number is. Held-out problems share no pair of operands
with those of training and only measure (greedy). Settings were fixed before the first run of a seed.

    python benchmarks/learn_arithmetic.py --seeds 0 1 2 --scratch FOLDER
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

from trueup.config import DataConfig, LoraConfig, ModelConfig, PolicyConfig, RunConfig, SampleConfig, TrainConfig
from trueup.feedback.base import Answered
from trueup.feedback.rules import Rule
from trueup.models.sampling import Sampling
from trueup.ops.stats import paired_test, wilson
from trueup.recipes.answers import open_sampler, read_prompts, rendered
from trueup.recipes.build import machine_named
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl

OUT = Path(__file__).resolve().parent / "results" / "arithmetic_grpo.json"
MODEL = "bundled:smollm2-135m-instruct"
SHOTS = "4+5=9\n31-7=24\n12+40=52\n"
NEW, HELD_OUT = 5, 300


def problems() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """For training and for measuring; half of the operands have one digit."""
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
    return rows[HELD_OUT:], rows[:HELD_OUT]


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


def config_for(seed: int, steps: int, learn: Path) -> RunConfig:
    """What a seed runs with."""
    return RunConfig(
        method="grpo",
        model=ModelConfig(path=MODEL),
        data=DataConfig(path=str(learn), chat="plain", eval_fraction=0.0, max_length=64),
        reward="rule:exact_number",
        sample=SampleConfig(n=8, max_new_tokens=NEW, stop=("\n",)),
        policy=PolicyConfig(kl_coef=0.01, epochs=1, minibatches=1),
        lora=LoraConfig(rank=16, alpha=32.0),
        train=TrainConfig(lr=2e-4, batch_size=32, max_steps=steps, epochs=99, warmup=0.1, seed=seed),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for runs")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in zip(("learn", "measure"), problems(), strict=True):
        paths.append(arguments.scratch / f"arithmetic-{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = right(MODEL, paths[1])
    print("before", wilson(float(before.sum()), len(before)), flush=True)
    report: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"seeds": {}}
    report |= {"machine": machine(), "before": list(wilson(float(before.sum()), len(before)))}
    for seed in arguments.seeds:
        out = arguments.scratch / f"arithmetic-{seed}-{int(time.time())}"
        config = config_for(seed, arguments.steps, paths[0])
        begun = time.monotonic()
        train(config, out, (lambda s: print(s.index, round(s.metrics["score"], 3), flush=True),))
        after, seconds = right(str(out), paths[1]), time.monotonic() - begun
        test = paired_test(after, before)
        keys = ("step", "score", "kl", "entropy", "length")
        report["seeds"][str(seed)] = {
            "seconds": seconds, "after": list(wilson(float(after.sum()), len(after))),
            "difference": list(test.difference), "p_value": test.p_value,
            "curve": [{k: line[k] for k in keys} for line in read_jsonl(out / "metrics.jsonl")],
            "settings": config.model_dump(mode="json", exclude={"data"}),
        }  # fmt: skip
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        print(seed, round(seconds), wilson(float(after.sum()), len(after)), test.difference, flush=True)


if __name__ == "__main__":
    main()
