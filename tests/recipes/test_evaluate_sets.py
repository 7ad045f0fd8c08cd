"""`trueup eval reward`, `choice`, `perplexity` and `agreement` through the command line, against direct computation."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_openai import FakeOpenAI
from trueup.cli.main import run
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.tiny import save_tiny

DATA = Path(__file__).parents[2].parent / "shared/data"
KEYWORD = '{rule: keyword, arguments: {words: ["good"]}}'


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["eval", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["eval", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].startswith("error: ")
    return err


def figures(record: dict[str, Any], number: int = 0) -> dict[str, dict[str, Any]]:
    return {f["name"]: f for f in record["subjects"][number]["figures"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_tiny(folder / f"m{i}", seed=i)) for i in range(2)]


# ── reward ──


def pairs(count: int = 40) -> list[dict[str, Any]]:
    """Three of four times the chosen answer holds "good"; it is the longer one every other time."""
    return [
        {
            "prompt": f"p{i}",
            "chosen": ("good " if i % 4 else "fine ") + "x" * (9 if i % 2 else 1),
            "rejected": "bad " + "y" * 6,
        }
        for i in range(count)
    ]


def test_scorers_on_ranked_answers(capsys: Any, tmp_path: Path) -> None:
    data, out = write(tmp_path / "pairs.jsonl", pairs()), tmp_path / "out"
    rule = "rule:repetition"
    record = evaluated(capsys, "reward", "--reward", KEYWORD, "--reward", rule, "--data", data, "--out", str(out))
    good, flat = figures(record, 0), figures(record, 1)
    assert good["reward_accuracy"]["mean"] == pytest.approx(0.75 + 0.25 / 2)
    assert good["reward_ties"]["mean"] == 0.25
    assert good["length_accuracy"]["mean"] == 0.5
    assert good["reward_log_loss"]["mean"] == pytest.approx(0.75 * math.log1p(math.exp(-1)) + 0.25 * math.log(2))
    assert flat["reward_accuracy"]["mean"] == 0.5
    assert any("is not shown to be above" in w for w in record["subjects"][1]["warnings"])
    assert record["subjects"][0]["warnings"] == []
    assert any("calibration needs a pair a bin" in line for line in record["subjects"][1]["left_out"])
    table = record["subjects"][0]["tables"]["reliability"]
    assert sum(row["n"] for row in table) == 30 and table[0]["accuracy"] == 1.0
    (told,) = record["contrasts"]
    assert (told["better"], told["worse"]) == (30, 0) and told["verdict"].endswith("higher")
    assert json.loads((out / "eval.json").read_text())["kind"] == "reward"


def test_best_of_n_and_soft_pairs(capsys: Any, tmp_path: Path) -> None:
    ranked = [{"prompt": f"p{i}", "completions": ["good", "bad", "worse"], "scores": [3, 2, 1]} for i in range(6)]
    ranked += [{"prompt": f"q{i}", "completions": ["good", "bad"], "scores": [1, 2]} for i in range(2)]
    best = write(tmp_path / "ranked.jsonl", ranked)
    record = evaluated(capsys, "reward", "--reward", KEYWORD, "--best-of", best)
    assert figures(record)["best_of_n"]["mean"] == 0.75
    soft = [{**row, "preference": p} for row, p in zip(pairs(12), [0.9, 0.1, 0.5] * 4, strict=True)]
    record = evaluated(capsys, "reward", "--reward", KEYWORD, "--data", write(tmp_path / "soft.jsonl", soft))
    assert any("4 pairs without a better side" in w for w in record["warnings"])
    assert figures(record)["reward_accuracy"]["n"] == 8
    assert "--data or --best-of" in refused(capsys, "reward", "--reward", KEYWORD)
    assert "no bundled rule" in refused(capsys, "reward", "--reward", "rule:nosuch", "--data", best)


# ── choice ──


def test_choices_are_what_plain_transformers_prefers(capsys: Any, tmp_path: Path, models: Any) -> None:
    rows = [{"prompt": f"Q{i}:", "options": [" red", " blue fish", " x"], "right": i % 3} for i in range(9)]
    record = evaluated(
        capsys, "choice", "--model", models[0], "--model", models[1], "--questions", write(tmp_path / "q.jsonl", rows),
        "--precision", "fp32",
    )  # fmt: skip
    tokenizer: Any = load_tokenizer(models[0])
    for number, path in enumerate(models):
        model: Any = load_causal_lm(path, dtype=torch.float32)
        right = 0
        for row in rows:
            before = tokenizer(row["prompt"], add_special_tokens=False).input_ids
            sums = []
            for option in row["options"]:
                ids = [*before, *tokenizer(option, add_special_tokens=False).input_ids]
                with torch.no_grad():
                    logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                sums.append(sum(float(logp[t - 1, ids[t]]) for t in range(len(before), len(ids))))
            right += int(np.argmax(sums) == row["right"])
        assert figures(record, number)["choice_sum"]["mean"] == pytest.approx(right / 9)
    assert [c["measure"] for c in record["contrasts"]] == ["choice_sum"]
    assert figures(record)["choice_sum"]["note"] == "chance 0.33"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "options": ["a"], "right": 0}, "two or more different texts"),
        ({"prompt": "p", "options": "ab", "right": 0}, "options: a list of texts"),
        ({"prompt": "p", "options": ["a", "b"], "right": "a"}, "right: the index of the right option"),
        ({"prompt": "p", "options": ["a", "b"], "right": 2}, "some but not all of the options"),
        ({"options": ["a", "b"], "right": 0}, "prompt: a text is expected"),
    ],
)
def test_bad_questions(row: Any, words: str, capsys: Any, tmp_path: Path, models: Any) -> None:
    file = write(tmp_path / "q.jsonl", [row])
    assert words in refused(capsys, "choice", "--model", models[0], "--questions", file)
    assert "is none of plain, hhh" in refused(
        capsys, "choice", "--model", models[0], "--questions", file, "--form", "exam"
    )


def test_hhh_is_asked_in_both_orders(capsys: Any, models: Any) -> None:
    path = DATA / "cai_hhh438/438HHHEvaluations.jsonl.gz"
    if not path.exists():
        pytest.skip("the HHH questions are not here")
    words = ["choice", "--model", models[0], "--questions", str(path), "--precision", "fp32", "--limit", "12"]
    assert "longer than the context of a model" in refused(capsys, *words, "--form", "hhh")
    words.append("--skip-too-long")
    record = evaluated(capsys, *words, "--form", "hhh")
    found, lost = figures(record), int(record["warnings"][0].split()[0])
    assert {"choice_both_orders", "choice_order_flips", "choice_sum"} <= set(found)
    assert 0 < lost < 6 and (found["choice_both_orders"]["n"], found["choice_sum"]["n"]) == (6 - lost, 12 - 2 * lost)
    assert figures(evaluated(capsys, *words, "--form", "hhh-text"))["choice_sum"]["n"] > 6
    told = figures(evaluated(capsys, "reward", "--reward", "rule:repetition", "--data", str(path), "--form", "hhh"))
    assert told["reward_accuracy"]["n"] == 223
    words = ["agreement", "--judge", "rule:repetition", "--data", str(path), "--form", "hhh", "--limit", "50"]
    assert figures(evaluated(capsys, *words))["agreement"]["n"] == 50


# ── perplexity ──


def test_perplexity_is_that_of_plain_transformers(capsys: Any, tmp_path: Path, models: Any) -> None:
    texts = ["the red fish", "a blue stone in the river", "one two"]
    file = write(tmp_path / "t.jsonl", [{"text": t} for t in texts])
    record = evaluated(capsys, "perplexity", "--model", models[0], "--model", models[1], "--data", file,
                       "--precision", "fp32")  # fmt: skip
    tokenizer: Any = load_tokenizer(models[0])
    model: Any = load_causal_lm(models[0], dtype=torch.float32)
    nats, count, size = 0.0, 0, 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(logp[t - 1, ids[t]]) for t in range(1, len(ids)))
        count, size = count + len(ids) - 1, size + len(text) - 1
    found = figures(record)
    assert found["perplexity"]["mean"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found["bits_per_byte"]["mean"] == pytest.approx(nats / size / math.log(2), rel=1e-4)
    assert record["contrasts"][0]["figure"]["n"] == 3
    plain = tmp_path / "book.txt"
    plain.write_text("the red fish and the blue stone")
    one = figures(evaluated(capsys, "perplexity", "--model", models[0], "--data", str(plain)))["perplexity"]
    assert one["low"] is None and "one document: the interval is unknown" in one["note"]


def test_bad_texts(capsys: Any, tmp_path: Path, models: Any) -> None:
    file = write(tmp_path / "t.jsonl", [{"text": "a b c"}, {"prompt": "p"}])
    words = ["perplexity", "--model", models[0], "--data"]
    assert "t.jsonl:2: text: a text is expected" in refused(capsys, *words, file)
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    assert "there is no text in it" in refused(capsys, *words, str(empty))
    good = write(tmp_path / "g.jsonl", [{"text": "a b c"}])
    assert "stride < window <= 1024" in refused(capsys, *words, good, "--window", "2000")
    assert "1 <= stride < window" in refused(capsys, *words, good, "--stride", "0", "--window", "8")


# ── agreement ──


def test_a_judge_and_people(capsys: Any, tmp_path: Path) -> None:
    """The rule is right where "good" is on one side: 30 of 40; elsewhere it ties and people do not."""
    data, out = write(tmp_path / "pairs.jsonl", pairs()), tmp_path / "out"
    record = evaluated(capsys, "agreement", "--judge", f"reward:{KEYWORD}", "--data", data, "--out", str(out))
    found = figures(record)
    assert found["agreement"]["mean"] == 0.75 and found["agreement"]["n"] == 40
    rows = [json.loads(x) for x in (out / "judgements.jsonl").read_text().splitlines()]
    people, judge = ([r[side] for r in rows] for side in ("people", "judge"))
    assert 8 < people.count("first") < 32  # no side is always right
    chance = sum(people.count(k) * judge.count(k) for k in ("first", "second", "tie")) / 1600
    assert found["cohen_kappa"]["mean"] == pytest.approx((0.75 - chance) / (1 - chance))
    assert record["headline"].startswith(f"reward:{KEYWORD}: agreement 0.75 [")


def test_a_panel_is_told_member_by_member_and_a_server_that_always_says_a(capsys: Any, tmp_path: Path) -> None:
    def always_a(request: dict[str, Any]) -> str:
        return f"[[A:{json.dumps(request['messages']).split('<<begin ')[1].split()[0]}]]"

    data = write(tmp_path / "pairs.jsonl", pairs(12))
    with FakeOpenAI(reply=always_a) as server:
        record = evaluated(capsys, "agreement", "--judge", f"reward:{KEYWORD}", "--judge", "tiny", "--judge-server",
                           server.url, "--judge-way", "parsed", "--data", data)  # fmt: skip
    assert [(s["name"], s["rows"]) for s in record["subjects"]] == [
        ("panel", 12), (f"reward:{KEYWORD}", 12), ("tiny", 12),
    ]  # fmt: skip
    assert figures(record, 1)["agreement"]["mean"] == 0.75
    assert figures(record, 2)["agreement"]["mean"] == 0.0  # both orders cancel: always a tie
    assert any("always says A" in w for w in record["warnings"])


def test_columns_of_labels(capsys: Any, tmp_path: Path) -> None:
    rows = [{"a": i % 2, "b": i % 2 if i % 5 else 1 - i % 2, "c": i % 2 if i < 10 else None, "p": f"p{i // 2}"}
            for i in range(20)]  # fmt: skip
    file = write(tmp_path / "labels.jsonl", rows)
    record = evaluated(capsys, "agreement", "--raters", "a,b,c", "--cluster", "p", "--data", file)
    assert [s["name"] for s in record["subjects"]] == ["all", "a and b", "a and c", "b and c"]
    assert figures(record, 1)["agreement"]["mean"] == 0.8 and figures(record, 1)["agreement"]["clusters"] == 10
    assert figures(record, 2)["agreement"]["n"] == 10
    assert "zz: no such column; there are a, b, c, p" in refused(
        capsys, "agreement", "--raters", "a,zz", "--data", file
    )
    assert "two or more different columns" in refused(capsys, "agreement", "--raters", "a", "--data", file)
    both = refused(capsys, "agreement", "--raters", "a,b", "--judge", "rule:repetition", "--data", file)
    assert "--judge or --raters: one of the two" in both
    assert "--form: has no effect" in refused(capsys, "agreement", "--raters", "a,b", "--form", "hhh", "--data", file)
    assert "is none of pairs, hhh" in refused(
        capsys, "agreement", "--judge", "rule:repetition", "--form", "x", "--data", file
    )
    assert "--cluster: has no effect" in refused(
        capsys, "agreement", "--judge", "rule:repetition", "--cluster", "p", "--data", file
    )
    lone = write(tmp_path / "lone.jsonl", [{"a": 1, "b": None}, {"a": None, "b": 1}])
    assert "no row has labels of two raters" in refused(capsys, "agreement", "--raters", "a,b", "--data", lone)


def test_human_labels_of_a_published_set(capsys: Any) -> None:
    """PandaLM's three annotators, over the rows that are here: agreement counted directly."""
    path = DATA / "pandalm_human/testset_v1.jsonl.gz"
    if not path.exists():
        pytest.skip("PandaLM's labels are not here")
    names = ["annotator1", "annotator2", "annotator3"]
    record = evaluated(
        capsys, "agreement", "--raters", ",".join(names), "--cluster", "instruction", "--data", str(path)
    )
    rows = [json.loads(x) for x in gzip.decompress(path.read_bytes()).decode().splitlines()]
    wanted = np.mean([r["annotator1"] == r["annotator2"] for r in rows])
    assert figures(record, 1)["agreement"]["mean"] == pytest.approx(wanted)
    alpha = figures(record, 0)["krippendorff_alpha"]
    assert 0 < alpha["low"] < alpha["mean"] < alpha["high"] < 1 and alpha["clusters"] < alpha["n"] == len(rows)
