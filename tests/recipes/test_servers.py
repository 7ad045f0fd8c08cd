"""`trueup sample` and `trueup pairs` against servers, through the command line, with servers that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_openai import FakeOpenAI
from trueup.cli.main import run


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Say {i}"}]} for i in range(12)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def words(prompts: Path, out: Path, *urls: str) -> list[str]:
    servers = [word for url in urls for word in ("--server", url)]
    return ["sample", "--model", "tiny", "--data", str(prompts), "--out", str(out), "--n", "2", *servers]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_servers_answer_like_one(prompts: Path, tmp_path: Path) -> None:
    with FakeOpenAI(latency=0.1) as one, FakeOpenAI(faults=["500", "429:0.1"]) as other:
        shared = words(prompts, tmp_path / "both.jsonl", one.url, other.url)
        assert run([*shared, "--server-concurrency", "2"]) == 0
        assert one.answered and other.answered
        assert run(words(prompts, tmp_path / "alone.jsonl", one.url)) == 0
    both, alone = lines(tmp_path / "both.jsonl"), lines(tmp_path / "alone.jsonl")
    assert len(both) == 24
    assert [(r["id"], r["index"], r["answer"]) for r in both] == [(r["id"], r["index"], r["answer"]) for r in alone]
    assert all(r["tokens"] > 0 and r["logprob"] is None for r in both)


def test_a_server_that_dies_half_way_loses_nothing(prompts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "answers.jsonl"
    quick = ["--server-concurrency", "2"]
    with FakeOpenAI(die_after=7) as server:
        port = int(server.url.rpartition(":")[2])
        assert run([*words(prompts, out, server.url), *quick]) == 2
        assert server.url in capsys.readouterr().err
    kept = (tmp_path / "answers.jsonl.part").read_bytes().count(b"\n") - 1
    assert kept == 7
    with FakeOpenAI(port=port) as server:
        assert run([*words(prompts, out, server.url), *quick, "--json"]) == 0
        assert server.answered == 24 - kept
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["drawn"] == 24 - kept
    assert len(lines(out)) == 24


def test_pairs_from_a_server(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    with FakeOpenAI() as server:
        more = ["--server", server.url, "--reward", '{rule: regex, arguments: {pattern: "^[a-f]"}}']
        assert run(["pairs", "--model", "tiny", "--data", str(prompts), "--out", str(out), "--n", "6", *more]) == 0
    assert all("tiny at http://127.0.0.1" in row["provenance"]["chosen"]["model"] for row in lines(out))


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [("other", [], "other"), ("tiny", ["--server", "http://127.0.0.1:9"], "127.0.0.1:9"),
     ("tiny", ["--chat", "plain"], "--chat: has no effect"), ("tiny", ["--server", "ftp://x"], "is no http")],
)  # fmt: skip
def test_wrong_words(model: str, more: list[str], said: str, prompts: Path, tmp_path: Path, capsys: Any) -> None:
    with FakeOpenAI() as server:
        given = [model if w == "tiny" else w for w in words(prompts, tmp_path / "o.jsonl", server.url)]
        assert run([*given, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_a_key_for_no_server(prompts: Path, tmp_path: Path, capsys: Any) -> None:
    assert run([*words(prompts, tmp_path / "o.jsonl"), "--server-key-env", "KEY"]) == 2
    assert "--server-key-env: has no effect" in capsys.readouterr().err
