"""Does learning from the model's own answers work? PPO, RLOO, GRPO on the task of sentiment.py, with LoRA.

Reported for each seed: gold before and after in standard deviations of the base model's, KL to the base in nats an
answer, distinct-2 before and after. Settings were fixed before the first run of a seed.

    python benchmarks/learn_rl.py --method ppo --seeds 0 1 2 --scratch FOLDER [--steps 40]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from run import machine
from sentiment import DATA, HERE, MODEL, NEW, Measure, files, held_out_accuracy, reward_model

from trueup.config import DataConfig, LoraConfig, ModelConfig, PolicyConfig, RunConfig, SampleConfig, TrainConfig
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(DATA))
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
