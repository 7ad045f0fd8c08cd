"""The advisor: every rule by a table, its reading of files by worked numbers, its configs as training reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trueup.cli import main
from trueup.cli.advise import memory_of
from trueup.errors import ConfigError, DataError
from trueup.recipes.advise import Facts, advise
from trueup.recipes.survey import Survey, contradicted, survey

SEVEN, SEVENTY = 7_000_000_000, 70_000_000_000
MANY = 20_000

# facts -> (method, place) in order
TABLE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "nothing": ({}, []),
    "pairs at 7B": ({"pairs": MANY, "parameters": SEVEN}, [("dpo", "first"), ("reward", "later")]),
    "pairs at 30B": ({"pairs": MANY, "parameters": 30 * 10**9}, [("dpo", "first"), ("reward", "later")]),
    "pairs at 70B: RLHF is considered": (
        {"pairs": MANY, "parameters": SEVENTY},
        [("dpo", "first"), ("reward", "next")],
    ),
    "pairs at 70B, reward model, RL experience": (
        {"pairs": MANY, "parameters": SEVENTY, "reward": "rm", "team": True},
        [("ppo", "first"), ("dpo", "next"), ("iterative-dpo", "next")],
    ),
    "few pairs": ({"pairs": 999, "parameters": SEVEN}, [("ipo", "first"), ("dpo", "next")]),
    "just enough pairs": ({"pairs": 1000, "parameters": SEVEN}, [("dpo", "first"), ("reward", "later")]),
    "noisy pairs": (
        {"pairs": MANY, "parameters": SEVEN, "contradicted": 0.02},
        [("ipo", "first"), ("dpo", "next"), ("reward", "later")],
    ),
    "hardly noisy pairs": (
        {"pairs": MANY, "parameters": SEVEN, "contradicted": 0.019},
        [("dpo", "first"), ("reward", "later")],
    ),
    "memory is short": (
        {"pairs": MANY, "parameters": SEVEN, "short": "memory"},
        [("orpo", "first"), ("dpo", "next"), ("reward", "later")],
    ),
    "time is short": (
        {"pairs": MANY, "parameters": SEVEN, "short": "time"},
        [("orpo", "first"), ("dpo", "next"), ("reward", "later")],
    ),
    "base model": (
        {"pairs": MANY, "parameters": SEVEN, "instruct": False},
        [("orpo", "first"), ("dpo", "next"), ("sft", "next"), ("reward", "later")],
    ),
    "base model, few pairs": (
        {"pairs": 100, "parameters": SEVEN, "instruct": False},
        [("orpo", "first"), ("ipo", "next"), ("dpo", "next"), ("sft", "next")],
    ),
    "labels": ({"labels": 500, "desirable": 0.5}, [("kto", "first")]),
    "labels of one kind": ({"labels": 500, "desirable": 1.0}, [("kto", "next")]),
    "labels beside pairs": (
        {"labels": 500, "desirable": 0.5, "pairs": MANY, "parameters": SEVEN},
        [("dpo", "first"), ("reward", "later")],
    ),
    "verifiable prompts": ({"prompts": 100, "rule": "exact_number"}, [("grpo", "first")]),
    "verifiable examples": ({"examples": 100, "rule": "exact_number"}, [("grpo", "first"), ("sft", "next")]),
    "prompts alone": ({"prompts": 100}, []),
    "prompts, reward model": ({"prompts": 100, "reward": "rm"}, [("iterative-dpo", "first"), ("ppo", "later")]),
    "prompts, reward model, RL experience": (
        {"prompts": 100, "reward": "rm", "team": True},
        [("ppo", "first"), ("iterative-dpo", "next")],
    ),
    "pairs, reward model": (
        {"pairs": MANY, "parameters": SEVEN, "reward": "rm"},
        [("dpo", "first"), ("iterative-dpo", "next"), ("ppo", "later")],
    ),
    "constitution and prompts": ({"prompts": 50, "constitution": "c.yaml"}, [("constitution", "first")]),
    "constitution beside labels": (
        {"pairs": MANY, "parameters": SEVEN, "constitution": "c.yaml"},
        [("dpo", "first"), ("constitution", "next"), ("reward", "later")],
    ),
    "constitution without prompts": ({"constitution": "c.yaml"}, []),
    "good answers": ({"examples": 100}, [("sft", "first")]),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_rule(name: str) -> None:
    facts, expected = TABLE[name]
    assert [(a.method, a.place) for a in advise(Facts(**facts))] == expected


def test_the_settings_that_go_with_the_advice() -> None:
    assert advise(Facts(prompts=9, rule="exact_answer"))[0].settings["reward"] == "rule:exact_answer"
    ppo = advise(Facts(prompts=9, reward="rm", team=True))[0]
    assert ppo.settings == {"reward": "rm", "lora.rank": 16}


@pytest.mark.parametrize(
    ("share", "name", "weight"),
    [(0.8, "undesirable_weight", 3.0), (0.2, "desirable_weight", 4.0), (0.5, None, None), (4 / 7, None, None)],
)
def test_kto_is_balanced(share: float, name: str | None, weight: float | None) -> None:
    settings = advise(Facts(labels=100, desirable=share))[0].settings
    assert settings == ({f"loss.{name}": weight} if name else {})
    ratio = share * settings.get("loss.desirable_weight", 1.0)
    ratio /= (1 - share) * settings.get("loss.undesirable_weight", 1.0)
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-3


@pytest.mark.parametrize(("share", "warned"), [(0.64, False), (0.65, True)])
def test_length_is_warned_of(share: float, warned: bool) -> None:
    why = advise(Facts(pairs=MANY, parameters=SEVEN, longer_chosen=share))[0].why
    assert ("ld_alpha" in why) == warned


# ── what is read from files ──


def rows(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in lines))
    return str(path)


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_pairs_are_counted(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "p.jsonl",
        pair("a", "long answer", "short"),
        pair("a", "short", "long answer"),
        pair("b", "yes", "nope"),
        pair("b", "yes", "nope"),
        pair("c", "same", "size"),
    )
    found = survey(path)
    assert (found.pairs, found.contradicted, found.repeated) == (5, 0.4, pytest.approx(0.2))
    assert found.longer_chosen == pytest.approx((1 + 0 + 0 + 0 + 0.5) / 5)


def test_no_pairs_contradict_nothing() -> None:
    assert contradicted([]) == 0.0


def test_labels_are_counted(tmp_path: Path) -> None:
    path = rows(tmp_path / "k.jsonl", *({"prompt": "a", "completion": f"b{i}", "label": i == 0} for i in range(4)))
    assert survey(path) == Survey(labels=4, desirable=0.25)


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        (["so it is 6 #### 6", "and 7 #### 7"], "exact_number"),
        (["12", "13"], "exact_number"),
        (["Paris", "the Nile"], "exact_answer"),
        (["a long story of many words that nobody can check", "and another one of the same kind, 3 pages"], None),
    ],
)
def test_verifiable_answers_are_seen(tmp_path: Path, answers: list[str], rule: str | None) -> None:
    path = rows(tmp_path / "q.jsonl", *({"prompt": f"q{i}", "completion": a} for i, a in enumerate(answers)))
    assert survey(path).rule == rule


def test_rows_that_cannot_be_used_are_left_out_and_told(tmp_path: Path, tiny: Path, capsys: Any) -> None:
    path = rows(tmp_path / "p.jsonl", pair("a", "yes", "no"), pair("b", "", "no"), pair("c", "good", "bad"))
    found = survey(path)
    assert (found.pairs, found.unusable) == (2, 1)
    assert found.problem is not None and "p.jsonl:2: chosen" in found.problem
    with pytest.raises(DataError, match="1 of 3 rows"):
        survey(path, bad_rows="error")
    out = tmp_path / "configs"
    assert main.run(["advise", "--data", path, "--model", str(tiny), "--out", str(out)]) == 0
    assert "1 rows cannot be used" in capsys.readouterr().out
    first = yaml.safe_load((out / "1-ipo.yaml").read_text())
    assert first["data"]["bad_rows"] == "skip"


def test_columns_are_mapped_as_in_training(tmp_path: Path, tiny: Path, capsys: Any) -> None:
    path = rows(tmp_path / "q.jsonl", *({"asked": f"q{i}", "said": f"so #### {i}"} for i in range(4)))
    words = ["advise", "--data", path, "--model", str(tiny)]
    assert main.run(words) == 2
    assert "asked" in capsys.readouterr().err
    assert main.run([*words, "--data.columns", "{prompt: asked, completion: said}", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["suggestions"][0]
    assert first["method"] == "grpo"
    assert first["config"]["data"]["columns"] == {"prompt": "asked", "completion": "said"}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--train.lr", "1"], "has no effect here"),
        (["--data.bad_rows", "maybe"], "bad_rows"),
        (["--gpus", "0"], "--gpus"),
        (["--gpu", "lots"], "24GB"),
        (["--constitution", "nowhere.yaml"], "no such file"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_bad_words_are_refused_in_one_line(
    words: list[str], hint: str, tmp_path: Path, tiny: Path, capsys: Any
) -> None:
    path = rows(tmp_path / "p.jsonl", pair("a", "yes", "no"))
    given = ["advise", "--data", path, *([] if "--model" in words else ["--model", str(tiny)]), *words]
    assert main.run(given) == 2
    err = capsys.readouterr().err
    assert hint in err and err.startswith("error: ") and "Traceback" not in err


# ── the whole verb ──


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "sft"])
def test_written_configs_are_read_by_training(
    kind: str, tiny: Path, small_data: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "configs"
    assert main.run(["advise", "--data", str(small_data[kind]), "--model", str(tiny), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    files = sorted(out.iterdir())
    assert [str(f) for f in files] == found["files"]
    assert [f.name for f in files] == [f"{k}-{s['method']}.yaml" for k, s in enumerate(found["suggestions"], 1)]
    for path, suggestion in zip(files, found["suggestions"], strict=True):
        assert yaml.safe_load(path.read_text()) == suggestion["config"]
        assert main.run(["train", suggestion["method"], "--config", str(path), "--dry-run", "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert suggestion["estimate"]["total"] == pytest.approx(
            seen["estimate"]["total"], rel=0.1
        )  # training holds rows out
        assert suggestion["fits"]


def test_methods_that_sample_get_a_config_too(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    data = rows(tmp_path / "m.jsonl", *({"prompt": f"{i} and {i}?", "answer": str(2 * i)} for i in range(20)))
    out = tmp_path / "o"
    assert main.run(["advise", "--data", data, "--model", str(tiny), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1. grpo (try first)" in said and "rule:exact_number" in said
    assert main.run(["train", "grpo", "--config", str(out / "1-grpo.yaml"), "--dry-run"]) == 0
    assert main.run(["advise", "--data", data, "--model", str(tiny), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_short_memory_leads_to_orpo_and_says_what_does_not_fit(
    tiny: Path, small_data: dict[str, Path], capsys: Any
) -> None:
    words = ["advise", "--data", str(small_data["pairs"]), "--model", str(tiny), "--gpu", "1MB"]
    assert main.run(words) == 0
    said = capsys.readouterr().out
    assert "1. orpo (try first): memory is short" in said
    assert "DOES NOT FIT" in said
    assert "4-bit weights" in said  # the last thing that was tried


@pytest.mark.parametrize(("given", "bytes_"), [("24GB", 24 * 2**30), ("1.5 GiB", 1.5 * 2**30), ("8", 8 * 2**30)])
def test_sizes(given: str, bytes_: float) -> None:
    assert memory_of(given) == bytes_


@pytest.mark.parametrize("given", ["", "much", "0GB", "-4GB", "24TB"])
def test_odd_sizes_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="write 24GB"):
        memory_of(given)
