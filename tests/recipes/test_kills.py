"""SIGKILL anywhere, resume: the same bytes as a run that was never interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("kill_harness.py")
DATA = {"sft": "sft", "kto": "unpaired"}


def killed(method: str, tiny: Path, small_data: dict[str, Path], scratch: Path, kills: int, *more: str) -> dict:
    data = small_data[DATA.get(method, "pairs")]
    command = [
        sys.executable,
        str(HARNESS),
        method,
        "--model",
        str(tiny),
        "--data",
        str(data),
        "--scratch",
        str(scratch),
        "--kills",
        str(kills),
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto", "orpo"])
def test_twenty_kills_leave_no_trace(method: str, tiny: Path, small_data: dict[str, Path], tmp_path: Path) -> None:
    result = killed(method, tiny, small_data, tmp_path, 20)
    assert result["kills"] >= 20
    assert result["in_write"] >= 0.3 * result["kills"], result
    assert result["differing"] == []


@pytest.mark.slow
def test_kills_with_lora_and_its_dropout(tiny: Path, small_data: dict[str, Path], tmp_path: Path) -> None:
    result = killed("dpo", tiny, small_data, tmp_path, 6, "--lora", "--seed", "1")
    assert result["differing"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), [("ppo", ("--lora",)), ("grpo", ()), ("iterative-dpo", ())])
def test_kills_while_sampling_and_saving(
    method: str, more: tuple[str, ...], tiny: Path, small_data: dict[str, Path], tmp_path: Path
) -> None:
    """KL coefficient, running moments and value head are in the metrics and checkpoints that are compared."""
    result = killed(method, tiny, small_data, tmp_path, 20, *more)
    assert result["kills"] >= 20
    assert 0 < result["in_write"] < result["kills"]
    assert result["differing"] == []


@pytest.mark.soak
@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto", "orpo", "aot", "simpo", "apo_zero_unpaired"])
def test_a_hundred_kills_leave_no_trace(method: str, tiny: Path, small_data: dict[str, Path], tmp_path: Path) -> None:
    method_data = {**DATA, "apo_zero_unpaired": "unpaired"}
    rows = {**small_data, "pairs": small_data[method_data.get(method, "pairs")]}
    result = killed(method, tiny, rows, tmp_path, 100, "--seed", "2")
    assert result["in_write"] >= 0.3 * result["kills"]
    assert result["differing"] == []
