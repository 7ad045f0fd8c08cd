"""Makes the preference set that the demo trains on: samples of the bundled model, labelled by a rule.

The rule (:func:`score`) is meant to be read: a good answer is short, plain and finished. Prompts are built here from
topics and questions; topics are split between train and held-out, so no topic is on both sides. Run it again and the
same files come out (same library versions, same machine type):

    python scripts/make_demo_data.py --out src/trueup/demo
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.models.bundled import bundled_path

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
BOILERPLATE = re.compile(r"as an ai|i'm sorry|i apologize|certainly!|great question", re.IGNORECASE)
LIST_ITEM = re.compile(r"^\s*(\d+[.)]|[-*•])\s", re.MULTILINE)


def score(answer: str, ended: bool) -> float:
    """The rule: higher is better.

    +1 if the answer came to its end by itself; −1 a list; −0.5 boilerplate ("as an AI", "great question");
    −1 for every 40 words beyond the first 40; −1 if it has fewer than 4 words.
    """
    words = len(answer.split())
    value = 1.0 if ended else 0.0
    value -= 1.0 if LIST_ITEM.search(answer) else 0.0
    value -= 0.5 if BOILERPLATE.search(answer) else 0.0
    value -= max(0, words - 40) / 40
    return value - (1.0 if words < 4 else 0.0)


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
    parser.add_argument("--sides", nargs="*", default=["train", "held_out"])
    arguments = parser.parse_args()
    path = bundled_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    sides = {
        "train": [t for i, t in enumerate(TOPICS) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1],
        "held_out": [t for i, t in enumerate(TOPICS) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1],
    }
    for side, topics in sides.items():
        if side not in arguments.sides:
            continue
        prompts = [q.format(t) for t, q in itertools.product(topics, QUESTIONS)]
        rows = pairs(prompts, sample(model, tokenizer, prompts, arguments.seed + (side == "held_out")), side)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (arguments.out / f"{side}.jsonl").write_text(text, encoding="utf-8")
        print(f"{side}: {len(prompts)} prompts, {len(rows)} pairs")


if __name__ == "__main__":
    main()
