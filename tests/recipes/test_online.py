"""Online and iterative methods: rounds that learn, references that are what they are called, a table at the end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trueup.cli.main import run
from trueup.config import (
    DataConfig,
    ModelConfig,
    OnlineConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from trueup.errors import MidStepError
from trueup.recipes.online import build_online
from trueup.recipes.prepare import prepare
from trueup.recipes.train import method_of, train
from trueup.runs.metrics import read_jsonl
from trueup.train.loop import LoopState
from trueup.train.online import fill, reference_of, win_rate

LETTERS = "rule_of_letters:share"
RULE = """
def share(answered):
    return sum(c.isascii() and c.isalpha() for c in answered.answer) / 10
"""


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rule_of_letters.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i} and {i * 7 % 13}"}) + "\n" for i in range(36)))
    return path


def config(method: str, tiny: Path, file: Path, **online: Any) -> RunConfig:
    return RunConfig(
        method=method,
        model=ModelConfig(path=str(tiny)),
        data=DataConfig(path=str(file), eval_fraction=0.2),
        reward=LETTERS,
        sample=SampleConfig(n=4, max_new_tokens=10),
        online=OnlineConfig(**online),
        train=TrainConfig(lr=3e-3, batch_size=6, epochs=4, precision="fp32", warmup=0, threads=1),
    )


@pytest.mark.parametrize("method", ["iterative-dpo", "iterative-ipo", "iterative-simpo", "online-dpo"])
def test_the_score_rises(method: str, tiny: Path, prompts: Path, tmp_path: Path) -> None:
    more = {"rounds": 6, "prompts": 24} if method.startswith("iterative") else {}
    result = train(config(method, tiny, prompts, **more), tmp_path / "run")
    lines = list(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    rise = 0.02 if method == "iterative-ipo" else 0.08  # IPO aims at a finite margin
    assert lines[-1]["score"] > lines[0]["score"] + rise
    if "simpo" not in method:
        start = {"iterative-ipo": 25.0}.get(method, math.log(2))
        assert lines[0]["loss"] == pytest.approx(start, rel=1e-3)
    if method.startswith("iterative"):
        table = result.results["rounds"]
        assert [line["round"] for line in table] == [1, 2, 3, 4, 5, 6]
        assert table[-1]["win_rate"] > 0.5
        assert table[-1]["score"] == pytest.approx(result.results["after"]["score"]["mean"])
        assert {"kl", "length", "distinct_2", "pairs"} <= set(table[0]) or "simpo" in method
        steps = [line["step"] for line in lines if "round/score" in line]
        assert steps == [len(lines) // 6 * k for k in range(1, 7)]


@pytest.mark.parametrize("reference", ["fixed", "round", "ema"])
def test_references_are_what_they_are_called(reference: str, tiny: Path, prompts: Path) -> None:
    settings = config("iterative-dpo", tiny, prompts, reference=reference, decay=0.75)
    job, policy = build_online(settings, method_of(settings), prepare(settings, method_of(settings)))
    start = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01)
    moved = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    share = {"fixed": 0.0, "round": 1.0, "ema": 0.25}[reference]
    with reference_of(job.players, job.rounds) as answers:
        seen = dict(answers.policy.model.named_parameters())  # type: ignore[attr-defined]
        for name in start:
            assert torch.allclose(seen[name], start[name] + share * 0.01, atol=1e-6), name
    assert all(torch.equal(p, moved[n]) for n, p in policy.model.named_parameters())


def test_stored_log_probabilities_are_those_of_the_reference(tiny: Path, prompts: Path) -> None:
    settings = config("iterative-dpo", tiny, prompts)
    job, _ = build_online(settings, method_of(settings), prepare(settings, method_of(settings)))
    fill(job.players, job.rounds, job.plan.batch(1), settings.train, job.buffer, 1)
    assert len(job.buffer.pairs) == job.buffer.figures["pairs"] > 3
    first = next(iter(job.steps(LoopState())))
    assert first.metrics["rewards/margin"] == pytest.approx(0.0, abs=1e-4)
    assert first.metrics["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)


def test_rounds_without_pairs_end_the_run_with_a_reason(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    settings = config("online-dpo", tiny, prompts).model_copy(update={"reward": "rule:exact_answer"})
    rows = [json.dumps({"prompt": f"Say {i}", "answer": "nothing says this"}) for i in range(36)]
    prompts.write_text("\n".join(rows) + "\n")
    with pytest.raises(MidStepError, match=r"5 rounds in a row gave no pair .all scores are equal: 6"):
        train(settings, tmp_path / "run")


def test_win_rate_by_hand() -> None:
    assert win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 2.0, 1.0]) == pytest.approx((1 + 0.5 + 1 + 0) / 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["online-dpo", "--online.rounds", "3"], "online.rounds: has no effect"),
     (["online-dpa"], "did you mean online-dpo"), (["iterative-dpo", "--sample.n", "1"], "a pair needs two answers"),
     (["dpo", "--online.rounds", "2"], "online: has no"),
     (["iterative-dpo", "--policy.gamma", "0.9"], "policy: has no effect"), (["online-dpo"], "reward: missing"),
     (["dpo", "--reward", "rule:repetition"], "reward: has no effect"),
     (["grpo", "--policy.value_coef", "0.5"], "policy.value_coef: has no effect, grpo has no value model"),
     (["rloo", "--sample.n", "1"], "2 or more"), (["rloo", "--policy.advantage", "gae"], "contradicts the method"),
     (["ppo", "--lora.dropout", "0.1"], "lora.dropout: must be 0")],
)  # fmt: skip
def test_settings_that_cannot_be(
    words: list[str], said: str, tiny: Path, prompts: Path, tmp_path: Path, capsys: Any
) -> None:
    more = (
        [] if "reward: missing" in said or "--reward" in words or words[0] == "dpo" else ["--reward", "rule:repetition"]
    )
    out = tmp_path / "run"
    assert run(["train", *words, "--model", str(tiny), "--data", str(prompts), "--out", str(out), *more]) == 2
    assert said in capsys.readouterr().err
