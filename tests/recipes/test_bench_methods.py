"""The comparison of methods, end to end on a tiny model; its figures computed again by hand from the answers."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueup.cli.main import run
from trueup.errors import ConfigError, DataError, RunError
from trueup.recipes.bench_job import _reason, resident
from trueup.recipes.bench_methods import BenchTask, bench, config_of
from trueup.recipes.bench_table import cost_rows, interval, markdown, outcome_rows, write_report

RULE = {"rule": "length_window", "arguments": {"high": 1}}  # every word counts: there are pairs
METHODS = ("sft", "dpo", "ppo")


def prompts(path: Path, count: int, word: str = "say") -> str:
    path.write_text("".join(json.dumps({"prompt": f"{word} {i} red stones"}) + "\n" for i in range(count)))
    return str(path)


def task_of(tiny: Path, folder: Path, **more: Any) -> BenchTask:
    given: dict[str, Any] = {
        "model": str(tiny), "methods": METHODS, "seeds": (0, 1), "data": prompts(folder / "train.jsonl", 12),
        "held_out": prompts(folder / "held.jsonl", 12, "tell"), "reward": RULE, "gold": "rule:repetition",
        "n": 3, "max_new_tokens": 12, "min_margin": 0.0, "passes": 1, "lora_rank": 4, "lr": 1e-3,
        "precision": "fp32",
    }  # fmt: skip
    return BenchTask(**{**given, **more})


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchTask, dict[str, Any]]:
    """Three methods with two seeds."""
    folder = tmp_path_factory.mktemp("bench")
    task = task_of(tiny, folder)
    return folder / "out", task, bench(task, folder / "out")


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_every_method_has_every_column(whole: tuple[Path, BenchTask, dict[str, Any]]) -> None:
    out, _, report = whole
    assert report == json.loads((out / "results.json").read_text())
    assert report["failed"] == {} and report["headline"] == "gold" and report["prompts"] == 12
    found = {r["method"]: r for r in report["methods"]}
    assert tuple(found) == METHODS
    for r in report["methods"]:
        assert r["seeds"] == [0, 1] and r["seconds"] > 0 and r["tokens_per_second"] > 0 and r["kl"] > 0
        assert 0 < r["peak_bytes"] < 2**31 and 0 < r["distinct_2"] <= 1 and r["lr"] <= 1e-3
        assert r["scores"]["gold"]["over_seeds"] >= 0
    assert found["dpo"]["needs"] == "pairs" and found["sft"]["needs"] == "demonstrations"
    assert found["sft"]["rows"] == found["dpo"]["rows"]  # the better side of the same pairs
    assert found["ppo"]["rows"] == [12, 12] and found["ppo"]["drawing_seconds"] == 0
    assert found["sft"]["models"] == ["policy"]
    assert found["dpo"]["models"] == ["policy", "reference (adapter off)"]
    assert found["ppo"]["models"] == ["policy", "reference (adapter off)", "value head"]
    for picture in ("score.png", "score-kl.png", "cost.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    told = (out / "table.md").read_text()
    assert told == markdown(report) and "which nothing was trained on" in told and "on prompts that were not" in told


def test_the_figures_are_those_of_the_answers(whole: tuple[Path, BenchTask, dict[str, Any]]) -> None:
    out, _, report = whole
    base = {(a["id"], a["index"]): a["scores"]["reward"] for a in answers(out / "base")}
    for r in report["methods"]:
        by_seed, credit, gaps, lengths = [], [], [], []
        for seed in (0, 1):
            rows = answers(out / f"{r['method']}-{seed}")
            assert len(rows) == 24
            for a in rows:  # the scores are the rule's, on the answer that stands there
                assert a["scores"]["reward"] == pytest.approx(max(-1.0, 1 - 0.05 * beyond(a["answer"])))
            by_seed.append(np.mean([a["scores"]["reward"] for a in rows]))
            pairs = [(a["scores"]["reward"], base[a["id"], a["index"]]) for a in rows]
            credit += [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs]
            gaps += [x - y for x, y in pairs]
            lengths += [a["tokens"] for a in rows]
        own = r["scores"]["reward"]
        assert own["by_seed"] == pytest.approx(by_seed)
        assert own["score"]["mean"] == pytest.approx(np.mean(by_seed))
        assert own["over_seeds"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / math.sqrt(2))
        assert own["win_rate"]["mean"] == pytest.approx(np.mean(credit))
        assert own["contrast"]["figure"]["mean"] == pytest.approx(np.mean(gaps))
        assert own["win_rate"]["clusters"] == 12
        assert r["tokens"]["mean"] == pytest.approx(np.mean(lengths))


def beyond(answer: str) -> int:
    """Words outside the window of exactly one word."""
    return abs(len(answer.split()) - 1)


def test_a_killed_bench_leaves_no_process_behind(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    task = asdict(task_of(tiny, tmp_path, methods=("sft",), seeds=(0,)))
    script = (
        f"import json; from pathlib import Path; from trueup.recipes.bench_methods import *\n"
        f"bench(BenchTask(**json.loads({json.dumps(json.dumps(task))})), Path({str(out)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        until(lambda: any(out.glob("*/job.json")))
        process.send_signal(signal.SIGKILL)
    (job,) = out.glob("*/job.json")
    with (out / ".lock").open("w") as lock:  # the job's process holds it as long as it lives
        until(lambda: free(lock.fileno()))
    assert not (job.parent / "result.json").exists()  # it was ended, not waited for


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_the_same_command_makes_only_what_is_missing(whole: tuple[Path, BenchTask, dict[str, Any]]) -> None:
    out, task, report = whole
    (out / "dpo-1" / "result.json").unlink()
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.parts[len(out.parts)] != "dpo-1"}
    said: list[str] = []
    again = bench(task, out, say=said.append)
    made = {"results.json", "table.md", "score.png", "score-kl.png", "cost.png", ".lock"}
    assert {p.name for p, at in kept.items() if p.stat().st_mtime_ns != at} <= made
    assert sum("kept" in line for line in said) == 6 and any(s.startswith("dpo-1: trained") for s in said)
    mine, theirs = (next(r for r in x["methods"] if r["method"] == "dpo") for x in (report, again))
    assert mine["scores"] == theirs["scores"] and mine["kl"] == theirs["kl"]  # the seed decides, not the moment
    with pytest.raises(RunError, match=r"passes 1, now 2"):
        bench(task_of(Path(task.model), out.parent, passes=2), out)


def test_a_method_that_fails_is_told_and_the_others_go_on(
    whole: tuple[Path, BenchTask, dict[str, Any]], tmp_path: Path, capsys: Any
) -> None:
    """A broken file of pairs fails the one run that is to be made again; the command says so and exits with 1."""
    out, task, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    for name in ("dpo-0", "dpo-1"):
        shutil.rmtree(copy / name)
    (copy / "seed-0" / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a"}\n')
    words = ["bench-methods", "--out", str(copy), "--model", task.model, "--methods", "sft,dpo", "--seeds", "0",
             "--data", str(task.data), "--held-out", str(task.held_out), "--reward", json.dumps(RULE),
             "--gold", "rule:repetition", "--n", "3", "--max-new-tokens", "12", "--passes", "1", "--lora-rank", "4",
             "--min-margin", "0", "--lr", "1e-3", "--precision", "fp32"]  # fmt: skip
    assert run(words) == 1
    shown = capsys.readouterr().out
    assert "dpo-0 failed:" in shown and "pairs.jsonl" in " ".join(shown.split())
    report = json.loads((copy / "results.json").read_text())
    assert [r["method"] for r in report["methods"]] == ["sft"] and list(report["failed"]) == ["dpo-0"]
    rows = list(outcome_rows(report, "reward"))
    assert [r[0] for r in rows] == ["base", "sft", "dpo"] and rows[2][1] == "failed" and rows[1][-1] == "one seed"
    assert [r[0] for r in cost_rows(report)] == ["sft", "dpo"]


def test_one_prompt_has_no_interval(whole: tuple[Path, BenchTask, dict[str, Any]], tmp_path: Path) -> None:
    out, task, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("run"))
    for path in copy.glob("*/answers.jsonl"):
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    report = write_report(copy, task.settings(), ("sft",), (0,), {})
    rows = list(outcome_rows(report, "reward"))
    assert all("[n/a]" in cell for cell in rows[1][1:4]) and rows[1][6] == "n/a"
    assert "unknown: no interval is possible" in markdown(report) or "equal on every prompt" in markdown(report)


def test_how_a_process_ended_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("step 1\nerror: the disk is full\n")
    assert _reason(75, log) == "the disk is full"
    assert "want of memory" in _reason(-9, log) and "SIGSEGV" in _reason(-11, log)
    log.write_text("")
    assert _reason(1, log) == "it said nothing"


def test_one_process_at_a_time(whole: tuple[Path, BenchTask, dict[str, Any]]) -> None:
    out, task, _ = whole
    with (out / ".lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            bench(task, out)


def test_what_cannot_be_used_is_refused_before_anything_is_made(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean simpo"):
        BenchTask(methods=("simpoo",))
    with pytest.raises(ConfigError, match="gives no answers"):
        BenchTask(methods=("reward",))
    with pytest.raises(ConfigError, match="named twice"):
        BenchTask(seeds=(1, 1))
    with pytest.raises(ConfigError, match="--n: at least 2"):
        BenchTask(n=1)
    with pytest.raises(ConfigError, match="without --data"):
        BenchTask(held_out="x")
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="not made by bench-methods"):
        bench(task_of(tiny, tmp_path), other)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError):
        bench(task_of(tiny, tmp_path, data=str(tmp_path / "none.jsonl")), tmp_path / "out")
    task = task_of(tiny, tmp_path)
    with pytest.raises(DataError, match="12 held-out prompts are training prompts"):
        bench(task_of(tiny, tmp_path, held_out=task.data), tmp_path / "out")
    one = prompts(tmp_path / "one.jsonl", 1)
    with pytest.raises(DataError, match="too few prompts"):
        bench(task_of(tiny, tmp_path, data=one, held_out=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_refuses_in_one_line(capsys: Any, tmp_path: Path) -> None:
    out = ["bench-methods", "--out", str(tmp_path / "out")]
    for more, hint in ((["--methods", "dpoo"], "did you mean dpo?"), (["--seeds", "a"], "whole numbers"),
                       (["--data", "x"], "needs --reward"), (["--methods", ""], "names none")):  # fmt: skip
        assert run([*out, *more]) == 2
        assert hint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_budget_is_the_same_for_all(tmp_path: Path) -> None:
    """Steps of 8 prompts or pairs; a method that samples draws n answers to each prompt once."""
    task = BenchTask(n=4, passes=2)
    settings = {m: config_of(task, m, 0, tmp_path / "pairs", tmp_path / "prompts") for m in
                ("sft", "dpo", "kto", "ppo", "online-dpo", "iterative-dpo")}  # fmt: skip
    assert {m: c.train.batch_size for m, c in settings.items() if m != "kto"} == dict.fromkeys(
        set(settings) - {"kto"}, 8
    )
    assert settings["kto"].train.batch_size == 16  # both sides of 8 pairs
    assert [settings[m].train.epochs for m in ("sft", "dpo", "kto", "iterative-dpo")] == [2.0] * 4
    assert [settings[m].train.epochs for m in ("ppo", "online-dpo")] == [1.0, 1.0]
    assert settings["ppo"].policy.epochs == 2 and settings["ppo"].sample.n == 4


def test_intervals_and_memory() -> None:
    assert interval({"mean": 0.5, "low": None, "high": None}) == "0.50 [n/a]"
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}, sign=True) == "+0.50 [+0.25, +0.75]"
    now, most = resident("VmRSS"), resident("VmHWM")
    assert now is not None and most is not None and 2**20 < now <= most
