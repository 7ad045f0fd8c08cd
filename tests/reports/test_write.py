"""The folder of a report, and the verbs: what is written, replaced and left alone; a run that was really trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folders import figures, policy_metrics, write_run

from trueup.cli.main import run
from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.models.tiny import save_tiny
from trueup.recipes.train import train
from trueup.runs.encode import parse


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_report_lies_in_the_run_folder_and_is_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", after=figures(loss=(0.5, 0.4, 0.6)), metrics=policy_metrics)
    assert run(["report", str(path)]) == 0
    folder = path / "report"
    assert sorted(p.name for p in folder.iterdir()) == ["charts", "report.html", "report.json"]
    first = {p.name for p in (folder / "charts").iterdir()}
    assert {"loss.png", "kl.png", "frontier.png"} <= first
    assert "report.html" in capsys.readouterr().out
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert run(["report", str(path)]) == 0
    assert "kl.png" not in {p.name for p in (folder / "charts").iterdir()}
    assert run(["report", str(path), "--no-pictures"]) == 0
    assert list((folder / "charts").iterdir()) == []


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", metrics=policy_metrics)
    for name in ("a", "b"):
        assert run(["report", str(path), "--out", str(tmp_path / name)]) == 0
    for file in ("report.html", "report.json", "charts/loss.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_folder_of_something_else_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (tmp_path / "mine" / "charts").mkdir(parents=True)
    (tmp_path / "mine" / "charts" / "holiday.png").write_bytes(b"x")
    assert "no report left there" in refused(capsys, ["report", str(path), "--out", str(tmp_path / "mine")])
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(capsys, ["report", str(path), "--out", str(tmp_path / "file")])
    assert (tmp_path / "mine" / "charts" / "holiday.png").read_bytes() == b"x"


def test_compare_takes_two_to_eight_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(write_run(tmp_path / "run", steps=1))
    out = ["--out", str(tmp_path / "out"), "--no-pictures"]
    assert "2 to 8 runs, got 1" in refused(capsys, ["compare", path, *out])
    assert "got 9" in refused(capsys, ["compare", *[path] * 9, *out])
    assert run(["compare", *[path] * 8, *out]) == 0


def test_the_record_is_strict_json_and_says_what_the_page_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_run(
        tmp_path / "run", metrics=policy_metrics, finished=False,
        before=figures(score=(0.2, 0.1, 0.3)), after=figures(score=(0.6, 0.5, 0.7)),
    )  # fmt: skip
    out = tmp_path / "out"
    assert run(["report", str(path), "--out", str(out), "--no-pictures", "--json"]) == 0
    printed = parse(capsys.readouterr().out)
    record = parse((out / "report.json").read_bytes())
    assert printed == record
    (told,) = record["runs"]
    assert told["curves"]["loss"]["values"][:3] == [-0.01, -0.02, None]
    assert told["held_out"]["score"]["after"] == {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 40}
    assert told["result"]["sentence"] in (out / "report.html").read_text()
    assert told["finished"] is False and "not finished" in told["problems"][0]


def test_a_run_that_was_trained_is_reported_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [{"prompt": f"say {i}", "chosen": "yes " * (i % 3 + 1), "rejected": f"no {i}"} for i in range(20)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = RunConfig(
        method="dpo", model=ModelConfig(path=str(save_tiny(tmp_path / "model"))),
        data=DataConfig(path=str(data), eval_fraction=0.3, max_length=64),
        train=TrainConfig(lr=1e-3, batch_size=4, max_steps=3, precision="fp32", device="cpu"),
    )  # fmt: skip
    train(config, tmp_path / "run")
    capsys.readouterr()
    assert run(["report", str(tmp_path / "run"), "--no-pictures"]) == 0
    out, err = capsys.readouterr()
    assert "note:" not in err and "run: The chosen answer is preferred in" in out
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    for words in ("DPO on model", "Preference accuracy", "Implicit reward margin", "after 3 steps", "Rows rendered",
                  "train.lr", "torch", config.model.path):  # fmt: skip
        assert words in page, words
    assert run(["report", str(tmp_path / "run"), "--no-pictures"]) == 0  # the report in the folder is no obstacle
    assert run(["compare", str(tmp_path / "run"), str(tmp_path / "run"), "--out", str(tmp_path / "c")]) == 0
