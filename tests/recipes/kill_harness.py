"""Kills training runs with SIGKILL at random moments and resumes them until they end; run as a process of its own.

Imports everything once and forks before the first tensor operation, so that a trial costs about a second. Half of the
kills wait until a checkpoint is being written. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from trueup.config import (
    DataConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    OnlineConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    SaveConfig,
    TrainConfig,
)
from trueup.recipes.train import resume, train
from trueup.runs.checkpoint import latest_checkpoint

SAMPLING = ("ppo", "grpo", "rloo", "reinforce")
SAMPLED: dict[str, Any] = {
    "reward": {"rule": "regex", "arguments": {"pattern": "[a-e]"}},
    "sample": SampleConfig(n=2, max_new_tokens=12),
    "policy": PolicyConfig(kl_target=0.5, kl_horizon=50, kl="reward", scale_scores=True, minibatches=2),
}
ITERATED: dict[str, Any] = {
    "reward": SAMPLED["reward"],
    "sample": SAMPLED["sample"],
    "online": OnlineConfig(rounds=3, reference="ema"),
}


def config_for(method: str, model: str, data: str, lora: bool) -> RunConfig:
    return RunConfig(
        method=method,
        model=ModelConfig(path=model),
        data=DataConfig(path=data, eval_fraction=0.2, max_length=256),
        train=TrainConfig(lr=1e-3, batch_size=4, epochs=3, seed=7, precision="fp32", threads=1),
        **(SAMPLED if method in SAMPLING else ITERATED if method.startswith("iterative") else {}),
        lora=LoraConfig(rank=2, alpha=4.0, dropout=0.0 if method in SAMPLING else 0.1) if lora else None,
        eval=EvalConfig(every=5),
        save=SaveConfig(every=2, keep=2),
    )


def child(config: RunConfig, out: Path) -> None:
    """What the forked process does: start, or go on."""
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    log = os.open(str(out) + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(null, 1)
    os.dup2(log, 2)
    try:
        result = resume(out) if (out / "manifest.json").exists() else train(config, out)
        os._exit(0 if result.finished else 9)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def spawn(config: RunConfig, out: Path) -> int:
    pid = os.fork()
    if pid == 0:
        child(config, out)
    return pid


def writing(out: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return any(".tmp-" in name for name in os.listdir(out / "checkpoints"))
    return False


def kill_somewhere(pid: int, out: Path, rng: random.Random, seconds: float, in_write: bool) -> tuple[bool, bool]:
    """Kills the child; (was it still alive, was a checkpoint being written)."""
    deadline = time.monotonic() + seconds * rng.random()
    while not in_write and time.monotonic() < deadline:
        time.sleep(0.002)
    skip = rng.randrange(4)
    busy = False
    while in_write:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False, False
        now = writing(out)
        if now and not busy:
            if skip == 0:
                time.sleep(0.003 * rng.random())
                break
            skip -= 1
        busy = now
    if os.waitpid(pid, os.WNOHANG)[0]:
        return False, False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True, writing(out)


def fingerprint(out: Path) -> dict[str, str]:
    """Hashes of everything that must not depend on interruptions."""
    newest, _ = latest_checkpoint(out / "checkpoints")
    assert newest is not None, (out, (Path(str(out) + ".log")).read_text()[-2000:])
    files = [newest / "weights.safetensors", newest / "optimizer.safetensors", newest / "rng.safetensors"]
    files += [out / "metrics.jsonl", out / "results.json"]
    files += [f for f in (out / "samples.jsonl", out / "alarms.jsonl") if f.exists()]
    files += sorted((out / "model").glob("*.safetensors"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def trial(config: RunConfig, out: Path, rng: random.Random, seconds: float) -> list[bool]:
    """One run with one to three kills; for each kill, whether it hit a checkpoint write."""
    hits: list[bool] = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        alive, hit = kill_somewhere(spawn(config, out), out, rng, seconds, in_write=rng.random() < 0.5)
        if not alive:
            break
        hits.append(hit)
    _, status = os.waitpid(spawn(config, out), 0)
    assert status == 0, Path(str(out) + ".log").read_text()[-3000:]
    return hits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lora", action="store_true")
    arguments = parser.parse_args()
    config = config_for(arguments.method, arguments.model, arguments.data, arguments.lora)
    whole = arguments.scratch / "whole"
    begun = time.monotonic()
    _, status = os.waitpid(spawn(config, whole), 0)
    assert status == 0, Path(str(whole) + ".log").read_text()[-3000:]
    seconds = time.monotonic() - begun
    want = fingerprint(whole)
    rng = random.Random(arguments.seed)
    hits: list[bool] = []
    differing: list[str] = []
    number = 0
    while len(hits) < arguments.kills:
        out = arguments.scratch / f"trial{number}"
        number += 1
        hits += trial(config, out, rng, seconds)
        got = fingerprint(out)
        differing += [f"{out.name}:{name}" for name in sorted({*want, *got}) if got.get(name) != want.get(name)]
        shutil.rmtree(out)
    print(json.dumps({"method": arguments.method, "runs": number, "kills": len(hits), "in_write": sum(hits),
                      "differing": differing, "seconds": seconds}))  # fmt: skip


if __name__ == "__main__":
    main()
