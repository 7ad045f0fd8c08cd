"""The estimate of a run's memory beside what the run really took, on the bundled and on made-up models.

Every job is a process of its own: it imports, notes its resident memory, prepares, loads, and takes two steps (in
the second AdamW's moments are there). Measured is the peak resident memory from loading on, less what was resident
after the imports. The estimate is made by another process, from the config and the rows alone.

    python benchmarks/estimate.py [--jobs "dpo full bf16" ...] [--missing]
    python benchmarks/estimate.py --table      # what was measured; no job is run
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from run import machine, save
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from trueup.config import RunConfig
from trueup.models.bundled import bundled_path
from trueup.models.tiny import tiny_tokenizer
from trueup.recipes.build import build
from trueup.recipes.estimate import estimate
from trueup.recipes.online import build_online
from trueup.recipes.prepare import prepare
from trueup.recipes.rollouts import build_rollouts
from trueup.recipes.train import method_of
from trueup.settings import validated
from trueup.train.loop import LoopState

OUT = Path(__file__).resolve().parent / "results" / "estimate.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "choosing.md"
ALLOWED, ALLOWED_PPO = 0.15, 0.2
STEPS = 2
WORDS = ["river", "stone", "bird", "apple", "green", "seven", "quickly", "under", "light", "paper", "winter", "music"]
FULL: dict[str, Any] = {}
LORA: dict[str, Any] = {"lora": {"rank": 16}}


@dataclass(frozen=True, slots=True)
class Job:
    """One configuration.

    Attributes:
        method: of training.
        train: its section.
        more: other sections.
        model: ``bundled``, or ``wide`` or ``deep``: made on the spot.
        reward: whether a reward model scores (a model of the same kind); else a rule, for methods that sample.
        held_out: not looked at while the estimator was written.
    """

    method: str
    train: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    model: str = "bundled"
    reward: bool = False
    held_out: bool = False


def _bf16(**train: Any) -> dict[str, Any]:
    return {"precision": "bf16", "batch_size": 4, "micro_tokens": 512, **train}


def _fp32(**train: Any) -> dict[str, Any]:
    return _bf16(precision="fp32", **train)


SAMPLE = {"sample": {"n": 2, "max_new_tokens": 24}}
JOBS: dict[str, Job] = {
    "dpo full bf16": Job("dpo", _bf16()),
    "dpo full fp32": Job("dpo", _fp32()),
    "dpo lora bf16": Job("dpo", _bf16(), LORA),
    "dpo lora fp32, checkpointing": Job("dpo", _fp32(gradient_checkpointing=True), LORA),
    "ipo full bf16, 256 tokens at once": Job("ipo", _bf16(micro_tokens=256), held_out=True),
    "orpo full bf16": Job("orpo", _bf16(), held_out=True),
    "orpo lora fp32, 1 row at once": Job("orpo", {"precision": "fp32", "batch_size": 4, "micro_batch": 1}, LORA),
    "simpo lora bf16, rank 64": Job("simpo", _bf16(), {"lora": {"rank": 64}}, held_out=True),
    "sft full bf16": Job("sft", _bf16()),
    "sft full fp32": Job("sft", _fp32()),
    "sft full bf16, checkpointing": Job("sft", _bf16(gradient_checkpointing=True), held_out=True),
    "sft full bf16, 1024 tokens at once": Job("sft", _bf16(batch_size=8, micro_tokens=1024), held_out=True),
    "sft lora fp32": Job("sft", _fp32(), LORA),
    "reward full bf16": Job("reward", _bf16()),
    "reward lora fp32": Job("reward", _fp32(), LORA, held_out=True),
    "kto full bf16": Job("kto", _bf16()),
    "kto lora fp32": Job("kto", _fp32(), LORA, held_out=True),
    "ppo full bf16": Job("ppo", _bf16(), SAMPLE),
    "ppo lora bf16, reward model": Job("ppo", _bf16(), {**LORA, **SAMPLE}, reward=True),
    "ppo lora fp32": Job("ppo", _fp32(), {**LORA, **SAMPLE}, held_out=True),
    "grpo full bf16": Job("grpo", _bf16(), SAMPLE, held_out=True),
    "rloo lora bf16, 48 new tokens": Job("rloo", _bf16(), {**LORA, "sample": {"n": 4, "max_new_tokens": 48}}),
    "reinforce full fp32": Job("reinforce", _fp32(), SAMPLE, held_out=True),
    "online-dpo lora bf16, reward model": Job("online-dpo", _bf16(), {**LORA, **SAMPLE}, reward=True, held_out=True),
    "iterative-dpo full bf16": Job("iterative-dpo", _bf16(), SAMPLE, held_out=True),
    "wide: dpo full fp32": Job("dpo", _fp32(), model="wide"),
    "wide: sft full bf16": Job("sft", _bf16(), model="wide", held_out=True),
    "wide: ppo lora fp32, reward model": Job("ppo", _fp32(), {**LORA, **SAMPLE}, "wide", reward=True, held_out=True),
    "deep: kto full bf16": Job("kto", _bf16(), model="deep", held_out=True),
    "deep: orpo lora fp32": Job("orpo", _fp32(), LORA, "deep"),
}  # fmt: skip


def write_rows(path: Path, job: Job) -> None:
    """Sixteen rows of 20 to 80 words a text; shorter prompts alone for methods that sample."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(low, high)))

    rows: list[dict[str, Any]] = []
    for k in range(16):
        if job.more.get("sample"):
            rows.append({"prompt": text(10, 40)})
        elif job.method == "sft":
            rows.append({"prompt": text(20, 80), "completion": text(20, 80)})
        elif job.method == "kto":
            rows.append({"prompt": text(20, 80), "completion": text(20, 80), "label": k % 2 == 0})
        else:
            rows.append({"prompt": text(20, 80), "chosen": text(20, 80), "rejected": text(20, 80)})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def made_up(folder: Path, kind: str, *, scores: bool = False) -> Path:
    """A random model of the named shape, and its tokenizer."""
    shape = {"wide": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4},
             "deep": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 40}}[kind]  # fmt: skip
    config = LlamaConfig(vocab_size=8192, num_attention_heads=8, num_key_value_heads=4, num_labels=1,
                         max_position_embeddings=4096, pad_token_id=0, tie_word_embeddings=False, **shape)  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config) if scores else LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def reward_model(folder: Path) -> Path:
    """The bundled model with a score head, saved as training would save it."""
    model = LlamaForSequenceClassification.from_pretrained(bundled_path(), num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((bundled_path() / name).read_bytes())
    return folder


def config_of(job: Job, scratch: Path) -> RunConfig:
    """The settings of a job; its rows and models are made in ``scratch`` if they are not there."""
    rows = scratch / f"{job.method}.jsonl"
    write_rows(rows, job)
    bundled = job.model == "bundled"
    model = bundled_path() if bundled else scratch / job.model
    if not model.exists():
        made_up(model, job.model)
    tree: dict[str, Any] = {
        "method": job.method,
        "model": {"path": str(model)},
        "data": {"path": str(rows), "eval_fraction": 0.0, "max_length": 4096},
        "train": {"max_steps": STEPS, "device": "cpu", **job.train},
        **job.more,
    }
    if "sample" in job.more:
        # every word counts: answers of equal scores would make no pairs
        tree["reward"] = {"rule": "length_window", "arguments": {"high": 1}}
    if job.reward:
        judge = scratch / f"{job.model}-reward"
        if not judge.exists():
            reward_model(judge) if bundled else made_up(judge, job.model, scores=True)
        tree["reward"] = str(judge)
    return validated(tree, job.method)


def resident(key: str) -> int:
    """Bytes, from the kernel's account of this process: VmRSS now, VmHWM at most."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def measured(config: RunConfig) -> dict[str, Any]:
    """Runs the job here; imports are done."""
    base = resident("VmRSS")
    method = method_of(config)
    prepared = prepare(config, method)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    builder = {"policy": build_rollouts, "online": build_online}.get(method.family, build)
    job, _ = builder(config, method, prepared)  # type: ignore[operator]
    loading = resident("VmHWM") - base
    steps = list(job.steps(LoopState()))
    return {"measured_bytes": resident("VmHWM") - base, "loading_bytes": loading, "base_bytes": base,
            "seconds": sum(s.timings["seconds"] for s in steps), "tokens": steps[-1].metrics["tokens"]}  # fmt: skip


def estimated(config: RunConfig) -> dict[str, Any]:
    """Estimates the job; loads nothing."""
    method = method_of(config)
    guess = estimate(config, method, prepare(config, method).train)
    return {"estimated_bytes": guess.total, "parts": guess.memory, "estimated_seconds": guess.seconds,
            "notes": guess.notes}  # fmt: skip


def child(name: str, scratch: Path, what: str) -> dict[str, Any]:
    """One half of a job in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--here", what, "--scratch", str(scratch), "--jobs", name],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def within(job: dict[str, Any]) -> bool:
    """Whether a job's estimate is as near as it should be."""
    return abs(job["ratio"] - 1) <= (ALLOWED_PPO if "ppo" in job["job"].split() else ALLOWED)


def table(report: dict[str, Any]) -> list[str]:
    """What was found, for docs/choosing.md."""
    jobs, machine_ = report["jobs"], report["machine"]
    close = [j for j in jobs if abs(j["ratio"] - 1) <= ALLOWED]
    ppo = [j for j in jobs if "ppo" in j["job"].split()]
    ppo_close = sum(abs(j["ratio"] - 1) <= ALLOWED_PPO for j in ppo)
    worst = max(jobs, key=lambda j: abs(j["ratio"] - 1))
    return [
        f"{len(close)} of {len(jobs)} configurations within {ALLOWED:.0%}; of PPO {ppo_close} of {len(ppo)} within "
        f"{ALLOWED_PPO:.0%}; furthest off: {worst['job']}, {worst['ratio']:.2f}. {machine_['cpu']}, "
        f"torch {machine_['torch']}; MiB of resident memory above that of the interpreter after its imports; jobs with a "
        "star were not looked at while the estimator was written.",
        "",
        "| job | estimated | measured | ratio | largest parts |",
        "|---|---|---|---|---|",
        *(
            f"| {j['job']}{' *' if j['held_out'] else ''} | {j['estimated_bytes'] / 2**20:.0f} | "
            f"{j['measured_bytes'] / 2**20:.0f} | {j['ratio']:.2f} | "
            + ", ".join(f"{k} {v / 2**20:.0f}" for k, v in sorted(j["parts"].items(), key=lambda x: -x[1])[:3])
            + " |"
            for j in jobs
        ),
    ]


def write_table(report: dict[str, Any]) -> None:
    """Prints the table and puts it between its marks in docs/choosing.md."""
    lines = table(report)
    print("\n".join(lines))
    start, end = "<!-- measured -->", "<!-- /measured -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(start)
    PAGE.write_text("\n".join([f"{before}{start}", *lines, f"{end}{rest.split(end)[1]}"]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--here", choices=("make", "run", "estimate"), help="half of a single job, in this process")
    parser.add_argument("--missing", action="store_true", help="keep what --out holds and run the other jobs")
    parser.add_argument("--table", action="store_true", help="print what --out holds and write it to docs/choosing.md")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.here:
        config = config_of(JOBS[arguments.jobs[0]], arguments.scratch)
        halves = {"make": lambda _: {}, "run": measured, "estimate": estimated}
        print(json.dumps(halves[arguments.here](config)))
        return
    if arguments.table:
        write_table(json.loads(arguments.out.read_text()))
        return
    report: dict[str, Any] = {"machine": machine(rates=False), "allowed": ALLOWED, "allowed_ppo": ALLOWED_PPO,
                              "steps": STEPS, "jobs": []}  # fmt: skip
    if arguments.missing and arguments.out.exists():
        report["jobs"] = json.loads(arguments.out.read_text())["jobs"]
    there = {j["job"] for j in report["jobs"]}
    with tempfile.TemporaryDirectory() as folder:
        scratch = arguments.scratch or Path(folder)
        for name in [n for n in arguments.jobs if n not in there]:
            child(name, scratch, "make")
            last = {"job": name, "held_out": JOBS[name].held_out, **child(name, scratch, "estimate"),
                    **child(name, scratch, "run")}  # fmt: skip
            last["ratio"] = last["estimated_bytes"] / last["measured_bytes"]
            report["jobs"].append(last)
            sizes = " ".join(f"{k} {v / 2**20:.0f}" for k, v in last["parts"].items() if v)
            print(f"{name}: estimated {last['estimated_bytes'] / 2**20:.0f} MiB ({sizes}), measured "
                  f"{last['measured_bytes'] / 2**20:.0f} (loading {last['loading_bytes'] / 2**20:.0f}), ratio "
                  f"{last['ratio']:.2f}; {last['estimated_seconds']:.0f} s for {last['seconds']:.0f}", flush=True)  # fmt: skip
            save(arguments.out, report)
    if off := [j["job"] for j in report["jobs"] if not within(j)]:
        raise SystemExit(f"off by more than allowed: {', '.join(off)}")


if __name__ == "__main__":
    main()
