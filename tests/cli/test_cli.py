"""The command line: wrong words give one line and exit code 2; the options are frozen in a file."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from trueup.cli.main import VERBS, run
from trueup.errors import ConfigError
from trueup.models.tiny import save_tiny
from trueup.settings import dump_config, load_config, parse_overrides, read_yaml, validated

FROZEN = Path(__file__).with_name("frozen.txt")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [{"prompt": f"say {i}", "chosen": "yes " * (i % 3 + 1), "rejected": "no"} for i in range(12)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Runs words that must fail with 2, nothing on standard output and one line on standard error."""
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.startswith("error: ")
    assert out == ""
    return err


WRONG = [
    (["tran"], "did you mean train"),
    (["train", "dpoo"], "did you mean dpo"),
    (["train", "dpo", "--learning_rate", "1"], "train.lr"),
    (["train", "dpo", "--train.lrx", "1"], "train.lr"),
    (["train", "dpo", "--train.lr", "fast"], "train.lr"),
    (["train", "dpo", "--loss.bta", "1"], "beta"),
    (["train", "dpo", "--loss.beta", "much"], "loss.beta"),
    (["train", "dpo", "--lora", "8"], "lora.rank"),
    (["train", "orpo", "--model.reference", "copy"], "no reference"),
    (["train", "orpo", "--options.length_norm", "true"], "no effect on orpo"),
    (["train", "sft", "--options.wpo", "true"], "no effect on sft"),
    (["train", "dpo", "--eval.patience", "3"], "eval.every"),
    (["train", "dpo", "--eval.every", "1", "--eval.metric", "luck"], "luck"),
    (["train", "dpo", "--train.micro_batch", "2", "--train.micro_tokens", "99"], "micro_tokens"),
    (["train", "dpo", "--data.eval_path", "x", "--data.eval_fraction", "0.1"], "eval_fraction"),
    (["train", "dpo", "--data.allow_lost_eos"], "truncate"),
    (["train", "dpo", "--data.too_long", "maybe"], "too_long"),
    (["train", "dpo", "lost", "--train.lr", "1"], "lost"),
    (["train", "dpo", "--train.lr", "1", "--train.lr", "2"], "twice"),
    (["losses", "dpoo"], "did you mean dpo"),
]


@pytest.mark.parametrize(("words", "hint"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_words(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--model", "m", "--data", "d", "--out", "o"] if words[0] == "train" else []
    assert hint in refused(capsys, [*words[:2], *more, *words[2:]])


def test_missing_things_are_named(capsys: pytest.CaptureFixture[str], tiny: str, pairs: str, tmp_path: Path) -> None:
    assert "--model" in refused(capsys, ["train", "dpo", "--data", pairs, "--out", "o"])
    assert "--out" in refused(capsys, ["train", "dpo", "--model", tiny, "--data", pairs])
    assert "no_such" in refused(capsys, ["train", "dpo", "--model", tiny, "--data", "no_such.jsonl", "--out", "o"])
    assert "nowhere" in refused(capsys, ["resume", str(tmp_path / "nowhere")])
    assert refused(capsys, ["chat", str(tmp_path)])
    assert "no format" in refused(capsys, ["data", "convert", pairs, str(tmp_path / "x.jsonl"), "--to", "shiny"])


def test_a_config_file_with_mistakes_names_the_place(capsys, tiny: str, pairs: str, tmp_path: Path) -> None:
    def told(text: str) -> str:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return refused(capsys, ["train", "dpo", "--model", tiny, "--data", pairs, "--out", "o", "--config", str(path)])

    assert "train.lr" in told("train: {learning_rate: 1}")
    assert "c.yaml:3:" in told("train:\n  lr: [1\n")
    assert "twice" in told("train:\n  lr: 1\n  lr: 2\n")
    assert "mapping" in told("- 1")
    assert "batch_size" in told("train: {batch_size: many}")


def test_dry_run_writes_nothing_and_its_settings_load_again(capsys, tiny: str, pairs: str, tmp_path: Path) -> None:
    words = [
        "train",
        "dpo",
        "--model",
        tiny,
        "--data",
        pairs,
        "--dry-run",
        "--train.lr",
        "1e-6",
        "--data.eval_fraction",
        "0",
    ]
    assert run(words) == 0
    text = capsys.readouterr().out
    assert "memory: about" in text and "rows: 12 rendered, 12 kept" in text and "⟦" in text
    assert run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["config"]["train"]["lr"] == 1e-6
    assert record["estimate"]["total"] > 0


def test_train_chat_and_check_from_the_command_line(capsys, tiny: str, pairs: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert run(["train", "dpo", "--model", tiny, "--data", pairs, "--out", out, "--train.precision", "fp32",
                "--data.eval_fraction", "0.2", "--train.batch_size", "4"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "rewards/accuracy" in shown and "run folder" in shown
    again = ["train", "dpo", "--model", tiny, "--data", pairs, "--out", out, "--data.eval_fraction", "0"]
    assert out in refused(capsys, again)
    assert run(["chat", out, "--prompt", "hello", "--max-new-tokens", "4"]) == 0
    assert run(["data", "check", pairs, "--model", tiny]) == 0
    assert run(["data", "show", pairs, "--model", tiny, "--row", "2"]) == 0
    assert "2 of them" not in capsys.readouterr().out
    assert "usable rows" in refused(capsys, ["data", "show", pairs, "--model", tiny, "--row", "99"])


def test_convert_from_the_command_line(capsys, pairs: str, tmp_path: Path) -> None:
    target = tmp_path / "out.csv.gz"
    assert run(["data", "convert", pairs, str(target), "--to", "unpaired"]) == 0
    assert target.exists() and "24 rows" in capsys.readouterr().out


def options_of(verb: str) -> list[str]:
    """Every command and option of a verb, a line each."""
    command = typer.main.get_command(importlib.import_module(VERBS[verb][0]).app)
    commands = getattr(command, "commands", {"": command})
    return [
        f"{verb} {name} {'/'.join(p.opts)}".replace("  ", " ")
        for name, each in sorted(commands.items())
        for p in sorted(each.params, key=lambda p: p.opts)
    ]


def test_the_command_line_is_frozen() -> None:
    now = "".join(line + "\n" for verb in sorted(VERBS) for line in options_of(verb))
    if os.environ.get("TRUEUP_FREEZE") == "1":
        FROZEN.write_text(now)
    assert now == FROZEN.read_text(), "options changed: if meant, run the test once with TRUEUP_FREEZE=1"


def test_help_needs_no_torch_and_a_crash_of_ours_is_no_user_error() -> None:
    done = subprocess.run([sys.executable, "-m", "trueup.cli.main", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


def test_overrides_and_yaml() -> None:
    given = parse_overrides(
        ["--train.lr", "1e-6", "--loss.beta=.2", "--data.allow_lost_eos", "--save.sinks", "[wandb]"]
    )
    assert given == {"train.lr": 1e-6, "loss.beta": 0.2, "data.allow_lost_eos": True, "save.sinks": ["wandb"]}
    assert read_yaml("a: 1e-6\nb: 2E5\nc: 1e\nd: yes", "x") == {"a": 1e-6, "b": 2e5, "c": "1e", "d": True}
    with pytest.raises(ConfigError, match="x:1"):
        read_yaml("!!python/object/apply:os.system ['true']", "x")
    config = load_config(None, ["--lora.rank", "8"], {"method": "dpo", "model.path": "m", "data.path": "d"})
    assert validated(read_yaml(dump_config(config), "x"), "x") == config
