"""Sampler throughput beside transformers' generate: the bundled model in bf16, real prompts, 48 new tokens each.

End tokens are ignored on both sides, so every answer has 48 tokens. Alternating order, the median of the rounds' ratios.

    python benchmarks/sampling.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from run import machine
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.data.read import read_rows
from trueup.models.bundled import bundled_path
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.policy import Policy
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampling
from trueup.types import Comparison, Prompt

HERE = Path(__file__).resolve().parent
NEW = 48


def prompts(data: str, count: int) -> list[Prompt]:
    """The last user turn of the first rows, each once."""
    found: dict[str, Prompt] = {}
    for row in read_rows(data, wanted=Comparison, bad_rows="skip").rows:
        turn = [t for t in row.prompt if t["role"] == "user"][-1]
        found.setdefault(str(turn["content"]), Prompt(id=row.id, origin=row.origin, prompt=(turn,)))
        if len(found) == count:
            break
    return list(found.values())


def ours(sampler: LocalSampler, rows: list[Prompt], n: int) -> float:
    """Tokens a second."""
    begun = time.perf_counter()
    tokens = sum(len(s.ids) for s in sampler.sample(rows, Sampling(n=n, max_new_tokens=NEW)))  # type: ignore[arg-type]
    return tokens / (time.perf_counter() - begun)


def theirs(model: Any, tokenizer: Any, rows: list[Prompt]) -> float:
    """Tokens a second of one padded batch."""
    begun = time.perf_counter()
    batch = tokenizer.apply_chat_template(
        [list(r.prompt) for r in rows], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    whole = model.generate(**batch, do_sample=True, top_k=0, min_new_tokens=NEW, max_new_tokens=NEW)
    tokens = len(rows) * (whole.shape[1] - batch["input_ids"].shape[1])
    return tokens / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parents[1] / "shared/data/hh_harmless/harmless_base_test.jsonl.gz"
    parser.add_argument("--data", default=str(default))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "sampling.json")
    arguments = parser.parse_args()
    path = str(bundled_path())
    rows = prompts(arguments.data, 64)
    sampler = LocalSampler(Policy(load_causal_lm(path, dtype=torch.bfloat16), 0), load_tokenizer(path))
    sampler.ends = frozenset()
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    runs = {
        "ours_n1": lambda: ours(sampler, rows, 1),
        "ours_n4": lambda: ours(sampler, rows, 4),
        "generate": lambda: theirs(plain, tokenizer, rows),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(arguments.rounds):
        for name in list(runs)[:: 1 if k % 2 == 0 else -1]:
            rates[name].append(runs[name]())
            print(f"{name}: {rates[name][-1]:.0f} tokens/s", flush=True)
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[name], rates["generate"], strict=True))
        for name in ("ours_n1", "ours_n4")
    }
    report = {
        "machine": machine(),
        "prompts": len(rows),
        "new_tokens": NEW,
        "tokens_per_second": rates,
        "ratios": ratios,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
