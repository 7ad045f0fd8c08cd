"""Alarms of whole runs on a tiny model: planted faults, what is told, what is done, and kills that leave no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueup.cli.main import run
from trueup.config import (
    DataConfig,
    ModelConfig,
    OnAlarm,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    SaveConfig,
    TrainConfig,
)
from trueup.errors import ConfigError, TrainingError
from trueup.feedback.base import Answered
from trueup.recipes import rollouts
from trueup.recipes.train import resume, train
from trueup.runs.checkpoint import latest_checkpoint, load_checkpoint
from trueup.runs.metrics import read_jsonl
from trueup.train import loop
from trueup.train.optim import learning_rate
from trueup.types import Step

HARNESS = Path(__file__).with_name("alarm_harness.py")
QUIET = ("foreign_data", "truncation", "kl_negative", "equal_groups")  # a random model is foreign to all of this


class BreaksAt:
    """Scores by length; from some call on the scores are nan, for as many calls as told."""

    identity = "breaks"

    def __init__(self, call: int, calls: int = 1) -> None:
        self.call, self.calls, self.done = call, calls, 0

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        self.done += 1
        scores = np.array([float(len(a.answer)) for a in answers])
        return np.full(len(answers), np.nan) if self.call <= self.done < self.call + self.calls else scores


def config(method: str, model: Path, data: Path, on_alarm: OnAlarm = "warn", **changes: Any) -> RunConfig:
    sampled: dict[str, Any] = {}
    if method in ("ppo", "grpo"):
        sampled = {"reward": "rule:length_window", "sample": SampleConfig(n=2, max_new_tokens=8),
                   "policy": PolicyConfig(epochs=1)}  # fmt: skip
    return RunConfig(
        method=method,
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=str(data), eval_fraction=0.0),
        train=TrainConfig(lr=1e-5, batch_size=4, epochs=9, max_steps=12, precision="fp32", threads=1, warmup=0),
        save=SaveConfig(every=changes.pop("save", 2), keep=1),
        monitors={"off": QUIET, **changes.pop("monitors", {})},  # type: ignore[arg-type]
        on_alarm=on_alarm,
        **{**sampled, **changes},
    )


def alarms(out: Path, monitor: str) -> list[dict[str, Any]]:
    return [a for a in read_jsonl(out / "alarms.jsonl") if a["monitor"] == monitor]


def leaps_at(monkeypatch: pytest.MonkeyPatch, at: int, times: float = 100.0) -> None:
    def leaping(settings: TrainConfig, peak: float, step: int, total: int) -> float:
        return learning_rate(settings, peak, step, total) * (times if step >= at else 1.0)

    monkeypatch.setattr(loop, "learning_rate", leaping)


def test_a_nan_reward_is_told_with_its_cause_and_changes_no_weight(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollouts, "scorer_for", lambda _: BreaksAt(5))
    train(config("ppo", tiny, small_data["sft"]), tmp_path / "run")
    [alarm] = alarms(tmp_path / "run", "non_finite")
    assert (alarm["step"], alarm["since"], alarm["level"], alarm["deed"]) == (5, 5, "alarm", "warned")
    assert "the scorer gave" in alarm["cause"] and "score nan" in alarm["seen"] and "mend the scorer" in alarm["action"]
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert lines[4]["skipped"] is True and "skipped" not in lines[5]
    told = caplog.text
    assert "step 5: ALARM non_finite, since step 5: not finite" in told
    assert "likely cause: the scorer" in told and "done: nothing was changed" in told


def test_stop_saves_and_a_resume_goes_on(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaps_at(monkeypatch, 7)
    with pytest.raises(TrainingError, match="step 7: the run was stopped by lr_jump") as stopped:
        train(config("dpo", tiny, small_data["pairs"], "stop", save=0), tmp_path / "run")
    assert stopped.value.exit_code == 3
    newest, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.name == "step-000007"
    [alarm] = alarms(tmp_path / "run", "lr_jump")
    assert (alarm["step"], alarm["deed"]) == (7, "stop") and "in mid-run" in alarm["cause"]
    assert resume(tmp_path / "run").finished
    assert [r["step"] for r in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 13))
    assert len(alarms(tmp_path / "run", "lr_jump")) == 1


def test_the_command_line_says_why_it_stopped_and_exits_with_3(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leaps_at(monkeypatch, 3)
    words = ["train", "sft", "--model", str(tiny), "--data", str(small_data["sft"]), "--out", str(tmp_path / "run")]
    more = ["--on-alarm", "stop", "--train.max_steps", "4", "--train.lr", "1e-5", "--train.warmup", "0"]
    assert run([*words, *more, "--train.batch_size", "4", "--train.precision", "fp32"]) == 3
    told = capsys.readouterr().err
    assert "error: step 3: the run was stopped by lr_jump; see" in told and "Traceback" not in told


def test_lower_lr_halves_what_comes_after_as_often_as_allowed(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two leaps, one action: the second is told and nothing more is changed."""

    def leaping(settings: TrainConfig, peak: float, step: int, total: int) -> float:
        return peak * {True: 1.0, False: 1e-4}[step >= 5] * (1e3 if step >= 9 else 1.0)

    monkeypatch.setattr(loop, "learning_rate", leaping)
    settings = config("sft", tiny, small_data["sft"], "lower_lr", monitors={"actions": 1, "clear_after": 1})
    train(settings, tmp_path / "run")
    rates = [r["lr"] for r in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert rates[3:10] == pytest.approx([1e-9, 1e-5, 5e-6, 5e-6, 5e-6, 5e-3, 5e-3])
    first, second = alarms(tmp_path / "run", "lr_jump")
    assert (first["step"], first["deed"], second["step"], second["deed"]) == (5, "lower_lr", 9, "warned")
    assert second["done"] == "nothing more is changed after 1 actions (monitors.actions)"


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_raise_kl_doubles_the_coefficient_wherever_the_kl_acts(
    method: str, tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "scorer_for", lambda _: BreaksAt(4))
    train(config(method, tiny, small_data["sft"], "raise_kl"), tmp_path / "run")
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r["kl_coefficient"] for r in lines] == pytest.approx([0.05] * 4 + [0.1] * 8)
    if method == "grpo":
        assert lines[-1]["loss/kl"] > 0


def test_rollback_goes_back_and_on_with_a_change_until_it_has_tried_enough(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaps_at(monkeypatch, 8)
    with pytest.raises(TrainingError, match="step 8: rolled back 2 times already: the run was stopped by lr_jump"):
        train(config("dpo", tiny, small_data["pairs"], "rollback", monitors={"actions": 2}), tmp_path / "run")
    told = alarms(tmp_path / "run", "lr_jump")
    assert [(a["step"], a["deed"]) for a in told] == [(8, "rollback"), (8, "rollback"), (8, "stop")]
    assert told[0]["done"] == "rolled back to step 6; the learning rate was multiplied by 0.5"
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in lines] == list(range(1, 9))
    undone = read_jsonl(tmp_path / "run" / "undone.jsonl")
    assert [(r["rollback"], r["step"]) for r in undone] == [(1, 7), (1, 8), (2, 7), (2, 8)]
    assert [r["lr"] / lines[6]["lr"] for r in undone[::2]] == pytest.approx([4.0, 2.0])


def test_after_a_rollback_weights_and_moments_are_those_of_the_checkpoint(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One leap that is over when the step is taken again: with the change undone, the run is the one without a leap."""
    whole = config("dpo", tiny, small_data["pairs"])
    train(whole, tmp_path / "whole")
    left = [True]

    def leaping(settings: TrainConfig, peak: float, step: int, total: int) -> float:
        once = step == 8 and left[0]
        left[0] = left[0] and not once
        return learning_rate(settings, peak, step, total) * (100.0 if once else 1.0)

    monkeypatch.setattr(loop, "learning_rate", leaping)
    settings = config("dpo", tiny, small_data["pairs"], "rollback", monitors={"lr_factor": 1 - 2**-40})
    train(settings, tmp_path / "run")
    assert len(alarms(tmp_path / "run", "lr_jump")) == 1
    ends = [load_checkpoint(tmp_path / name / "checkpoints" / "step-000012") for name in ("whole", "run")]
    for group in ("weights", "optimizer"):
        for name, value in ends[0].tensors[group].items():
            assert np.allclose(ends[1].tensors[group][name], value, rtol=1e-5, atol=1e-9), name


def test_a_rollback_without_an_older_healthy_checkpoint_goes_to_the_start(
    tiny: Path, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "scorer_for", lambda _: BreaksAt(2))
    train(config("ppo", tiny, small_data["sft"], "rollback", save=50), tmp_path / "run")
    [alarm] = alarms(tmp_path / "run", "non_finite")
    assert alarm["done"] == "rolled back to step 0; the KL coefficient was multiplied by 2"
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r["kl_coefficient"] for r in lines] == pytest.approx([0.1] * 12)


def test_kills_leave_no_trace_in_alarms_and_actions(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    """Killed right at the alarm, and after the rollback, with checkpoints of both sides on the disk."""
    ways = ["dpo:rollback:9:11", "ppo:rollback:9"]
    command = [sys.executable, str(HARNESS), str(tiny), str(small_data["pairs"]), str(tmp_path), *ways]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["differing"] == [], name
        assert found["end"] == (3 if name.startswith("ppo:rollback") else 0)  # a higher KL does not mend that leap
        assert any("lr_jump" in a for a in found["alarms"])
        assert (found["undone"] > 0) == ("rollback" in name)


def test_sinks_and_listeners_hear_of_it_and_the_watch_is_timed(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    steps: list[Step] = []
    train(config("sft", tiny, small_data["sft"]), tmp_path / "run", (steps.append,))
    assert [s.index for s in steps] == list(range(1, 13))
    assert all(t["watching_seconds"] > 0 for t in read_jsonl(tmp_path / "run" / "timings.jsonl"))
    assert not (tmp_path / "run" / "alarms.jsonl").exists()


def test_a_monitor_that_there_is_not_is_refused_before_anything_is_made(
    tiny: Path, small_data: dict, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"monitors\.off: 'lr_jmp' is no monitor; did you mean lr_jump"):
        train(config("sft", tiny, small_data["sft"], monitors={"off": ("lr_jmp",)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
