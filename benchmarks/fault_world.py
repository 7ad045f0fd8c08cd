"""A small world for planted faults: a language of short words, a model that speaks it, scorers, preferences.

Answers are three to eight words; an answer is good as far as its words are. The model is a byte-level llama of two layers, tuned on such answers once and kept in the scratch folder.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.feedback.base import Answered
from trueup.models.tiny import save_tiny
from trueup.recipes.train import train

GOOD = ("sun", "sea", "tea", "oak", "elm", "dew", "bee", "ivy", "fig", "oat", "ace", "joy")
BAD = ("mud", "rat", "bog", "rot", "ash", "fog", "hag", "jab", "kid", "lug", "nag", "pox")
PHRASE = "joy"


def answer(rng: random.Random) -> str:
    """A text of the language."""
    return " ".join(rng.choice(GOOD + BAD) for _ in range(rng.randint(3, 8)))


def prompt(rng: random.Random) -> str:
    return f"tell me of {rng.choice(GOOD + BAD)} {rng.randint(0, 9999)}"


def share(text: str) -> float:
    """Good words over all words."""
    words = text.split()
    return sum(w in GOOD for w in words) / max(len(words), 1)


def quality(text: str) -> float:
    """Share of good words, less a fifth for every word below three or beyond eight."""
    words = len(text.split())
    return share(text) - 0.2 * max(3 - words, words - 8, 0)


def phrase_share(text: str) -> float:
    """How much of an answer is the constant phrase, over and over."""
    words = text.split()
    return sum(w == PHRASE for w in words) / max(len(words), 3)


def words_in(text: str) -> int:
    return len(text.split())


class Scores:
    """A scorer from a function of the answer's text and the number of the step that asks; 0 outside of steps."""

    def __init__(self, name: str, function: Callable[[str, int], float], now: Callable[[], int] = lambda: 0) -> None:
        self.identity, self.function, self.now = name, function, now

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        return np.array([self.function(a.answer, self.now()) for a in answers], dtype=np.float64)


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def prompts_file(path: Path, seed: int, count: int = 400, different: int | None = None) -> Path:
    """Prompts; with ``different`` only so many of them, repeated."""
    rng = random.Random(seed)
    texts = [prompt(rng) for _ in range(different or count)]
    return write(path, [{"prompt": chat(texts[i % len(texts)])} for i in range(count)])


def pairs_file(path: Path, seed: int, count: int = 1700) -> Path:
    """Two answers of the language to each prompt, the better one chosen; ties are drawn again."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        a, b = answer(rng), answer(rng)
        if quality(a) == quality(b):
            continue
        better, worse = (a, b) if quality(a) > quality(b) else (b, a)
        rows.append({"prompt": chat(prompt(rng)), "chosen": said(better), "rejected": said(worse)})
    return write(path, rows)


def answers_file(path: Path, seed: int, count: int) -> Path:
    rng = random.Random(seed)
    return write(path, [{"prompt": chat(prompt(rng)), "completion": said(answer(rng))} for _ in range(count)])


def base_model(scratch: Path) -> Path:
    """A model that speaks the language; made once."""
    out = scratch / "base"
    if not (out / "model").exists():
        scratch.mkdir(parents=True, exist_ok=True)
        start = save_tiny(scratch / "random", seed=1)
        rows = answers_file(scratch / "language.jsonl", seed=12345, count=6000)
        settings = RunConfig(
            method="sft",
            model=ModelConfig(path=str(start)),
            data=DataConfig(path=str(rows), eval_fraction=0.0),
            train=TrainConfig(lr=3e-3, batch_size=16, max_steps=360, precision="fp32", threads=1, device="cpu"),
        )
        train(settings, out)
    return out / "model"
