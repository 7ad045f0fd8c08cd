"""Loss curves kept in tests/golden: twenty steps of a tiny model in fp32, through the road that every run takes.

A change that moves a curve is either a mistake or a change to behaviour, which shows its curves before and after:
``TRUEUP_FREEZE=1 pytest tests/recipes/test_golden.py`` writes them anew. The names of what each run logs are kept with
the curves; ``tests/test_docs.py`` wants a heading in docs/metrics.md for every one of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trueup.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OnlineConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from trueup.models.tiny import save_tiny
from trueup.recipes.train import train
from trueup.runs.metrics import read_jsonl

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = 20
CURVES = {"sft": "sft", "reward": "pairs", "dpo": "pairs", "kto": "unpaired", "orpo": "pairs", "simpo": "pairs"}
SAMPLED = (
    "ppo",
    "grpo",
    "online-dpo",
    "iterative-dpo",
)  # their names only: what they learn from is drawn, so a curve says little
COLOURS = ("red", "blue", "green", "grey", "white", "black", "pink")
THINGS = ("fish", "bird", "stone", "river", "apple")
RATES = {"sft": 1e-4}  # else 3e-4: high enough to move, low enough to stay far from 0


def _rows(kind: str) -> list[dict[str, Any]]:
    """Thirty rows without any randomness, so that no library's generator can move a curve."""
    rows: list[dict[str, Any]] = []
    for i in range(30):
        colour, thing, other = COLOURS[i % 7], THINGS[i % 5], COLOURS[(3 * i + 1) % 7]
        prompt, good, bad = f"{thing} {i}", f"{colour} {thing}", f"{other} {other} {i % 4}"
        if kind == "pairs":
            rows.append({"prompt": prompt, "chosen": good, "rejected": bad})
        elif kind == "unpaired":
            rows.append({"prompt": prompt, "completion": bad if i % 3 else good, "label": i % 3 == 0})
        else:
            rows.append({"prompt": prompt, "completion": good})
    return rows


def _config(method: str, model: Path, data: Path, rate: float) -> RunConfig:
    sampled: dict[str, Any] = {}
    if method in SAMPLED:
        rules = [{"rule": "regex", "arguments": {"pattern": p}} for p in ("[a-e]", "[c-h]")]
        sampled = {
            "reward": {"ensemble": rules} if method == "grpo" else rules[0],
            "sample": SampleConfig(n=4, max_new_tokens=6),
        }
    if method in ("ppo", "grpo"):
        sampled["policy"] = PolicyConfig(kl_target=0.5, entropy_coef=0.01, ptx_path=str(data))
    elif sampled:
        sampled["online"] = OnlineConfig(rounds=2, prompts=4)
    steps = 2 if sampled else STEPS
    return RunConfig(
        method=method,
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=str(data), eval_fraction=0.2, max_length=128),
        train=TrainConfig(
            lr=rate,
            batch_size=4,
            epochs=1 if sampled else 9,
            max_steps=steps,
            seed=5,
            precision="fp32",
            threads=1,
            device="cpu",
        ),
        eval=EvalConfig(every=steps, gold={"rule": "regex", "arguments": {"pattern": "[x-z]"}} if sampled else None),
        **sampled,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("golden") / "model", seed=11)


def _run(method: str, model: Path, folder: Path, factor: float = 1.0) -> dict[str, Any]:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in _rows(CURVES.get(method, "sft"))))
    train(_config(method, model, data, factor * RATES.get(method, 3e-4)), folder / "run")
    lines = read_jsonl(folder / "run" / "metrics.jsonl")
    curve = {"loss": [float(f"{line['loss']:.6g}") for line in lines]} if method in CURVES else {}
    timed = read_jsonl(folder / "run" / "timings.jsonl")
    return {
        **curve,
        "logged": sorted({_plain(name) for line in lines for name in line} - {"step"}),
        "timed": sorted({name for line in timed for name in line} - {"step"}),
    }


def _plain(name: str) -> str:
    """An interval's ends go with its mean."""
    return name.removesuffix("/low").removesuffix("/high") if name.startswith("eval/") else name


def _file(method: str) -> Path:
    return GOLDEN / f"{method}.json"


@pytest.mark.parametrize("method", CURVES)
def test_the_curve_is_the_one_we_know(method: str, model: Path, tmp_path: Path) -> None:
    got = _run(method, model, tmp_path)
    if os.environ.get("TRUEUP_FREEZE"):
        _file(method).write_text(json.dumps(got, indent=1) + "\n")
        pytest.skip(f"{_file(method).name} was written anew")
    want = json.loads(_file(method).read_text())
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-4, abs=0)
    assert {**got, "loss": None} == {**want, "loss": None}


@pytest.mark.parametrize("method", SAMPLED)
def test_a_sampling_run_logs_the_names_we_know(method: str, model: Path, tmp_path: Path) -> None:
    got = _run(method, model, tmp_path)
    if os.environ.get("TRUEUP_FREEZE"):
        _file(method).write_text(json.dumps(got, indent=1) + "\n")
        pytest.skip(f"{_file(method).name} was written anew")
    assert got == json.loads(_file(method).read_text())


@pytest.mark.parametrize("method", CURVES)
def test_a_curve_is_one_from_which_something_can_be_seen(method: str) -> None:
    """Twenty values that move and stay away from 0, where a relative difference would be noise."""
    curve = json.loads(_file(method).read_text())["loss"]
    assert len(curve) == STEPS
    assert min(curve) > 0.02
    assert max(curve) - min(curve) > 0.05


def test_a_learning_rate_a_hundredth_higher_is_noticed(model: Path, tmp_path: Path) -> None:
    got, want = _run("sft", model, tmp_path, factor=1.01)["loss"], json.loads(_file("sft").read_text())["loss"]
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    assert got != pytest.approx(want, rel=1e-4, abs=0)


def test_every_golden_file_belongs_to_a_method() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} == {*CURVES, *SAMPLED}
