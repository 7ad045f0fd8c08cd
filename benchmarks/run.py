"""`make bench`: trueup and TRL 1.16.0 side by side, in one run, in alternating order, on real pairs.

Every job is a process of its own: load, train on the first rows of a preference file, report rows per second (the first
step is left out on both sides) and peak resident memory. TRL lives in an environment of its own, made here.

    python benchmarks/run.py --data FILE [--jobs dpo reward ...] [--rounds 1] [--parity]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from trueup.data.read import read_rows
from trueup.models.bundled import bundled_path
from trueup.models.load import load_tokenizer
from trueup.types import Comparison

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TRL = "trl==1.16.0"
JOBS = (("dpo", "bf16"), ("dpo", "fp32"), ("reward", "bf16"), ("kto", "bf16"), ("orpo", "bf16"), ("sft", "bf16"))
TARGETS = {"dpo/bf16": (4.5, 0.55), "dpo/fp32": (3.2, 0.55), "reward/bf16": (2.5, None), "kto/bf16": (2.5, None),
           "orpo/bf16": (2.5, None), "sft/bf16": (2.0, None)}  # fmt: skip


def trl_python(folder: Path) -> str:
    """The interpreter of TRL's environment, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", f"torch=={torch.__version__.split('+')[0]}", TRL], check=True
        )
        (folder / "ready").touch()
    return str(python)


def write_rows(path: Path, data: str, count: int, model: str, longest: int, skip_long: int) -> int:
    """The first ``count`` pairs that fit, as rendered text: both sides then train on the same tokens."""
    tokenizer = load_tokenizer(model)
    end = tokenizer.eos_token
    kept = []
    for row in read_rows(data, wanted=Comparison, bad_rows="skip").rows:
        prompt = tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        texts = {
            "prompt": prompt,
            "chosen": row.chosen[-1]["content"] + end,
            "rejected": row.rejected[-1]["content"] + end,
        }
        if max(len(tokenizer(prompt + texts[k]).input_ids) for k in ("chosen", "rejected")) > min(longest, skip_long):
            continue
        kept.append(texts)
        if len(kept) == count:
            break
    path.write_text("".join(json.dumps(r) + "\n" for r in kept))
    return len(kept)


def job(command: list[str]) -> dict[str, Any]:
    """Runs one job and reads its JSON line."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a plain square product, the best of five."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def machine(rates: bool = True) -> dict[str, Any]:
    """What this was measured on; ``rates`` adds what matrix products reach here."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    flags = {f for line in info.splitlines() if line.startswith("flags") for f in line.split()}
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "avx512_bf16": "avx512_bf16" in flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": date.today().isoformat(),
        **(
            {"matmul_flops": {"bf16": matmul_rate(torch.bfloat16), "fp32": matmul_rate(torch.float32)}} if rates else {}
        ),
    }


def commands(
    name: str, precision: str, model: str, rows: Path, trl: str, extra: list[str]
) -> tuple[list[str], list[str]]:
    common = [name, "--model", model, "--rows", str(rows), "--precision", precision, *extra]
    scratch = ["--scratch", tempfile.mkdtemp(prefix="trl-")]
    return [sys.executable, str(HERE / "our_job.py"), *common], [trl, str(HERE / "trl_job.py"), *common, *scratch]


def speed(name: str, precision: str, rounds: int, **where: Any) -> dict[str, Any]:
    """Both sides in turn; ratios pair by pair, the median of them counts."""
    ours, theirs = commands(name, precision, where["model"], where["rows"], where["trl"], [])
    results: list[tuple[dict, dict]] = []
    for k in range(rounds):
        first, second = (ours, theirs) if k % 2 == 0 else (theirs, ours)
        a, b = job(first), job(second)
        results.append((a, b) if k % 2 == 0 else (b, a))
    ratios = sorted(a["rate"] / b["rate"] for a, b in results)
    memory = sorted(a["peak_bytes"] / b["peak_bytes"] for a, b in results)
    a, b = results[0]
    want_speed, want_memory = TARGETS[f"{name}/{precision}"]
    return {
        "job": name, "precision": precision,
        "ours": [{k: v for k, v in x.items() if k != "losses"} for x, _ in results],
        "trl": [{k: v for k, v in y.items() if k != "losses"} for _, y in results],
        "speed_ratio": ratios[len(ratios) // 2], "memory_ratio": memory[len(memory) // 2],
        "wanted": {"speed": want_speed, "memory": want_memory},
    }  # fmt: skip


def parity(name: str, model: str, rows: Path, trl: str) -> dict[str, Any]:
    """20 steps in fp32 from the same weights on the same batches: the largest difference of a step's loss."""
    extra = ["--batch", "2", "--limit", "40", "--lr", "1e-5"]
    ours, theirs = commands(name, "fp32", model, rows, trl, extra)
    theirs[2] = name.removesuffix("-as-trl")
    a, b = job(ours)["losses"], job(theirs)["losses"]
    worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
    return {"job": name, "steps": len(a), "largest_difference": worst, "ours": a, "trl": b}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data/hh_harmless/harmless_base_test.jsonl.gz"))
    parser.add_argument("--jobs", nargs="*", default=[f"{a}/{b}" for a, b in JOBS])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-parity", action="store_true")
    parser.add_argument("--parity", nargs="*", default=["dpo", "kto", "orpo", "orpo-as-trl", "sft", "reward"])
    parser.add_argument("--keep", action="store_true", help="add to the results that are there")
    parser.add_argument("--trl-env", type=Path, default=Path.home() / ".cache" / "trueup" / "bench-trl")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    arguments = parser.parse_args()
    trl, model = trl_python(arguments.trl_env), str(bundled_path())
    report: dict[str, Any] = {"machine": machine(), "trl": TRL, "pairs": arguments.pairs, "speed": [], "parity": []}
    if arguments.keep and arguments.out.exists():
        report = json.loads(arguments.out.read_text())  # each ratio is within one job's run; other jobs' stay
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        write_rows(rows, arguments.data, arguments.pairs, model, 512, 512)
        for entry in arguments.jobs:
            name, precision = entry.split("/")
            result = speed(name, precision, arguments.rounds, model=model, rows=rows, trl=trl)
            report["speed"] = [e for e in report["speed"] if (e["job"], e["precision"]) != (name, precision)] + [result]
            print(
                f"{entry}: {result['speed_ratio']:.2f}x TRL at {result['memory_ratio']:.2f} of its memory", flush=True
            )
            save(arguments.out, report)
        write_rows(rows, arguments.data, 40, model, 512, 192)
        for name in [] if arguments.no_parity else arguments.parity:
            report["parity"] = [e for e in report["parity"] if e["job"] != name] + [parity(name, model, rows, trl)]
            print(f"parity {name}: {report['parity'][-1]['largest_difference']:.2e}", flush=True)
            save(arguments.out, report)


def save(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
