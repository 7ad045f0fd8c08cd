"""The demo: the whole road on embedded defaults, in minutes on two cores.

Prompts -> four answers each of the bundled 135M chat model -> a rule scores them -> best against worst -> DPO ->
held-out prompts answered before and after, scored by the same rule, compared prompt by prompt; and pairs that were
shipped, held out too, ranked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.data.pairing import Pairing
from trueup.errors import RunError
from trueup.feedback.base import Answered
from trueup.feedback.rules import Rule
from trueup.models.sampling import Sampling
from trueup.ops.diversity import distinct
from trueup.ops.stats import PairedTest, bootstrap_mean, paired_test
from trueup.recipes.answers import Progress, open_sampler, read_prompts, rendered
from trueup.recipes.build import machine_named
from trueup.recipes.pairs import PairsReport, Source, make_pairs
from trueup.recipes.session import Listener
from trueup.recipes.train import TrainResult, train
from trueup.runs.folder import write_json
from trueup.types import Prompt

MODEL = "bundled:smollm2-135m-instruct"
RULE = "trueup.recipes.demo:plain_and_short"
DATA = files("trueup") / "demo"
NEW_TOKENS = 80
MARGIN = 0.25  # scores of a pair differ by more than this
BOILERPLATE = re.compile(r"as an ai|i'm sorry|i apologize|certainly!|great question", re.IGNORECASE)
LIST_ITEM = re.compile(r"^\s*(\d+[.)]|[-*•])\s", re.MULTILINE)


def plain_and_short(answered: Answered) -> float:
    """The demo's rule, meant to be read; higher is better.

    +1 if the answer came to its end by itself; −1 a list; −0.5 boilerplate ("as an AI", "great question"); −1 for every
    40 words beyond the first 40; −1 if it has fewer than 4 words.
    """
    words = len(answered.answer.split())
    value = 0.0 if answered.truncated else 1.0
    value -= 1.0 if LIST_ITEM.search(answered.answer) else 0.0
    value -= 0.5 if BOILERPLATE.search(answered.answer) else 0.0
    value -= max(0, words - 40) / 40
    return value - (1.0 if words < 4 else 0.0)


def demo_config(pairs: Path, model: str = MODEL) -> RunConfig:
    """The demo's settings; ``OUT/run/config.yaml`` holds them too."""
    return RunConfig(
        method="dpo",
        model=ModelConfig(path=model),
        data=DataConfig(path=str(pairs), eval_path=str(DATA / "held_out.jsonl"), max_length=1024),
        loss={"beta": 0.1},
        train=TrainConfig(lr=2e-5, batch_size=8, epochs=1.5, seed=0),
    )


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to the held-out prompts and what the rule says of each."""

    texts: list[str]
    scores: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo showed.

    Attributes:
        pairs: of the pairs that were made.
        training: of the run.
        before, after: answers to held-out prompts.
        test: scores after against before, prompt by prompt.
    """

    pairs: PairsReport
    training: TrainResult
    before: Answers
    after: Answers
    test: PairedTest

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "pairs": self.pairs.to_json(),
            "training": {k: v for k, v in self.training.results.items() if k in ("before", "after")},
            "held_out_prompts": {
                "n": len(self.before.scores),
                **{f"{name}_{what}": value for name, a in (("before", self.before), ("after", self.after))
                   for what, value in figures_of(a).items()},
                "difference": list(self.test.difference), "better": self.test.better, "worse": self.test.worse,
                "p_value": self.test.p_value,
            },
        }  # fmt: skip


def figures_of(answers: Answers) -> Mapping[str, Any]:
    """Mean score with its 95 % interval, mean length, distinct-2."""
    return {
        "score": list(bootstrap_mean(answers.scores)),
        "tokens": float(answers.tokens.mean()),
        "distinct_2": distinct(answers.texts, 2),
    }


def fresh_folder(parent: Path) -> Path:
    """The first of demo-1, demo-2 ... that is not there."""
    number = 1
    while (parent / f"demo-{number}").exists():
        number += 1
    return parent / f"demo-{number}"


def held_out_prompts() -> list[Prompt]:
    """The prompts of the shipped held-out pairs."""
    return read_prompts(str(DATA / "held_out.jsonl"))


def answers_of(model: str, prompts: list[Prompt]) -> Answers:
    """One answer to each prompt, drawn alike for every model, and its score."""
    sampler = open_sampler(model, machine_named())
    found = {
        s.prompt: s
        for s in sampler.sample_ids(rendered(sampler, prompts), Sampling(max_new_tokens=NEW_TOKENS, seed=2**20))
    }
    rows = [
        Answered(id=p.id, prompt=p.prompt, answer=found[p.id].text, truncated=found[p.id].finish == "length")
        for p in prompts
    ]
    tokens = np.array([len(found[p.id].ids) for p in prompts], dtype=float)  # type: ignore[arg-type]
    return Answers([r.answer for r in rows], Rule(RULE).score(rows), tokens)


def demo(
    out: Path, listeners: tuple[Listener, ...] = (), tell: Progress | None = None, model: str = MODEL
) -> DemoResult:
    """Runs the demo into ``out``: ``pairs.jsonl``, ``run/`` and ``results.json``.

    Raises:
        RunError: ``out`` exists already.
    """
    if out.exists():
        raise RunError(f"{out}: exists already; name another folder with --out")
    out.mkdir(parents=True)
    prompts = held_out_prompts()
    source = Source(model, Sampling(n=4, max_new_tokens=NEW_TOKENS, top_p=0.95, seed=0))
    pairs = make_pairs(
        [source], str(DATA / "prompts.jsonl"), out / "pairs.jsonl", Rule(RULE), Pairing(min_margin=MARGIN),
        machine_named(), tell=tell,
    )  # fmt: skip
    before = answers_of(model, prompts)
    training = train(demo_config(out / "pairs.jsonl", model), out / "run", listeners)
    after = answers_of(str(out / "run"), prompts) if training.finished else before
    result = DemoResult(pairs, training, before, after, paired_test(after.scores, before.scores))
    write_json(out / "results.json", result.to_json())
    return result
