"""Two real processes under torchrun train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trueup.models.tiny import save_tiny
from trueup.runs.metrics import read_jsonl

BIN = Path(sys.executable).parent
EXACT = {"step", "lr"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    words = ["red", "blue", "green", "one", "two", "three"]

    def text(k: int, size: int) -> str:
        return " ".join(words[(k * 7 + i * i) % 6] for i in range(size))

    pairs = [{"prompt": text(i, 4), "chosen": text(i + 1, 3), "rejected": text(i + 2, 5)} for i in range(24)]
    labelled = [{"prompt": text(i, 4), "completion": text(i + 1, 3), "label": i % 3 == 0} for i in range(24)]
    files = {"pairs": pairs, "labelled": labelled}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {name: folder / f"{name}.jsonl" for name in files}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "trueup"), *words]
    if processes > 1:
        command = [
            str(BIN / "torchrun"), f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
            f"--master-port={free_port()}", "--no-python", *command,
        ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def train(processes: int, method: str, tiny: Path, file: Path, out: Path, *more: str) -> list[dict]:
    words = ("train", method, "--model", str(tiny), "--data", str(file), "--out", str(out),
             "--train.precision", "fp32", "--train.lr", "1e-3", "--train.batch_size", "6", "--train.epochs", "2",
             "--train.warmup", "0", *more)  # fmt: skip
    done = launch(processes, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder:") == 1
    return list(read_jsonl(out / "metrics.jsonl"))


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "aot", "reward"])
def test_two_processes_take_the_steps_of_one(method: str, tiny: Path, data: dict[str, Path], tmp_path: Path) -> None:
    file = data["labelled" if method == "kto" else "pairs"]
    one = train(1, method, tiny, file, tmp_path / "one")
    two = train(2, method, tiny, file, tmp_path / "two")
    assert len(one) == len(two) > 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert b == pytest.approx(a, rel=2e-5, abs=2e-6), a["step"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6, abs=1e-7)
        assert {k: a[k] for k in EXACT} == {k: b[k] for k in EXACT}


def test_a_run_of_two_goes_on_with_one(tiny: Path, data: dict[str, Path], tmp_path: Path) -> None:
    whole = train(1, "dpo", tiny, data["pairs"], tmp_path / "whole")
    out = tmp_path / "cut"
    train(2, "dpo", tiny, data["pairs"], out, "--save.every", "3", "--save.keep", "9")
    for gone in ("model", "results.json"):
        path = out / gone
        subprocess.run(["rm", "-rf", str(path)], check=True)
    newest = sorted((out / "checkpoints").iterdir())
    for folder in newest[1:]:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    done = launch(1, "resume", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = list(read_jsonl(out / "metrics.jsonl"))
    assert [x["step"] for x in lines] == [x["step"] for x in whole]
    assert [x["loss"] for x in lines] == pytest.approx([x["loss"] for x in whole], rel=1e-6, abs=1e-7)


def test_methods_that_sample_say_that_they_need_one_process(tiny: Path, data: dict[str, Path], tmp_path: Path) -> None:
    words = ("train", "rloo", "--model", str(tiny), "--data", str(data["pairs"]), "--out", str(tmp_path / "r"))
    done = launch(2, *words, "--reward", "rule:repetition")
    assert done.returncode != 0
    assert "several processes are not supported" in done.stderr


def test_more_processes_than_rows_is_an_error(tiny: Path, data: dict[str, Path], tmp_path: Path) -> None:
    words = ("train", "dpo", "--model", str(tiny), "--data", str(data["pairs"]), "--out", str(tmp_path / "r"))
    done = launch(2, *words, "--train.batch_size", "1", "--train.precision", "fp32")
    assert done.returncode != 0
    assert "1 rows cannot be shared by 2 processes" in done.stderr


def test_what_an_alarm_does_is_done_by_all_processes(tiny: Path, data: dict[str, Path], tmp_path: Path) -> None:
    """A random model finds every row foreign: told after the fifth step, acted on from the sixth."""
    acts = (
        "--monitors.act_on",
        "warn",
        "--monitors.off",
        "[displacement, sources_apart]",
        "--train.schedule",
        "constant",
    )
    lines = train(2, "dpo", tiny, data["pairs"], tmp_path / "lower", "--on-alarm", "lower_lr", *acts)
    assert [line["lr"] for line in lines] == [1e-3] * 5 + [5e-4] * (len(lines) - 5)
    words = ("--out", str(tmp_path / "stop"), "--train.batch_size", "6", "--train.epochs", "2", "--on-alarm", "stop")
    done = launch(2, "train", "dpo", "--model", str(tiny), "--data", str(data["pairs"]), *words, *acts)
    assert done.returncode != 0
    assert "step 5: the run was stopped by foreign_data" in done.stderr
    assert len(read_jsonl(tmp_path / "stop" / "metrics.jsonl")) == 5
