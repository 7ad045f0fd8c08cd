"""Makes the preference set that the demo trains on: samples of the bundled model, labelled by a rule.

Writes ``prompts.jsonl`` (the demo answers them itself), and ``held_out.jsonl``: pairs of samples of the bundled model,
labelled by the demo's rule (:func:`trueup.recipes.demo.plain_and_short`), on other topics. Run it again and the same
files come out (same library versions, same machine type):

    python scripts/make_demo_data.py --out src/trueup/demo
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.feedback.base import Answered
from trueup.models.bundled import bundled_path
from trueup.recipes.demo import plain_and_short

TOPICS = (
    "bread baking", "bicycle repair", "house plants", "chess openings", "sleeping well", "learning Spanish",
    "budgeting", "running a marathon", "watercolour painting", "coffee brewing", "bird watching", "public speaking",
    "home composting", "photography", "playing the guitar", "writing a diary", "hiking in the rain", "job interviews",
    "making soup", "keeping bees", "reading maps", "swimming", "growing tomatoes", "saving electricity",
    "teaching children to read", "packing a suitcase", "knitting", "first aid", "cleaning windows", "stargazing",
    "caring for a cat", "writing letters", "making friends", "fixing a leaking tap", "cycling to work", "juggling",
)  # fmt: skip
QUESTIONS = (
    "What is the most common mistake in {}?",
    "Why do people enjoy {}?",
    "I know nothing about {}. Where do I start?",
    "Give me one good tip for {}.",
    "How long does it take to get better at {}?",
    "What do I need for {}?",
)
HELD_OUT_EVERY = 4  # every fourth topic is held out
SAMPLES = 4
LIMIT = 96  # tokens


def sample(model: Any, tokenizer: Any, prompts: list[str], seed: int) -> list[list[tuple[str, bool]]]:
    """``SAMPLES`` answers a prompt, each with whether it ended."""
    answers: list[list[tuple[str, bool]]] = []
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), 16):
        torch.manual_seed(seed + start)
        messages = [[{"role": "user", "content": p}] for p in prompts[start : start + 16]]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        whole = model.generate(
            **ids, do_sample=True, temperature=1.0, top_p=0.95, top_k=0, max_new_tokens=LIMIT,
            num_return_sequences=SAMPLES, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        new = whole[:, ids["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = (new == tokenizer.eos_token_id).any(1).tolist()
        flat = [(t.strip(), e) for t, e in zip(texts, ended, strict=True)]
        answers += [flat[i : i + SAMPLES] for i in range(0, len(flat), SAMPLES)]
    return answers


def score(answer: str, ended: bool) -> float:
    """The demo's rule."""
    return plain_and_short(Answered(id="", prompt="", answer=answer, truncated=not ended))


def pairs(prompts: list[str], answers: list[list[tuple[str, bool]]], side: str) -> list[dict[str, Any]]:
    """Best against worst; prompts whose answers tie give none."""
    rows = []
    for number, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        ranked = sorted(((score(a, e), a) for a, e in given if a), reverse=True)
        if len(ranked) < 2 or ranked[0][0] - ranked[-1][0] < 0.25:
            continue
        rows.append(
            {
                "id": f"{side}-{number:03d}",
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": ranked[0][1]}],
                "rejected": [{"role": "assistant", "content": ranked[-1][1]}],
                "margin": round(ranked[0][0] - ranked[-1][0], 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = bundled_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    kept = [t for i, t in enumerate(TOPICS) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    asked = [q.format(t) for t, q in itertools.product(kept, QUESTIONS)]
    write(arguments.out / "prompts.jsonl", [
        {"id": f"train-{n:03d}", "prompt": [{"role": "user", "content": p}]} for n, p in enumerate(asked)
    ])  # fmt: skip
    held_out = [q.format(t) for t, q in itertools.product([t for t in TOPICS if t not in kept], QUESTIONS)]
    rows = pairs(held_out, sample(model, tokenizer, held_out, arguments.seed + 1), "held_out")
    write(arguments.out / "held_out.jsonl", rows)
    print(f"{len(asked)} prompts; held out: {len(held_out)} prompts, {len(rows)} pairs")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Lines of JSON."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
