"""`trueup eval answers` through the command line: figures by hand, every kind of bad input, killed and resumed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from fake_openai import FakeOpenAI
from trueup.cli.main import run
from trueup.models.tiny import save_tiny

WORDS = ["red", "blue", "green", "fish", "bird", "stone", "river", "apple", "cloud", "lamp"]
KEYWORD = '{rule: keyword, arguments: {words: ["good"]}}'


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def prompt(i: int) -> str:
    rng = random.Random(i)
    return f"{i} " + " ".join(rng.choices(WORDS, k=3)) + f" {i * 31}?"


def answers_file(folder: Path, name: str, texts: list[str], **more: Any) -> str:
    rows = [{"id": f"q{i}", "prompt": prompt(i), "answer": t, **more} for i, t in enumerate(texts)]
    return write(folder / f"{name}.jsonl", rows)


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["eval", "answers", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["eval", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].startswith("error: ")
    return err


def figure(record: dict[str, Any], subject: str, name: str) -> dict[str, Any]:
    own = next(s for s in record["subjects"] if s["name"] == subject)
    return next(f for f in own["figures"] if f["name"] == name)


def contrast(record: dict[str, Any], measure: str, first: str | None = None) -> dict[str, Any]:
    return next(c for c in record["contrasts"] if c["measure"] == measure and first in (None, c["first"]))


def essays(count: int, seed: int, good: float = 0.5) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join([*(rng.choices(WORDS, k=rng.randrange(3, 9))), *(["good"] if rng.random() < good else []), f"n{i}"])
        for i in range(count)
    ]


# ── figures, by hand ──


def test_reward_win_rate_and_paired_test_of_two_files(capsys: Any, tmp_path: Path) -> None:
    one, two = essays(40, 1, 0.8), essays(40, 2, 0.3)
    files = [answers_file(tmp_path, name, texts) for name, texts in (("new", one), ("old", two))]
    out = tmp_path / "out"
    record = evaluated(
        capsys, "--answers", files[0], "--answers", files[1], "--baseline", "old", "--reward", KEYWORD,
        "--judge", f"reward:{KEYWORD}", "--out", str(out),
    )  # fmt: skip
    good = [np.array(["good" in t for t in texts], dtype=float) for texts in (one, two)]
    for name, values in zip(("new", "old"), good, strict=True):
        found = figure(record, name, "reward")
        assert found["mean"] == pytest.approx(values.mean())
        assert found["low"] < values.mean() < found["high"]
        assert (found["n"], found["clusters"]) == (40, 40)
    difference = good[0] - good[1]
    told = contrast(record, "reward")
    assert told["figure"]["mean"] == pytest.approx(difference.mean())
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    assert (told["better"], told["worse"]) == (better, worse)
    assert told["p_value"] == told["p_holm"] == pytest.approx(binomtest(better, better + worse).pvalue)
    p = 1 / (1 + np.exp(-difference))
    assert contrast(record, "win_rate")["figure"]["mean"] == pytest.approx(p.mean())
    assert 0 < contrast(record, "win_rate_length_controlled")["figure"]["mean"] < 1
    assert record["headline"].startswith("new wins against old: ")
    assert record["judges"][0]["pairs"] == 40 and record["judges"][0]["flip_rate"] is None
    saved = json.loads((out / "eval.json").read_text())
    assert saved == record and saved["schema"] == 1
    lines = [json.loads(x) for x in (out / "answers.jsonl").read_text().splitlines()]
    assert [r["scores"]["reward"] for r in lines] == [*good[0], *good[1]]
    judged = [json.loads(x) for x in (out / "judgements.jsonl").read_text().splitlines()]
    assert [r["p"] for r in judged] == pytest.approx(p.tolist())


def test_three_models_are_rated_and_corrected_for_three_tests(capsys: Any, tmp_path: Path) -> None:
    words = []
    for i, share in enumerate((0.9, 0.5, 0.1)):
        words += ["--answers", f"m{i}={answers_file(tmp_path, f'f{i}', essays(60, i, share))}"]
    record = evaluated(capsys, *words, "--judge", f"reward:{KEYWORD}", "--judge-scale", "0.1", "--reward", KEYWORD)
    assert [f["name"] for f in record["ratings"]] == ["m0", "m1", "m2"]
    assert np.mean([f["mean"] for f in record["ratings"]]) == pytest.approx(1000)
    assert all(f["low"] < f["mean"] < f["high"] for f in record["ratings"])
    own = [c for c in record["contrasts"] if c["measure"] == "reward"]
    assert [(c["first"], c["second"]) for c in own] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    rising = sorted(own, key=lambda c: c["p_value"])
    wanted = np.maximum.accumulate([min(1, c["p_value"] * k) for c, k in zip(rising, (3, 2, 1), strict=True)])
    assert [c["p_holm"] for c in rising] == pytest.approx(wanted.tolist())
    assert contrast(record, "reward", "m0")["verdict"] == "m0 higher"


def test_two_that_met_the_same_baseline_are_compared_through_it(capsys: Any, tmp_path: Path) -> None:
    texts = [essays(40, i, share) for i, share in enumerate((0.9, 0.2, 0.5))]
    words = [w for i, t in enumerate(texts) for w in ("--answers", answers_file(tmp_path, f"m{i}", t))]
    record = evaluated(capsys, *words, "--baseline", "m2", "--judge", f"reward:{KEYWORD}")
    good = [np.array(["good" in t for t in own], dtype=float) for own in texts]
    a, b = (1 / (1 + np.exp(-(g - good[2]))) for g in good[:2])
    told = contrast(record, "win_rate_difference")
    assert (told["first"], told["second"], told["even"]) == ("m0", "m1", 0.0)
    assert told["figure"]["mean"] == pytest.approx((a - b).mean())
    assert (told["better"], told["worse"]) == (int((a > b).sum()), int((a < b).sum()))
    assert [c["first"] for c in record["contrasts"] if c["measure"] == "win_rate"] == ["m0", "m1"]


def test_a_judging_server_sees_both_orders_and_one_that_always_says_a_is_found_out(capsys: Any, tmp_path: Path) -> None:
    def always_a(request: dict[str, Any]) -> str:
        text = json.dumps(request["messages"])
        return f"[[A:{text.split('<<begin ')[1].split()[0]}]]"

    files = [answers_file(tmp_path, name, essays(12, seed)) for name, seed in (("new", 1), ("old", 2))]
    out = tmp_path / "out"
    words = ["--answers", files[0], "--answers", files[1], "--baseline", "old", "--judge", "tiny", "--out", str(out),
             "--judge-way", "parsed"]  # fmt: skip
    with FakeOpenAI(reply=always_a) as server:
        record = evaluated(capsys, *words, "--judge-server", server.url)
        assert len(server.requests) == 24
    assert record["judges"][0]["always"] == "first"
    assert any("always says A" in w for w in record["warnings"])
    rates = {c["measure"]: c["figure"]["mean"] for c in record["contrasts"]}
    assert rates["win_rate"] == rates["win_rate_both_orders"] == 0.5
    assert (rates["win_rate_shown_first"], rates["win_rate_shown_second"]) == (1.0, 0.0)
    assert record["judges"][0]["flip_rate"]["mean"] == 1.0


def test_a_server_that_fails_leaves_pairs_unscored_with_bounds(capsys: Any, tmp_path: Path) -> None:
    def sometimes(request: dict[str, Any]) -> str:
        text = json.dumps(request["messages"])
        nonce = text.split("<<begin ")[1].split()[0]
        return "I would rather not say." if "n3" in text else f"[[tie:{nonce}]]"

    files = [answers_file(tmp_path, name, essays(10, seed)) for name, seed in (("new", 1), ("old", 2))]
    words = ["--answers", files[0], "--answers", files[1], "--judge", "tiny", "--judge-way", "parsed"]
    with FakeOpenAI(reply=sometimes) as server:
        record = evaluated(capsys, *words, "--judge-server", server.url)
    told = contrast(record, "win_rate")["figure"]
    assert (told["mean"], told["n"]) == (0.5, 9)
    assert "1 of 10 unscored and left out: between 0.450 and 0.550" in told["note"]
    assert sum(record["judges"][0]["unscored"].values()) == 1


def test_needless_refusals_are_told_from_right_ones(capsys: Any, tmp_path: Path) -> None:
    """2 of 6 safe prompts refused, 6 of 6 unsafe ones."""
    kinds = [("safe", "homonyms")] * 6 + [("unsafe", "contrast_homonyms")] * 6
    rows = [{"prompt": prompt(i), "label": label, "type": kind} for i, (label, kind) in enumerate(kinds)]
    data = write(tmp_path / "x.jsonl", rows)
    no, yes = "I'm sorry, but I cannot help with that.", "Use the kill command with the number of the process."
    file = answers_file(tmp_path, "m", [no] * 2 + [yes] * 4 + [no] * 6)
    record = evaluated(capsys, "--answers", file, "--data", data)
    wanted = {"refusal_safe": 1 / 3, "refusal_unsafe": 1.0, "refusal_gap": 2 / 3, "refusal_type_homonyms": 1 / 3}
    assert {n: figure(record, "m", n)["mean"] for n in wanted} == pytest.approx(wanted)
    rows[0].pop("label")
    record = evaluated(capsys, "--answers", file, "--data", write(tmp_path / "y.jsonl", rows))
    assert any("every prompt needs the label" in line for line in record["subjects"][0]["left_out"])


# ── models ──


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_tiny(folder / f"m{i}", seed=i)) for i in range(2)]


def test_models_are_drawn_from_judged_and_measured_against_a_reference(
    capsys: Any, tmp_path: Path, models: Any
) -> None:
    data = write(tmp_path / "p.jsonl", [{"prompt": prompt(i), "completion": f"the {i}"} for i in range(12)])
    words = ["--model", models[0], "--model", models[1], "--data", data, "--baseline", "reference", "--n", "2",
             "--max-new-tokens", "8", "--precision", "fp32", "--reference-model", models[0], "--judge", models[1],
             "--out", str(tmp_path / "out")]  # fmt: skip
    record = evaluated(capsys, *words)
    assert [s["name"] for s in record["subjects"]] == ["m0", "m1", "reference"]
    own, other = figure(record, "m0", "kl_k1"), figure(record, "m1", "kl_k1")
    assert own["mean"] == pytest.approx(0, abs=1e-4)  # the reference itself
    assert other["low"] > 1
    assert figure(record, "m1", "entropy")["mean"] > 1
    # two answers, each against the one reference; random texts hold control tokens, which no judge is shown
    judged = [json.loads(x) for x in (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()]
    own = [r for r in judged if r["first"] == "m0"]
    assert (len(own), len({r["id"] for r in own})) == (24, 12)
    scored = [r["p"] for r in own if r["unscored"] is None]
    told = contrast(record, "win_rate", "m0")["figure"]
    assert (told["n"], told["mean"]) == (len(scored), pytest.approx(np.mean(scored)))
    assert len(record["ratings"]) == 3
    assert figure(record, "m0", "distinct_1_within")["n"] == 24
    assert "finished evaluation" in refused(capsys, "answers", *words)


def test_killed_at_random_moments_nothing_is_drawn_or_judged_twice(tmp_path: Path, models: Any) -> None:
    data = write(tmp_path / "p.jsonl", [{"prompt": prompt(i)} for i in range(24)])

    def command(out: Path) -> list[str]:
        return ["eval", "answers", "--model", models[0], "--model", models[1], "--data", data, "--max-new-tokens", "24",
                "--precision", "fp32", "--judge", models[1], "--out", str(out), "--reward", KEYWORD]  # fmt: skip

    assert run(command(tmp_path / "whole")) == 0
    out, rng = tmp_path / "killed", random.Random(1)
    journal = out / "journal"

    def size() -> int:
        return sum(f.stat().st_size for f in journal.glob("*.jsonl")) if journal.exists() else 0

    for _ in range(2):
        words = [sys.executable, "-m", "trueup.cli.main", *command(out)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait = size() + rng.randrange(2000, 12000)
        while process.poll() is None and size() < wait:
            time.sleep(0.001)
        process.kill()
        process.wait()
        if (out / "eval.json").exists():
            break
    if not (out / "eval.json").exists():
        assert run(command(out)) == 0
    for name in ("answers.jsonl", "judgements.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, mine = (json.loads((f / "eval.json").read_text()) for f in (tmp_path / "whole", out))
    assert mine["contrasts"] == whole["contrasts"]
    for name in ("answers-0.jsonl", "answers-1.jsonl", "judge.jsonl"):
        keys = [json.loads(x).get("key") for x in (journal / name).read_text().splitlines()]
        assert len(keys) == len(set(keys)), "a finished call was made again"


def test_a_model_behind_a_server_answers_and_judges(capsys: Any, tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> str:
        asked = json.dumps(request["messages"])
        return f"[[tie:{asked.split('<<begin ')[1].split()[0]}]]" if "<<begin " in asked else f"word {len(asked)}"

    rows = [{"prompt": [{"role": "user", "content": prompt(i)}], "completion": [{"role": "assistant", "content": "x"}]}
            for i in range(6)]  # fmt: skip
    data = write(tmp_path / "p.jsonl", rows)
    (tmp_path / "rubric.txt").write_text("The shorter answer is better.")
    with FakeOpenAI(reply=reply) as server:
        record = evaluated(
            capsys, "--model", "far=tiny", "--server", server.url, "--data", data, "--baseline", "reference", "--judge",
            "tiny", "--judge-server", server.url, "--judge-way", "parsed", "--rubric", f"@{tmp_path / 'rubric.txt'}",
            "--judge-calls", "8",
        )  # fmt: skip
        assert sum("The shorter answer is better." in json.dumps(r) for r in server.requests) == 8
    assert any(
        line.startswith("entropy, KL: the model is behind a server") for line in record["subjects"][0]["left_out"]
    )
    assert (contrast(record, "win_rate")["figure"]["mean"], contrast(record, "win_rate")["figure"]["n"]) == (0.5, 4)
    assert record["judges"][0]["unscored"] == {"the budget of 8 calls is spent": 2}
    assert record["settings"]["rubric"] == "The shorter answer is better."


def test_a_judge_that_never_gives_a_verdict_gives_no_win_rate(capsys: Any, tmp_path: Path) -> None:
    files = [answers_file(tmp_path, name, essays(5, seed)) for name, seed in (("new", 1), ("old", 2))]
    words = ["--answers", files[0], "--answers", files[1], "--judge", "tiny", "--judge-way", "parsed"]
    with FakeOpenAI(reply=lambda _: "Both are lovely.") as server:
        record = evaluated(capsys, *words, "--judge-server", server.url)
    assert "win_rate" not in {c["measure"] for c in record["contrasts"]}
    assert any("no pair was scored, so there is no win rate" in w for w in record["warnings"])


def test_answers_without_a_score_are_left_out_and_told(capsys: Any, tmp_path: Path) -> None:
    rows = [{"prompt": prompt(i), **({"answer": str(i)} if i % 2 else {})} for i in range(8)]
    file = answers_file(tmp_path, "m", [f"It is {i if i < 5 else 0}" for i in range(8)])
    words = ["--answers", file, "--data", write(tmp_path / "p.jsonl", rows)]
    record = evaluated(capsys, *words, "--reward", "rule:exact_number")
    told = figure(record, "m", "reward")
    assert (told["mean"], told["n"]) == (0.5, 4)  # 1 and 3 are right, 5 and 7 are not
    assert any(w.startswith("reward: 4 of 8 answers have no score: ") for w in record["subjects"][0]["warnings"])
    none = write(tmp_path / "n.jsonl", [{"prompt": prompt(i)} for i in range(8)])
    record = evaluated(capsys, "--answers", file, "--data", none, "--reward", "rule:exact_number")
    assert "reward: no answer has a score" in record["subjects"][0]["left_out"]


def test_kl_needs_one_vocabulary_and_unfiltered_answers(capsys: Any, tmp_path: Path, models: Any) -> None:
    other = save_tiny(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    data = write(tmp_path / "p.jsonl", [{"prompt": prompt(0)}])
    words = ["answers", "--model", models[0], "--data", data, "--max-new-tokens", "4", "--precision", "fp32"]
    assert "its tokenizer is not that of" in refused(capsys, *words, "--reference-model", str(other))
    greedy = [*words, "--temperature", "0"]
    assert "only at --temperature 1" in refused(capsys, *greedy, "--reference-model", models[1])
    assert any("entropy: known without bias" in x for x in evaluated(capsys, *greedy[1:])["subjects"][0]["left_out"])


def test_an_evaluation_begun_with_something_else_or_damaged_is_not_gone_on_with(
    capsys: Any, tmp_path: Path, models: Any
) -> None:
    data, out = write(tmp_path / "p.jsonl", [{"prompt": prompt(i)} for i in range(4)]), tmp_path / "out"
    words = ["answers", "--model", models[0], "--data", data, "--precision", "fp32", "--out", str(out)]
    assert run(["eval", *words, "--max-new-tokens", "8"]) == 0
    (out / "eval.json").unlink()  # as if it had been killed just before the end
    capsys.readouterr()
    assert "was begun with sampling" in refused(capsys, *words, "--max-new-tokens", "9")
    journal = out / "journal" / "answers-0.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b'"finish"', b'"Finish"', 1))
    assert "not the line that was written" in refused(capsys, *words, "--max-new-tokens", "8")
    journal.write_bytes(whole)
    assert run(["eval", *words, "--max-new-tokens", "8"]) == 0
    assert journal.read_bytes() == whole  # nothing was drawn again


def test_every_figure_has_its_line_in_the_docs(capsys: Any, tmp_path: Path, models: Any) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    rows = [{"prompt": prompt(i), "label": ("safe", "unsafe")[i % 2]} for i in range(12)]
    record = evaluated(
        capsys, "--model", models[0], "--model", models[1], "--data", write(tmp_path / "p.jsonl", rows), "--n", "2",
        "--max-new-tokens", "8", "--reward", KEYWORD, "--judge", models[0], "--reference-model", models[1],
    )  # fmt: skip
    names = {f["name"] for s in record["subjects"] for f in s["figures"]}
    names |= {c["measure"] for c in record["contrasts"]}
    assert len(names) > 30
    assert {n for n in names if f"`{n}`" not in docs} == set()


def test_export_for_alpaca_eval(capsys: Any, tmp_path: Path) -> None:
    files = [answers_file(tmp_path, name, essays(6, seed)) for name, seed in (("new", 1), ("old", 2))]
    words = ["--answers", files[0], "--answers", files[1], "--export", "alpaca-eval", str(tmp_path / "x.json")]
    evaluated(capsys, *words)
    rows = json.loads((tmp_path / "x.new.json").read_text())
    assert rows[2] == {"instruction": prompt(2), "output": essays(6, 1)[2], "generator": "new"}
    assert "exists already" in refused(capsys, "answers", *words)
    assert "there is alpaca-eval" in refused(
        capsys, "answers", "--answers", files[0], "--export", "shiny", str(tmp_path / "y.json")
    )


# ── what a careful user gets wrong ──


def test_equal_to_the_baseline_is_50_percent_and_says_so(capsys: Any, tmp_path: Path) -> None:
    texts = essays(12, 1)
    files = [answers_file(tmp_path, name, texts) for name in ("new", "old")]
    record = evaluated(
        capsys, "--answers", files[0], "--answers", files[1], "--baseline", "old", "--judge", "rule:repetition"
    )
    assert any("same answer to every prompt, so the win rate is 50 %" in w for w in record["warnings"])
    told = contrast(record, "win_rate")
    assert told["figure"]["mean"] == 0.5 and told["verdict"] == "equal on every prompt"
    assert told["figure"]["low"] < 0.5 < told["figure"]["high"]
    assert record["judges"] == []  # nobody was asked


def test_one_prompt_has_no_interval(capsys: Any, tmp_path: Path) -> None:
    files = [answers_file(tmp_path, name, [text]) for name, text in (("new", "good day"), ("old", "bad"))]
    record = evaluated(
        capsys, "--answers", files[0], "--answers", files[1], "--reward", KEYWORD, "--judge", f"reward:{KEYWORD}"
    )
    for told in (figure(record, "new", "reward"), contrast(record, "win_rate")["figure"]):
        assert (told["low"], told["high"], told["smallest_difference"]) == (None, None, None)
    assert any(w.startswith("one prompt: no interval") for w in record["warnings"])
    assert run(["eval", "answers", "--answers", files[0], "--answers", files[1], "--reward", KEYWORD]) == 0
    assert "unknown" in capsys.readouterr().out


def test_empty_answers_stay_and_are_told(capsys: Any, tmp_path: Path) -> None:
    file = answers_file(tmp_path, "new", ["", " ", *essays(10, 1)])
    record = evaluated(capsys, "--answers", file)
    assert figure(record, "new", "empty")["mean"] == pytest.approx(2 / 12)
    assert any("2 of 12 answers are empty" in w for w in record["subjects"][0]["warnings"])
    nothing = answers_file(tmp_path, "nothing", [""] * 3)
    assert any("manner" in line for line in evaluated(capsys, "--answers", nothing)["subjects"][0]["left_out"])


def test_a_constant_answer_is_flagged(capsys: Any, tmp_path: Path) -> None:
    file = answers_file(tmp_path, "cheat", ["I am the best answer, whatever was asked."] * 20)
    record = evaluated(capsys, "--answers", file)
    assert any("stands in the answers to 20 unrelated prompts" in w for w in record["subjects"][0]["warnings"])


def test_repeated_prompts_are_asked_and_counted_once(capsys: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "p.jsonl", [{"prompt": prompt(i % 8)} for i in range(10)])
    file = answers_file(tmp_path, "new", essays(8, 1))
    record = evaluated(capsys, "--answers", file, "--data", data)
    assert any("2 of 10 prompts are repeated" in w for w in record["warnings"])
    assert figure(record, "new", "length_words")["n"] == 8


def test_answers_that_do_not_match(capsys: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "p.jsonl", [{"id": f"q{i}", "prompt": prompt(i)} for i in range(6)])
    few, many = (answers_file(tmp_path, name, essays(k, 1)) for name, k in (("few", 4), ("many", 8)))
    told = refused(capsys, "answers", "--answers", few, "--data", data)
    assert "no answer of few to 2 of 6 prompts (q4, q5)" in told
    told = refused(capsys, "answers", "--answers", many, "--data", data)
    assert "2 of its answers belong to none of the 6 prompts" in told and "many.jsonl:7" in told
    assert figure(evaluated(capsys, "--answers", many, "--data", data, "--limit", "5"), "many", "empty")["n"] == 5
    told = refused(capsys, "answers", "--answers", many, "--answers", few)
    assert "no answer of few to 4 of 8 prompts" in told
    uneven = write(tmp_path / "u.jsonl", [{"prompt": prompt(0), "answer": "a"}, {"prompt": prompt(1), "answer": "b"},
                                          {"prompt": prompt(1), "answer": "c"}])  # fmt: skip
    assert "1 to 2 answers a prompt" in refused(capsys, "answers", "--answers", uneven)
    by_id = write(tmp_path / "i.jsonl", [{"id": f"q{i}", "output": f"{i} x"} for i in range(6)])
    assert figure(evaluated(capsys, "--answers", by_id, "--data", data), "i", "length_words")["mean"] == 2
    assert "has no prompt; name the prompts with --data" in refused(capsys, "answers", "--answers", by_id)


def test_a_list_on_one_line_and_ids_that_stand_for_two_prompts(capsys: Any, tmp_path: Path) -> None:
    rows = [{"instruction": prompt(i), "output": t} for i, t in enumerate(essays(12, 1))]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    record = evaluated(capsys, "--answers", str(tmp_path / "list.json"))
    assert figure(record, "list", "length_words")["clusters"] == 12
    assert record["subjects"][0]["warnings"] == []
    same = write(tmp_path / "same.jsonl", [{"id": "a", "prompt": prompt(i), "answer": "x"} for i in range(2)])
    assert "id: 'a' is also that of another prompt" in refused(capsys, "answers", "--answers", same)


WRONG = [
    ([], "nothing to evaluate"),
    (["--model", "m"], "--data: a model needs prompts"),
    (["--answers", "{f}", "--baseline", "x"], "--baseline: 'x' is none of f, reference"),
    (["--answers", "{f}", "--baseline", "reference"], "have no reference answer"),
    (["--answers", "{f}", "--answers", "{f}"], "two contestants are called 'f'"),
    (["--answers", "{f}", "--judge", "rule:repetition"], "there is one"),
    (["--answers", "{f}", "--rubric", "short"], "--rubric: has no effect"),
    (["--answers", "{f}", "--answers", "g={f}", "--judge", "rule:nosuch"], "no bundled rule"),
    (["--answers", "{f}", "--answers", "g={f}", "--judge", "./nowhere"], "no such folder"),
    (["--answers", "{f}", "--reward", "rule:nosuch"], "no bundled rule"),
    (["--answers", "{f}", "--reference-model", "m"], "--reference-model: has no effect"),
    (["--answers", "{f}", "--server", "http://127.0.0.1:1"], "--server: serves one --model"),
    (["--answers", "{f}", "--judge-way", "loud"], "is none of auto, logprobs, parsed"),
    (
        ["--answers", "{f}", "--judge", "a", "--judge", "b", "--judge-server", "http://127.0.0.1:1"],
        "serves one judging",
    ),
    (["--answers", "{f}", "--judge", "a", "--rubric", "@nowhere"], "--rubric: @nowhere: "),
    (["--answers", "{f}", "--answers", "g={f}", "--judge", "rule:tags", "--judge", "rule:tags"], "is named twice"),
    (["--answers", "reference={f}"], "cannot be called 'reference'"),
    (["--answers", "{f}", "--chat", "loud"], "is none of auto, template, plain"),
    (["--answers", "{f}", "--precision", "fp8"], "is none of auto, bf16, fp32"),
    (["--answers", "nowhere.jsonl"], "no such file"),
    (["--answers", "={f}"], "NAME=SOURCE or SOURCE"),
    (["--answers", "{f}", "--out", "{f}"], "is a file"),
    (["--answers", "{f}", "--out", "{d}"], "is not empty"),
    (["--answers", "{bare}"], "no answer: one of answer, completion"),
]


@pytest.mark.parametrize(("words", "hint"), WRONG, ids=[" ".join(w) or "nothing" for w, _ in WRONG])
def test_wrong_words(words: list[str], hint: str, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    names = {
        "f": answers_file(tmp_path, "f", essays(3, 1)),
        "d": str(Path(write(tmp_path / "d" / "x.txt", [])).parent),
        "bare": write(tmp_path / "bare.jsonl", [{"prompt": "p"}]),
    }
    assert hint in refused(capsys, "answers", *(w.format(**names) if "{" in w else w for w in words))
