"""Is our greedy answer the greedy answer of transformers? Bundled model, fp32, 64 real prompts, 64 new tokens.

python benchmarks/greedy.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from run import machine
from sampling import prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.models.bundled import bundled_path
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.policy import Policy
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampling

HERE = Path(__file__).resolve().parent
NEW = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parents[1] / "shared/data/hh_harmless/harmless_base_test.jsonl.gz"
    parser.add_argument("--data", default=str(default))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "greedy.json")
    arguments = parser.parse_args()
    path = str(bundled_path())
    rows = prompts(arguments.data, 64)
    sampler = LocalSampler(Policy(load_causal_lm(path, dtype=torch.float32), 0), load_tokenizer(path))
    ours = {s.prompt: s for s in sampler.sample(rows, Sampling(temperature=0.0, max_new_tokens=NEW))}
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    equal, first = 0, []
    for row in rows:
        batch = tokenizer.apply_chat_template(
            list(row.prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        whole = model.generate(**batch, do_sample=False, max_new_tokens=NEW)[0, batch["input_ids"].shape[1] :].tolist()
        mine = ours[row.id].ids.tolist()  # type: ignore[union-attr]
        equal += mine == whole
        first += [] if mine == whole else [next(i for i, (a, b) in enumerate(zip(mine, whole, strict=False)) if a != b)]
    report = {"machine": machine(), "prompts": len(rows), "new_tokens": NEW, "equal": equal, "first_difference": first}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{equal} of {len(rows)} answers are equal; others differ first at {first}")


if __name__ == "__main__":
    main()
