"""Judges in place of scorers: `trueup pairs` and online DPO, by a model in this process and behind a server."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_openai import FakeOpenAI
from scripted import Script, nonce, slots, tokens
from trueup.cli.main import run
from trueup.config import DataConfig, ModelConfig, OnlineConfig, RunConfig, SampleConfig, TrainConfig
from trueup.errors import ConfigError
from trueup.feedback.base import Answered
from trueup.feedback.ranking import JudgeScorer
from trueup.feedback.speaker import Failure, Question, Reply
from trueup.recipes.train import train
from trueup.runs.journal import read_journal
from trueup.runs.metrics import read_jsonl


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(6)))
    return path


def pairs(tiny: Path, prompts: Path, out: Path, reward: str) -> list[str]:
    return ["pairs", "--model", str(tiny), "--data", str(prompts), "--out", str(out), "--reward", reward, "--n", "3",
            "--max-new-tokens", "8", "--precision", "fp32", "--json"]  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(text: str) -> Answered:
    return Answered(id="r", prompt="Q", answer=text)


def longer(question: Question) -> Reply:
    """0.9 for the longer answer, and 0.05 on top for slot A."""
    a, b = slots(question.messages[-1][1])
    return tokens((0.9 if len(a) > len(b) else 0.1) + 0.05)


def test_comparing_ranks_by_the_chance_to_beat_another_answer(tmp_path: Path) -> None:
    script = Script(longer)
    judge = JudgeScorer(lambda: nullcontext(script), cache=tmp_path / "calls")
    groups = [[answered("a"), answered("bbb bbb"), answered("cc cc")]]
    (found,) = judge.rank(groups)
    # the longer one wins with (0.95 + 0.85) / 2, the shorter one has the rest
    np.testing.assert_allclose(found.scores, [0.1, 0.9, 0.5], atol=1e-12)
    assert found.reasons == ("", "", "") and len(script.asked) == 6
    np.testing.assert_array_equal(judge.rank(groups)[0].scores, found.scores)
    assert len(script.asked) == 6, "a call was made twice"
    assert len(list(read_journal(tmp_path / "calls"))) == 7


def test_what_cannot_be_judged_has_a_reason_and_no_number() -> None:
    def voice(question: Question) -> Any:
        if "mute" in question.messages[-1][1]:
            return Failure("the judge is silent", lasting=True)
        a, b = slots(question.messages[-1][1])
        return tokens(0.9 if len(a) > len(b) else 0.1)

    judge = JudgeScorer(lambda: nullcontext(Script(voice)))
    (found,) = judge.rank([[answered("long one"), answered("mute"), answered("short")]])
    assert math.isnan(found.scores[1]) and found.reasons == ("", "the judge is silent", "")
    np.testing.assert_allclose(found.scores[[0, 2]], [0.9, 0.1], atol=1e-12)


@pytest.mark.parametrize("by", ["compare", "grade"])
def test_pairs_by_a_judge_in_this_process(tiny: Path, prompts: Path, tmp_path: Path, by: str, capsys: Any) -> None:
    out = tmp_path / "pairs.jsonl"
    assert run(pairs(tiny, prompts, out, f"{{judge: {tiny}, by: {by}, way: logprobs}}")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scored"] == 18 and report["left_out"] == {} and report["pairs"] > 0
    top = 1.0 if by == "compare" else 9.0
    for row in lines(out):
        told = row["provenance"]
        assert told["scorer"].startswith("judge(" if by == "compare" else "grades(")
        assert top >= told["chosen"]["score"] > told["rejected"]["score"] >= 0.0
    assert not list(tmp_path.glob("*.part"))


def test_pairs_by_a_judge_behind_a_server(tiny: Path, prompts: Path, tmp_path: Path, capsys: Any) -> None:
    def says(request: dict[str, Any]) -> str:
        text = request["messages"][-1]["content"]
        a, b = slots(text)
        if "task>>\nSay 3\n" in text:
            return "I would rather not."
        return f"[[{'A' if a > b else 'B' if b > a else 'tie'}:{nonce(text)}]]"

    with FakeOpenAI(model="judge", reply=says) as fake:
        out, spec = tmp_path / "pairs.jsonl", f'{{judge: {{server: "{fake.url}", model: judge}}, way: parsed}}'
        assert run(pairs(tiny, prompts, out, spec)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] == {"no verdict in the form asked for": 3}
    assert report["reasons"]["fewer than two answers were scored"] == 1
    for row in lines(out):
        assert row["chosen"] > row["rejected"]
        assert row["prompt"] != "Say 3"


def online(tiny: Path, prompts: Path, reward: dict[str, Any]) -> RunConfig:
    return RunConfig(
        method="iterative-dpo", model=ModelConfig(path=str(tiny)), data=DataConfig(path=str(prompts), eval_fraction=0),
        reward=reward, sample=SampleConfig(n=2, max_new_tokens=8), online=OnlineConfig(rounds=2),
        train=TrainConfig(lr=1e-3, batch_size=4, epochs=1, precision="fp32", threads=1),
    )  # fmt: skip


def test_online_dpo_by_a_judge_repeats_no_call(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    reward = {"judge": str(tiny), "cache": str(tmp_path / "calls.jsonl"), "way": "logprobs"}
    assert train(online(tiny, prompts, reward), tmp_path / "one").finished
    calls = (tmp_path / "calls.jsonl").read_bytes()
    assert train(online(tiny, prompts, reward), tmp_path / "two").finished
    assert (tmp_path / "calls.jsonl").read_bytes() == calls, "the same run asked again"
    logged = read_jsonl(tmp_path / "one" / "metrics.jsonl")
    assert any(line["pairs"] > 0 for line in logged) and all(0 <= line["score"] <= 1 for line in logged)


@pytest.mark.parametrize(
    ("reward", "said"),
    [({"judge": "x", "rubrik": "y", "cache": "c"}, "did you mean rubric"), ({"judge": "x"}, "reward.cache: missing"),
     ({"judge": "x", "by": "rank", "cache": "c"}, "none of compare, grade"),
     ({"judge": {"server": "http://x"}, "cache": "c"}, "model: NAME")],
)  # fmt: skip
def test_wrong_specs(tiny: Path, prompts: Path, tmp_path: Path, reward: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(online(tiny, prompts, reward), tmp_path / "run")
