"""`trueup cai run` with a scripted feedback model as a process that a test can kill; FOLDER holds the input."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

from scripted import Script, slots, tokens
from trueup.feedback.speaker import Question, Reply
from trueup.recipes.cai_run import CaiPlan, run_cai

TREE = {
    "version": 1,
    "name": "road",
    "levels": [{"name": "high", "kind": "strict"}],
    "principles": [{"id": "order", "level": "high", "statement": "ORDER"}],
}


def plan_in(folder: Path, model: Path, prompts: int = 10) -> None:
    """Writes what a run is told."""
    (folder / "tree.yaml").write_text(json.dumps(TREE))
    rows = [{"id": f"p{i}", "prompt": f"danger {i}"} for i in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "config.yaml").write_text("train: {precision: fp32, batch_size: 4}\nsave: {every: 1}\n")
    (folder / "model.txt").write_text(str(model))


def voice(question: Question) -> Reply:
    """Revises by saying how long the request was; prefers the answer that comes later in the alphabet."""
    last = question.messages[-1][1]
    if question.options is not None:
        first, second = slots(last)[0], slots(last)[-1]
        return tokens(0.9 if first > second else 0.1 if first < second else 0.5)
    return Reply(text=f"Better words for {question.messages[0][1]}" if last.startswith("Rewrite") else "It is bad.")


def walk(folder: Path, out: Path) -> None:
    """The whole road."""
    plan = CaiPlan(
        model=(folder / "model.txt").read_text(), constitution=str(folder / "tree.yaml"),
        prompts=str(folder / "prompts.jsonl"), config=str(folder / "config.yaml"), max_tokens=12, breach_answers=1,
        route="rlhf" if (folder / "rlhf").exists() else "dpo", steps=2,
    )  # fmt: skip
    run_cai(plan, out, lambda: nullcontext(Script(voice)))


if __name__ == "__main__":
    walk(Path(sys.argv[1]), Path(sys.argv[2]))
