"""`trueup sample` and `trueup pairs` on real files, through the command line, killed and resumed."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import run
from trueup.data.read import read_rows
from trueup.errors import RunError
from trueup.runs.journal import Journal
from trueup.types import Comparison, Rating


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Say {i}"}], "answer": i} for i in range(24)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pairs(tiny: Path, prompts: Path, out: Path, *more: str) -> list[str]:
    reward = '{rule: regex, arguments: {pattern: "[a-f]"}}'
    return ["pairs", "--model", str(tiny), "--data", str(prompts), "--out", str(out), "--reward", reward, "--n", "4",
            "--max-new-tokens", "16", "--precision", "fp32", *more]  # fmt: skip


def test_sample_answers_every_prompt_n_times(tiny: Path, prompts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["sample", "--model", str(tiny), "--data", str(prompts), "--out", str(out), "--n", "2"]
    assert run([*words, "--max-new-tokens", "8", "--precision", "fp32", "--json"]) == 0
    rows = lines(out)
    assert [(r["id"], r["index"]) for r in rows] == [(f"prompts.jsonl:{i + 1}", k) for i in range(24) for k in (0, 1)]
    assert all(r["finish"] == "stop" or r["tokens"] == 8 for r in rows)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answers"] == 48
    assert run(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("to", ["preference", "soft", "unpaired"])
def test_pairs_are_rows_that_training_reads(tiny: Path, prompts: Path, tmp_path: Path, to: str, capsys: Any) -> None:
    out = tmp_path / "pairs.jsonl"
    assert run(pairs(tiny, prompts, out, "--to", to)) == 0
    said = capsys.readouterr().out
    assert "96 answers (96 drawn now, 96 scored now)" in said
    read = read_rows(out, wanted=Rating if to == "unpaired" else Comparison).rows
    assert len(read) == len(lines(out)) > 3
    for row in lines(out):
        told = row["provenance"]
        assert told["scorer"].startswith("rule:regex")
        for side in told.keys() - {"scorer"}:
            text = row["completion"] if to == "unpaired" else row[side]
            found = any(c in "abcdef" for c in text[0]["content"])
            assert told[side]["score"] == float(found)
            assert row.get("label", side == "chosen") == (side == "chosen")
            assert "@" in told[side]["model"]
            assert told[side]["sampling"]["max_new_tokens"] == 16
        if to == "soft":
            assert row["preference"] == pytest.approx(0.7310585786)


def test_two_models_and_two_temperatures(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    more = ("--model", str(tiny), "--temperature", "0.7", "--temperature", "1.2", "--limit", "6", "--cap", "3")
    assert run(pairs(tiny, prompts, out, *more, "--choose", "all")) == 0
    seen = {row["provenance"][s]["sampling"]["temperature"] for row in lines(out) for s in ("chosen", "rejected")}
    assert seen == {0.7, 1.2}


def test_killed_at_random_moments_no_call_is_repeated(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "trueup.cli.main", *pairs(tiny, prompts, whole, "--max-new-tokens", "48")]
    subprocess.run(command, check=True, capture_output=True)
    command[command.index(str(whole))] = str(out)
    journal = tmp_path / "killed.jsonl.answers.part"
    rng, kept = random.Random(0), []
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = journal.stat().st_size if journal.exists() else 0
        wait = before + rng.randrange(1, 4000)  # bytes, not seconds: a fast machine is killed as early as a slow one
        while process.poll() is None and (not journal.exists() or journal.stat().st_size < wait):
            time.sleep(0.001)
        process.kill()
        process.wait()
        kept.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
        if out.exists():  # it ended before the kill: nothing is left to go on with
            break
    assert kept[0] > 0, "the first kill came before any answer was kept"
    if not out.exists():
        done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
        assert json.loads(done.stdout.splitlines()[-1])["drawn"] < 96
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(whole.read_bytes()).digest()


def test_a_job_begun_with_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "j.part"
    with Journal(path, {"model": "a"}) as journal:
        journal.add("k", {"x": 1})
    with pytest.raises(RunError, match="begun with model 'a', and is now asked to go on with 'b'"):
        Journal(path, {"model": "b"})
    with Journal(path, {"model": "a"}) as journal:
        assert journal.records == {"k": {"x": 1}}
        with pytest.raises(RunError, match="another process"):
            Journal(path, {"model": "a"})


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--choose", "best"), "none of best-worst"), (("--temperature", "-1"), "--temperature"),
     (("--reward", "rule:lenght_window"), "did you mean length_window"), (("--to", "pairs"), "none of preference"),
     (("--reward", "{rule: length_window, arguments: {low: 0, high: 99}}"), "all scores are equal")],
)  # fmt: skip
def test_wrong_words(tiny: Path, prompts: Path, tmp_path: Path, more: tuple[str, ...], said: str, capsys: Any) -> None:
    assert run(pairs(tiny, prompts, tmp_path / "o.jsonl", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()
