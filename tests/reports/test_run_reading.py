"""Half-written, unfinished, damaged and foreign folders: a clear error, or an honest report of what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folders import figures, greedy, policy_metrics, write_run

from trueup.cli.main import run
from trueup.errors import RunError
from trueup.reports.evaluation import read_evaluation
from trueup.reports.read import read_view

GOOD = {"before": figures(loss=(2.0, 1.9, 2.1)), "after": figures(loss=(1.0, 0.9, 1.1))}


def told(path: Path) -> str:
    return " ".join(read_view(path).problems)


def test_a_whole_run_has_no_problems(tmp_path: Path) -> None:
    samples = [greedy(0, "r", "p", "a"), greedy(12, "r", "p", "b")]
    view = read_view(write_run(tmp_path / "run", samples=samples, alarms=[], **GOOD))
    assert view.problems == [] and view.finished and view.steps == 12 and view.seconds == 6.0
    assert view.curves["loss"].values[0] == pytest.approx(0.69)
    assert [s.answer for s in view.samples] == ["a", "b"] and view.alarms == []


def test_an_unfinished_run_says_where_it_stands(tmp_path: Path) -> None:
    assert "12 steps are there" in told(write_run(tmp_path / "run", finished=False))


def test_numbers_that_are_not_finite_stay_what_they_are(tmp_path: Path) -> None:
    view = read_view(write_run(tmp_path / "run", method="ppo", metrics=policy_metrics))
    assert str(view.curves["loss"].values[2]) == "nan" and view.curves["grad_norm"].values[2] == float("inf")
    assert len(view.curves["loss"].finite) == 11


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "samples.jsonl", "results.json", "audit.json"])
def test_a_missing_file_is_named_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run", **GOOD)
    (path / name).unlink()
    assert f"{name} is missing" in told(path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "audit.json", "samples.jsonl"])
@pytest.mark.parametrize("content", ["{not json}\n", '["a list"]\n', "\x00\x01\n", '{"a": NaN}\n'])
def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, name: str, content: str) -> None:
    path = write_run(tmp_path / "run", **GOOD)
    (path / name).write_text(content)
    assert name in told(path)


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_an_unfinished_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = write_run(tmp_path / "run", **GOOD)
    raw = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(raw[:-cut])
    view = read_view(path)
    assert view.steps == 12  # timings.jsonl knows the last step
    assert len(view.curves["loss"].values) == 11 and "unfinished line" in " ".join(view.problems)


def test_values_of_the_wrong_kind_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", **GOOD)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "loss": {"deep": 1}}\n{"loss": 2}\n')
    with (path / "samples.jsonl").open("a") as file:
        file.write('{"step": "x", "answer": 3}\n')
    (path / "results.json").write_text('{"after": {"loss": {"mean": "high"}, "score": 3}}')
    text = told(path)
    assert "2 values are no numbers" in text and "1 of 1 lines" in text
    assert "loss is not a finite number" in text and "score is not a finite number" in text


REFUSED = {
    "no such folder": lambda p: shutil.rmtree(p),
    "interrupted": lambda p: (p / "manifest.json").unlink(),
    "not a run folder": lambda p: [(p / "manifest.json").unlink(), (p / "config.yaml").unlink()],
    "this trueup reads schema 1": lambda p: (p / "manifest.json").write_text('{"schema": 99}'),
    "damaged": lambda p: (p / "manifest.json").write_text('{"schema": 1, '),
    "changed since": lambda p: (p / "config.yaml").write_text("method: sft\n"),
    "missing": lambda p: (p / "config.yaml").unlink(),
}


@pytest.mark.parametrize("verb", ["report", "compare"])
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_run_is_refused_in_one_line_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str, reason: str
) -> None:
    path, sound = write_run(tmp_path / "run"), write_run(tmp_path / "sound")
    REFUSED[reason](path)
    assert run([verb, str(sound), str(path), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and reason in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no evaluation"):
        read_evaluation(tmp_path)
    (tmp_path / "journal").mkdir()
    with pytest.raises(RunError, match="not finished"):
        read_evaluation(tmp_path)
    (tmp_path / "eval.json").write_text('{"schema": 2}')
    with pytest.raises(RunError, match="reads schema 1"):
        read_evaluation(tmp_path)
    (tmp_path / "eval.json").write_text("[]")
    with pytest.raises(RunError, match="holds no object"):
        read_evaluation(tmp_path)


def test_an_evaluation_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"model": "m", "answer": "secret"}\n')
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "eval.json").write_text(json.dumps({"schema": 1, "files": {"answers": "../secret.jsonl"}}))
    assert read_evaluation(folder).answers == []
