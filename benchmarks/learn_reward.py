"""Does a reward model learn more than a length rule? 1,200 pairs of hh_harmless, the rest held out by first user turn.

Fixed settings (the method's defaults, one epoch), nothing chosen by looking at the held-out rows. Writes a JSON with the
held-out accuracy, that of "the shorter answer is better", and the paired difference with its 95 % interval.

    python benchmarks/learn_reward.py --data FILE
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.ops.stats import paired_test, wilson
from trueup.recipes.build import build
from trueup.recipes.prepare import prepare, prompt_key
from trueup.train.evaluate import row_figures
from trueup.train.loop import LoopState, optimise
from trueup.train.methods import METHODS

HERE = Path(__file__).resolve().parent
PAIRS = 1200


def shorter_is_better(rows: list) -> np.ndarray:
    """1 where the rule is right, 0.5 for equal lengths, ``[n]``."""
    chosen = np.array([int(r.chosen.mask.sum()) for r in rows])
    rejected = np.array([int(r.rejected.mask.sum()) for r in rows])
    return (chosen < rejected) + 0.5 * (chosen == rejected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parents[1] / "shared/data/hh_harmless/harmless_base_test.jsonl.gz"
    parser.add_argument("--data", default=str(default))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "reward_model.json")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    config = RunConfig(
        method="reward",
        model=ModelConfig(path="bundled:smollm2-135m-instruct"),
        data=DataConfig(path=arguments.data, eval_fraction=0.25, max_length=512, too_long="drop", bad_rows="skip"),
        train=TrainConfig(batch_size=16, epochs=1.0, seed=0),
    )
    method = METHODS["reward"]
    prepared = prepare(config, method)
    prepared.held_out.extend(prepared.train[arguments.pairs :])
    del prepared.train[arguments.pairs :]
    job, _ = build(config, method, prepared)
    begun = time.perf_counter()
    for step in optimise(job.objective, job.optimizer, job.plan, config.train, LoopState()):
        print(f"step {step.index}/{job.plan.total}: loss {step.metrics['loss']:.4f}", flush=True)
    seconds = time.perf_counter() - begun
    right = row_figures(job.objective, prepared.held_out, config.train)["accuracy"]
    rule = shorter_is_better(prepared.held_out)
    clusters = [prompt_key(r) for r in prepared.held_out]
    test = paired_test(right, rule, clusters=clusters)
    result = {
        "train_pairs": len(prepared.train), "held_out_pairs": len(right), "train_seconds": round(seconds, 1),
        "accuracy": wilson(float(right.sum()), len(right)), "shorter_is_better": wilson(float(rule.sum()), len(rule)),
        "difference": test.difference, "better": test.better, "worse": test.worse, "p_value": test.p_value,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
