"""Planted faults: are they detected soon, under the right name, and do clean runs stay silent?

    python benchmarks/faults.py [--workers N] [--seeds 5] [--clean 40] [--only NAME ...] [--scratch DIR]

Twelve faults, each in runs of a small model (benchmarks/fault_world.py) of which it spoils everything from some step
on; a fault counts as detected if a monitor that names it speaks within a tenth of the planned steps. Clean runs are of
five methods, without any fault and with the default thresholds; every alarm or warning in them is a false one. Last, a
PPO run whose scorer pays for length: left alone, and with ``on_alarm: rollback``. Thresholds were set on seeds from
1000 on; those that are reported start at 0. Writes benchmarks/results/faults.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fault_world as world
import torch
from fault_plants import PLANTS, Clock, replaced

from trueup.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    SaveConfig,
    TrainConfig,
)
from trueup.errors import TrainingError
from trueup.recipes import rollouts
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl
from trueup.types import Step

HERE = Path(__file__).resolve().parent
STEPS = 100
METHODS = ("sft", "reward", "dpo", "ppo", "grpo")  # of the clean runs
RATES = {"sft": 1e-4, "reward": 1e-3, "dpo": 2e-4, "ppo": 5e-5, "grpo": 5e-5}


@dataclass(frozen=True, slots=True)
class Fault:
    """A planted fault.

    Attributes:
        method: of the run that it spoils.
        begins: first spoilt step.
        names: monitors whose alarm names it.
        cause: what the alarm's cause must say.
        changes: sections of the settings that plant it, where settings do.
        different: prompts of the file that differ; None: all.
        steps: planned; a tenth of them counts as soon.
        lr: learning rate, where another than usual is needed for the model to find the exploit in time.
    """

    method: str
    begins: int
    names: tuple[str, ...]
    cause: str
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    different: int | None = None
    lr: float | None = None
    steps: int = STEPS

    @property
    def last(self) -> int:
        """The last step at which an alarm is soon."""
        return self.begins + self.steps // 10 - 1


FAULTS: dict[str, Fault] = {
    "length-hackable reward": Fault("grpo", 20, ("length_hacking",), "the scorer likes length"),
    "constant-phrase exploit": Fault("grpo", 20, ("mode_collapse", "shared_answer"), "that the scorer likes",
                                    lr=2e-4, steps=300),
    "learning rate x100": Fault("dpo", 50, ("lr_jump",), "learning rate was raised"),
    "KL coefficient 0": Fault("ppo", 1, ("kl_unleashed",), "the KL coefficient is 0", {"policy": {"kl_coef": 0.0}}),
    "reference moves": Fault("dpo", 1, ("reference_moves",), "the reference is the policy itself"),
    "stale rollouts": Fault("ppo", 20, ("sampler_mismatch",), "stale rollouts: answers come from older weights"),
    "30 % swapped labels": Fault("dpo", 50, ("swapped_labels",), "labels of the rows from there on are swapped"),
    "duplicated prompts": Fault("grpo", 1, ("duplicate_rows",), "duplicated prompts or rows", {}, different=12),
    "truncating length limit": Fault("grpo", 1, ("truncation",), "max_new_tokens is too small",
                                     {"sample": {"max_new_tokens": 10}}),
    "wrong chat template": Fault("dpo", 50, ("data_shift",), "a wrong chat template"),
    "NaN in the reward": Fault("ppo", 20, ("non_finite",), "the scorer gave a number that is none"),
    "collapsed sampler": Fault("grpo", 20, ("same_answers",), "the sampler has collapsed"),
}  # fmt: skip


class Enough(Exception):
    """The steps that count are over."""


def settings(method: str, scratch: Path, seed: int, fault: Fault | None = None) -> RunConfig:
    """A run of the world."""
    sections: dict[str, Any] = {}
    folder = scratch / "data"
    folder.mkdir(exist_ok=True)
    if method in ("ppo", "grpo"):
        data = world.prompts_file(folder / "prompts.jsonl", seed, different=fault.different if fault else None)
        sections = {"reward": "rule:world", "sample": {"n": 4, "max_new_tokens": 40},
                    "policy": {"epochs": 2, "kl_coef": 0.05, "value_lr": 3e-3}}  # fmt: skip
        if method == "grpo":
            del sections["policy"]["value_lr"]
    elif method == "sft":
        data = world.answers_file(folder / "answers.jsonl", seed, 1700)
    else:
        data = world.pairs_file(folder / "pairs.jsonl", seed)
    for name, change in (fault.changes if fault else {}).items():
        sections[name] = {**sections[name], **change}
    kinds: dict[str, Any] = {"sample": SampleConfig, "policy": PolicyConfig}
    return RunConfig(
        method=method,
        model=ModelConfig(path=str(world.base_model(scratch.parent))),
        data=DataConfig(path=str(data), eval_fraction=0.0 if fault else 0.05),
        loss={"beta": 0.5} if method == "dpo" else {},
        train=TrainConfig(lr=fault.lr if fault and fault.lr else RATES[method], batch_size=16, epochs=9, max_steps=fault.steps if fault else STEPS, seed=seed, precision="fp32",
                          threads=1, device="cpu"),
        eval=EvalConfig(every=0 if fault else 50),
        **{name: kinds[name](**value) if name in kinds else value for name, value in sections.items()},
    )  # fmt: skip


def run(config: RunConfig, out: Path, clock: Clock, last: int) -> list[dict[str, Any]]:
    """Runs to the last step that counts; the alarms."""

    def listener(step: Step) -> None:
        clock.step = step.index + 1
        if step.index > last:  # an alarm of a step is written after its listeners heard of it
            raise Enough

    try:
        train(config, out, (listener,))
    except (Enough, TrainingError):
        logging.getLogger(__name__).debug("%s ended", out)
    return list(read_jsonl(out / "alarms.jsonl")) if (out / "alarms.jsonl").exists() else []


def one_fault(base: Path, job: tuple[str, int]) -> dict[str, Any]:
    name, seed = job
    fault, clock, begun = FAULTS[name], Clock(), time.process_time()
    with scratch_of(base) as folder:
        config = settings(fault.method, folder, seed, fault)
        with PLANTS[name](clock, fault.begins):
            alarms = run(config, folder / "run", clock, fault.last)
    window = [a for a in alarms if fault.begins <= a["step"] <= fault.last]
    named = [a for a in window if a["monitor"] in fault.names and fault.cause in a["cause"]]
    return {
        "fault": name,
        "seed": seed,
        "detected": bool(named),
        "after": named[0]["step"] - fault.begins + 1 if named else None,
        "first_alarm_names_it": bool(window) and window[0]["monitor"] in fault.names and window[0] in named,
        "alarms": [[a["step"], a["monitor"], a["level"]] for a in window],
        "before": [[a["step"], a["monitor"], a["level"]] for a in alarms if a["step"] < fault.begins],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def one_clean(base: Path, job: tuple[str, int]) -> dict[str, Any]:
    method, seed = job
    clock, begun = Clock(), time.process_time()
    with scratch_of(base) as folder:
        config = settings(method, folder, seed)
        with PLANTS["none"](clock, STEPS + 1):
            alarms = run(config, folder / "run", clock, STEPS)
        timings = read_jsonl(folder / "run" / "timings.jsonl")
    watching, seconds = (sum(t[n] for t in timings) for n in ("watching_seconds", "seconds"))
    return {
        "method": method,
        "seed": seed,
        "alarms": [[a["step"], a["monitor"], a["level"], a["seen"]] for a in alarms],
        "watching_share": round(watching / seconds, 5),
        "watching_ms_a_step": round(1e3 * watching / len(timings), 3),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def one_hacking(base: Path, job: tuple[bool, int]) -> dict[str, Any]:
    """A PPO run whose scorer pays for words beyond what is good: left alone, or with rollback."""
    acts, seed = job
    with scratch_of(base) as folder:
        plain = settings("ppo", folder, seed)
        config = plain.model_copy(update={
            "data": plain.data.model_copy(update={"eval_fraction": 0.25}),
            "sample": plain.sample.model_copy(update={"max_new_tokens": 80}),
            "policy": plain.policy.model_copy(update={"kl_coef": 0.01}),
            "train": plain.train.model_copy(update={"lr": 1e-3}),
            "eval": EvalConfig(every=5, gold="rule:gold"),
            "save": SaveConfig(every=5, keep=2),
            "on_alarm": "rollback" if acts else "warn",
            # the scorer's liking for length is there from the first step: what is acted on is its effect
            "monitors": plain.monitors.model_copy(update={"kl_factor": 4.0, "off": ("length_hacking",)}),
        })  # fmt: skip
        stopped = ""
        with (
            replaced(rollouts, "scorer_for", lambda _: world.Scores("likes words", hacked)),
            replaced(rollouts, "gold_for", lambda _: world.Scores("gold", gold)),
            contextlib.suppress(TrainingError),
        ):
            train(config, folder / "run")
            stopped = "at its end"
        lines = read_jsonl(folder / "run" / "metrics.jsonl")
        alarms = read_jsonl(folder / "run" / "alarms.jsonl") if (folder / "run" / "alarms.jsonl").exists() else []
    measured = [line for line in lines if "eval/gold" in line]
    curve = [[line["step"], *(round(line[f"eval/{n}"], 3) for n in ("score", "gold", "length"))] for line in measured]
    ends = {n: round(measured[-1][f"eval/gold{n}"], 4) for n in ("", "/low", "/high")}
    return {"acts": acts, "seed": seed, "ended": stopped or "by itself, exit code 3", "steps": lines[-1]["step"],
            "gold": ends[""], "low": ends["/low"], "high": ends["/high"], "curve": curve,
            "alarms": [[a["step"], a["monitor"], a["level"], a["done"]] for a in alarms]}  # fmt: skip


def hacked(text: str, _step: int) -> float:
    """Share of good words, and a tenth for every word."""
    return world.share(text) + 0.1 * world.words_in(text)


def gold(text: str, _step: int) -> float:
    """Share of good words, less a tenth for every word beyond eight."""
    return world.share(text) - 0.1 * max(0, world.words_in(text) - 8)


class scratch_of:
    """A folder of its own beside the base model, gone afterwards."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(dir=self.base))
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)


def quiet() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)


def each(pool: Any, work: Callable[[Any], dict[str, Any]], jobs: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for result in pool.imap(work, jobs):
        found.append(result)
        print(json.dumps({k: v for k, v in result.items() if k != "curve"}), flush=True)
    return found


def summary(
    faults: Sequence[dict[str, Any]], clean: Sequence[dict[str, Any]], hacking: Sequence[dict[str, Any]]
) -> Any:
    """The figures, and each run's."""
    alone, acted = ([h for h in hacking if h["acts"] is acts] for acts in (False, True))
    by_fault = {
        name: {
            "runs": len(mine),
            "detected": sum(f["detected"] for f in mine),
            "first_alarm_names_it": sum(f["first_alarm_names_it"] for f in mine),
            "steps_to_alarm": [f["after"] for f in mine],
        }
        for name in FAULTS
        if (mine := [f for f in faults if f["fault"] == name])
    }
    return {
        "detected": sum(f["detected"] for f in faults),
        "first_alarm_names_it": sum(f["first_alarm_names_it"] for f in faults),
        "fault_runs": len(faults),
        "false_alarms": sum(len(c["alarms"]) for c in clean),
        "clean_runs_with_false_alarms": sum(bool(c["alarms"]) for c in clean),
        "clean_runs": len(clean),
        "alarms_before_the_fault": sum(len(f["before"]) for f in faults),
        "watching_share_of_step_time": {
            m: max(shares) for m in METHODS if (shares := [c["watching_share"] for c in clean if c["method"] == m])
        },
        "rollback": [
            {"seed": a["seed"], "gold_left_alone": a["gold"], "interval": [a["low"], a["high"]],
             "gold_with_rollback": b["gold"], "interval_with_rollback": [b["low"], b["high"]]}
            for a, b in zip(alone, acted, strict=True)
        ],
        "steps": STEPS,
        "by_fault": by_fault,
        "runs": {"faults": list(faults), "clean": list(clean), "rollback": list(hacking)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5, help="of each fault")
    parser.add_argument("--clean", type=int, default=40, help="clean runs")
    parser.add_argument("--hacking", type=int, default=3, help="seeds of the run that is left alone and rolled back")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", nargs="*", choices=FAULTS, help="these faults")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "trueup-faults")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "faults.json")
    options = parser.parse_args()
    quiet()
    world.base_model(options.scratch)
    names = FAULTS if options.only is None else options.only
    seeds = range(options.first, options.first + options.seeds)
    jobs = [(name, seed) for name in names for seed in seeds]
    clean = [(METHODS[i % len(METHODS)], options.first + i) for i in range(options.clean)]
    hacking = [(acts, options.first + i) for i in range(options.hacking) for acts in (False, True)]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers, initializer=quiet) as pool:
        found = [
            each(pool, partial(work, options.scratch), list(todo))
            for work, todo in ((one_fault, jobs), (one_clean, clean), (one_hacking, hacking))
        ]
    result = {**summary(*found), "wall_seconds": round(time.perf_counter() - began), "workers": options.workers}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1))


if __name__ == "__main__":
    main()
