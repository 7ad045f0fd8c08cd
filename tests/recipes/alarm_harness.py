"""Runs whose learning rate leaps in mid-run, killed at given steps and resumed; run as a process of its own.

Prints one JSON line: for each way to act on alarms, which files differ from those of a run that was never killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from trueup.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OnAlarm,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    SaveConfig,
    TrainConfig,
)
from trueup.recipes.train import resume, train
from trueup.train import loop, optim, ppo
from trueup.types import Step

LEAP = 9  # step from which on the learning rate is four times too high; half of that is no alarm any more
FILES = ("metrics.jsonl", "alarms.jsonl", "undone.jsonl", "samples.jsonl", "results.json", "model/model.safetensors")


def leaping(config: TrainConfig, peak: float, step: int, total: int) -> float:
    return optim.learning_rate(config, peak, step, total) * (4.0 if step >= LEAP else 1.0)


def config_for(method: str, model: str, data: str, on_alarm: OnAlarm) -> RunConfig:
    more: dict[str, Any] = {}
    if method == "ppo":
        more = {
            "reward": {"rule": "regex", "arguments": {"pattern": "[a-e]"}},
            "sample": SampleConfig(n=2, max_new_tokens=8),
            "policy": PolicyConfig(epochs=1),
        }
    return RunConfig(
        method=method,
        model=ModelConfig(path=model),
        data=DataConfig(path=data, eval_fraction=0.2, max_length=256),
        train=TrainConfig(lr=1e-5, batch_size=4, epochs=9, max_steps=14, precision="fp32", threads=1, warmup=0),
        eval=EvalConfig(every=7),
        save=SaveConfig(every=2, keep=2),
        monitors={"off": ("foreign_data", "truncation", "kl_negative", "equal_groups"), "actions": 1},  # type: ignore[arg-type]
        on_alarm=on_alarm,
        **more,
    )


def child(config: RunConfig, out: Path, kill_at: int | None) -> None:
    """What the forked process does: start or go on, and die by SIGKILL at a step."""
    torch.set_num_threads(1)
    log = os.open(str(out) + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)

    def listener(step: Step) -> None:
        if step.index == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        done = resume(out, (listener,)) if (out / "manifest.json").exists() else train(config, out, (listener,))
        os._exit(0 if done.finished else 9)
    except BaseException as error:
        traceback.print_exc()
        os._exit(getattr(error, "exit_code", 1))


def run(config: RunConfig, out: Path, kill_at: int | None = None) -> int:
    pid = os.fork()
    if pid == 0:
        child(config, out, kill_at)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() if (out / name).exists() else b"" for name in FILES}


def main() -> None:
    model, data, scratch = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for module in (loop, ppo):
        module.learning_rate = leaping  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for name in sys.argv[4:]:
        method, on_alarm, *steps = name.split(":")
        config = config_for(method, model, data, on_alarm)  # type: ignore[arg-type]
        whole = scratch / f"{method}-{on_alarm}"
        end = run(config, whole)
        assert end in (0, 3), Path(f"{whole}.log").read_text()[-3000:]
        wanted, differing = contents(whole), []
        for step in steps:
            out = scratch / f"{method}-{on_alarm}-{step}"
            assert run(config, out, int(step)) == -signal.SIGKILL
            assert run(config, out) == end, Path(f"{out}.log").read_text()[-3000:]
            differing += [f"{step}:{name}" for name, value in contents(out).items() if value != wanted[name]]
        found[name] = {"end": end, "differing": differing, "alarms": wanted["alarms.jsonl"].decode().splitlines(),
                       "undone": len(wanted["undone.jsonl"].splitlines())}  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
