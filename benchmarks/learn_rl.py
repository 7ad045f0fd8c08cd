"""Does learning from the model's own answers work? One run: a method, a seed, the task of sentiment.py, with LoRA.

Methods: PPO, RLOO, GRPO, REINFORCE; iterative-dpo in three rounds, and offline-dpo, the same budget of samples in one.
Reported: gold before and after in standard deviations of the base model's, KL to the base in nats an answer, distinct-2
before and after, the curve. Settings were chosen on other openings and another seed (--tuning), then fixed.

    python benchmarks/learn_rl.py --method ppo --seed 0 --scratch FOLDER
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from run import machine
from sentiment import DATA, HERE, MODEL, NEW, Measure, files, held_out_accuracy, reward_model

from trueup.config import RunConfig
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl
from trueup.settings import load_config, parse_overrides

PAIRWISE = {"iterative-dpo": 3, "offline-dpo": 1}  # rounds
POLICY: dict[str, dict[str, Any]] = {
    "ppo": {"sample.n": 1, "train.batch_size": 64, "policy.epochs": 2, "policy.minibatches": 2, "policy.value_clip": None},
    "rloo": {"sample.n": 4, "train.batch_size": 16, "policy.epochs": 1, "policy.minibatches": 2},
}  # fmt: skip
POLICY |= {"grpo": POLICY["rloo"], "reinforce": POLICY["ppo"] | {"policy.epochs": 1, "policy.value_clip": 0.2}}
# policies of the reward model of cut reviews reach scores of 2, of whole ones 1: a nat must cost more, and KL has a target
LEASH: dict[str, dict[str, Any]] = {
    "whole": {"policy.kl_coef": 0.05, "train.max_steps": 30},
    "cut": {"policy.kl_coef": 0.1, "policy.kl_target": 9.5, "policy.kl_horizon": 640.0, "train.max_steps": 35},
}
BUDGET = 384  # prompts of the pairwise methods, four answers each
CURVE = ("step", "score", "kl", "entropy", "length", "rewards/accuracy")


def config_for(method: str, seed: int, reviews: str, learn: Path, reward: Path, more: list[str]) -> RunConfig:
    """What a seed runs with."""
    given: dict[str, Any] = {
        "method": method, "model.path": MODEL, "data.path": str(learn), "data.chat": "plain", "data.eval_fraction": 0.0,
        "data.max_length": 64, "reward": str(reward), "sample.max_new_tokens": NEW, "lora.rank": 16, "lora.alpha": 32.0,
        "train.warmup": 0.1, "train.seed": seed,
    }  # fmt: skip
    if method in PAIRWISE:
        rounds = PAIRWISE[method]
        given |= {"method": "iterative-dpo", "sample.n": 4, "online.rounds": rounds, "online.prompts": BUDGET // rounds,
                  "train.batch_size": 16, "train.epochs": 3.0, "train.lr": 1e-4}  # fmt: skip
    else:
        given |= {"policy.kl": "reward", "train.lr": 5e-4, "train.epochs": 99.0} | LEASH[reviews] | POLICY[method]
    chosen = parse_overrides(more)
    return load_config(None, more, {key: value for key, value in given.items() if key not in chosen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--reviews", choices=["whole", "cut"], default="cut", help="what the reward model learns from")
    parser.add_argument("--method", choices=[*POLICY, *PAIRWISE], default="ppo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for runs; the reward model is kept in it")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning")
    parser.add_argument("--tuning", action="store_true", help="measure on other openings, to choose settings")
    parser.add_argument("--reward-only", action="store_true", help="make the reward model and stop")
    arguments, more = parser.parse_known_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    pairs, learn, measure = files(arguments.scratch, arguments.data, arguments.reviews, arguments.tuning)
    reward = reward_model(pairs)
    if arguments.reward_only:
        print("reward model, held-out pairs:", held_out_accuracy(reward, arguments.data, arguments.reviews), flush=True)
        return
    name = f"{arguments.method}-{arguments.reviews}-{arguments.seed}"
    out = arguments.scratch / f"{name}-{int(time.time() * 1000)}"
    config = config_for(arguments.method, arguments.seed, arguments.reviews, learn, reward, more)
    look = Measure(measure, reward)
    before = look(MODEL)
    begun = time.monotonic()
    train(
        config,
        out,
        (lambda s: print(s.index, {k: round(v, 3) for k, v in s.metrics.items() if k in CURVE}, flush=True),),
    )
    seconds = time.monotonic() - begun
    after = look(str(out))
    report = {
        "machine": machine(rates=False), "device": str(look.machine.device), "method": arguments.method, "seed": arguments.seed,
        "reviews": arguments.reviews,
        "seconds": seconds, "reward_model_accuracy": list(held_out_accuracy(reward, arguments.data, arguments.reviews)),
        "openings": len(look.tasks), "before": before, "after": after,
        "gold_gain_in_base_deviations": (after["gold"] - before["gold"]) / before["gold_std"],
        "distinct_2_share": after["distinct_2"] / before["distinct_2"],
        "curve": [{k: line[k] for k in CURVE if k in line} for line in read_jsonl(out / "metrics.jsonl")],
        "settings": config.model_dump(mode="json", exclude={"data", "reward"}),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print("RESULT", name, more, round(seconds), f"gain {report['gold_gain_in_base_deviations']:.3f}",
          {k: round(v, 3) for k, v in after.items() if k != "samples"}, f"distinct {report['distinct_2_share']:.3f}",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
