"""Whole runs on a tiny model: references, accumulation, resume, evaluation, results that load elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.config import DataConfig, EvalConfig, LoraConfig, ModelConfig, RunConfig, SaveConfig, TrainConfig
from trueup.errors import DataError, ModelError, RunError, TrainingError
from trueup.models.load import load_causal_lm
from trueup.recipes.build import bf16_pays, build
from trueup.recipes.prepare import prepare
from trueup.recipes.train import method_of, resume, train
from trueup.runs.checkpoint import latest_checkpoint, load_checkpoint
from trueup.runs.metrics import read_jsonl
from trueup.train.loop import LoopState, optimise

TRAIN = {"lr": 1e-3, "batch_size": 4, "precision": "fp32", "threads": 1, "seed": 3}


def config(method: str, path: Path, rows: Path, **changes: Any) -> RunConfig:
    sections: dict[str, Any] = {
        "model": ModelConfig(path=str(path), **changes.pop("model", {})),
        "data": DataConfig(path=str(rows), **{"eval_fraction": 0.2, "max_length": 256, **changes.pop("data", {})}),
        "train": TrainConfig(**{**TRAIN, **changes.pop("train", {})}),
    }
    return RunConfig(method=method, **sections, **changes)


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_jsonl(run / "metrics.jsonl")]


FAMILIES = [("dpo", "pairs"), ("ipo", "pairs"), ("aot", "pairs"), ("orpo", "pairs"), ("simpo", "pairs"),
            ("reward", "pairs"), ("kto", "unpaired"), ("apo_zero_unpaired", "unpaired"), ("sft", "sft")]  # fmt: skip


@pytest.mark.parametrize(("method", "data"), FAMILIES)
def test_accumulating_eight_by_one_equals_one_by_eight(method: str, data: str, tiny: Path, small_data: dict) -> None:
    """In float64, so that what is left is the arithmetic: losses and weights agree to 1e-9 after three steps."""
    ends = []
    for micro in (8, 1):
        settings = config(method, tiny, small_data[data], train={"batch_size": 8, "micro_batch": micro, "max_steps": 3})
        chosen = method_of(settings)
        prepared = prepare(settings, chosen)
        job, policy = build(settings, chosen, prepared)
        policy.model.double()
        reference = getattr(job.objective, "reference", None)
        if reference is not None:
            reference.policy.model.double()
        steps = list(optimise(job.objective, job.optimizer, job.plan, settings.train, LoopState()))
        ends.append((steps, torch.cat([p.detach().flatten() for p in policy.model.parameters()])))
    for a, b in zip(ends[0][0], ends[1][0], strict=True):
        assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-6)
        assert a.metrics["grad_norm"] == pytest.approx(b.metrics["grad_norm"], rel=1e-5)
    assert (ends[0][1] - ends[1][1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("method", "start"), [("dpo", np.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("apo_zero", 1.0), ("sppo", 50.0)]
)
def test_the_first_loss_is_the_known_one(
    method: str, start: float, tiny: Path, small_data: dict, tmp_path: Path
) -> None:
    train(config(method, tiny, small_data["pairs"], train={"max_steps": 1}), tmp_path / "run")
    assert losses(tmp_path / "run")[0] == pytest.approx(start, rel=1e-6)


def test_kto_starts_at_one_half(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    train(config("kto", tiny, small_data["unpaired"], train={"max_steps": 1}), tmp_path / "run")
    record = read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]
    assert record["loss"] == pytest.approx(0.5, abs=1e-6)
    assert record["kl"] == pytest.approx(0.0, abs=1e-5)


def test_every_kind_of_reference_gives_the_same_run(tiny: Path, small_data: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path / "cache"))
    runs = {}
    for kind in ("copy", "precomputed", "precomputed again", str(tiny)):
        name = kind.split()[0]
        out = tmp_path / kind.replace("/", "_")
        train(config("dpo", tiny, small_data["pairs"], model={"reference": name}), out)
        runs[kind] = losses(out)
    for kind, values in runs.items():
        assert values == pytest.approx(runs["copy"], abs=1e-5), kind


def test_a_damaged_reference_cache_is_found(tiny: Path, small_data: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path / "cache"))
    settings = config("dpo", tiny, small_data["pairs"], model={"reference": "precomputed"}, train={"max_steps": 1})
    train(settings, tmp_path / "a")
    cache = next((tmp_path / "cache" / "reference").glob("*.jsonl"))
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    for line in lines:
        line["logprob"][0] += 5.0
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match="do not match the model"):
        train(settings, tmp_path / "b")


def test_lora_trains_the_adapter_alone_and_its_reference_is_the_base(
    tiny: Path, small_data: dict, tmp_path: Path
) -> None:
    settings = config("dpo", tiny, small_data["pairs"], lora=LoraConfig(rank=4, alpha=8.0), train={"lr": 1e-2})
    result = train(settings, tmp_path / "run")
    assert losses(tmp_path / "run")[0] == pytest.approx(np.log(2), rel=1e-6)
    newest, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    kept = load_checkpoint(newest)
    assert all("lora" in name for name in kept.tensors["weights"])
    assert "adapter switched off" in str(kept.meta["identity"]["reference"])
    assert result.results["after"]["rewards/margin"]["mean"] != 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model") is not None


def test_the_result_loads_in_plain_transformers_and_differs_from_the_start(
    tiny: Path, small_data: dict, tmp_path: Path
) -> None:
    train(config("sft", tiny, small_data["sft"]), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.chat_template
    start = load_causal_lm(tiny)
    moved = sum((a - b).abs().sum().item() for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert moved > 0
    assert "sft" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_training_learns_what_it_is_shown(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    for method, data in (("dpo", "pairs"), ("sft", "sft"), ("kto", "unpaired"), ("reward", "pairs")):
        train(config(method, tiny, small_data[data], train={"epochs": 6}), tmp_path / method)
        values = losses(tmp_path / method)
        assert np.mean(values[-3:]) < 0.9 * np.mean(values[:3]), method


def test_bf16_follows_fp32(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train(config("sft", tiny, small_data["sft"], train={"precision": precision}), tmp_path / precision)
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)


def test_gradient_checkpointing_changes_nothing(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    for on in (False, True):
        train(config("dpo", tiny, small_data["pairs"], train={"gradient_checkpointing": on}), tmp_path / str(on))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-5)


def test_padded_rows_give_the_same_run_as_shared_prompts(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    for layout in ("shared", "rows"):
        train(config("dpo", tiny, small_data["pairs"], model={"layout": layout}), tmp_path / layout)
    assert losses(tmp_path / "rows") == pytest.approx(losses(tmp_path / "shared"), rel=1e-4)


def test_a_resume_with_other_data_or_a_damaged_checkpoint_is_refused(
    tiny: Path, small_data: dict, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    shutil.copy(small_data["pairs"], data)
    run = tmp_path / "run"
    train(config("dpo", tiny, data, save=SaveConfig(every=2)), run)
    shutil.rmtree(run / "model")
    text = data.read_text()
    data.write_text(text.replace("red", "rot"))
    with pytest.raises(RunError, match="data was"):
        resume(run)
    data.write_text(text)
    for folder in (run / "checkpoints").glob("step-*"):
        weights = folder / "weights.safetensors"
        raw = bytearray(weights.read_bytes())
        raw[-5] ^= 1
        weights.write_bytes(raw)
    before = losses(run)
    assert resume(run).finished  # both checkpoints are refused, so it starts from the beginning
    assert losses(run) == before


def test_a_finished_run_is_not_run_again(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    first = train(config("sft", tiny, small_data["sft"]), tmp_path / "run")
    stamp = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    again = resume(tmp_path / "run")
    assert again == first
    assert again.steps == len(losses(tmp_path / "run")) == 6
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == stamp


def test_early_stopping_takes_the_best_weights(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    settings = config("sft", tiny, small_data["sft"], train={"lr": 0.5, "epochs": 10, "warmup": 0},
                      eval=EvalConfig(every=1, patience=2))  # fmt: skip
    result = train(settings, tmp_path / "run")
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    held_out = [r["eval/loss"] for r in records]
    assert result.steps == len(records) < 60
    assert resume(tmp_path / "run").steps == result.steps
    assert result.results["after"]["loss"]["mean"] == pytest.approx(min(held_out), rel=1e-5)


def test_three_broken_steps_stop_the_run_and_weights_stay(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="3rd non-finite"):
        train(config("sft", tiny, small_data["sft"], train={"lr": 1e30, "warmup": 0, "epochs": 9}), tmp_path / "run")
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r.get("skipped", False) for r in records[-3:]] == [True] * 3
    assert records[-1]["rows"]
    newest, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert all(bool(torch.isfinite(t).all()) for t in load_checkpoint(newest).tensors["weights"].values())


def test_mixtures_and_options_run(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    settings = config("dpo", tiny, small_data["pairs"], options={"ld_alpha": 0.5, "wpo": True, "sft_weight": 0.1},
                      mixture=[{"name": "orpo", "weight": 0.2}], train={"max_steps": 2})  # fmt: skip
    train(settings, tmp_path / "run")
    assert all(np.isfinite(losses(tmp_path / "run")))


def test_what_cannot_be_run_is_refused_before_a_folder_is_made(tiny: Path, small_data: dict, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for settings, error, word in (
        (config("dpo", tiny, small_data["sft"]), DataError, "chosen"),
        (config("dpo", tmp_path / "nowhere", small_data["pairs"]), ModelError, "nowhere"),
        (config("dpo", tiny, tmp_path / "none.jsonl"), DataError, "none.jsonl"),
        (config("dpo", tiny, small_data["pairs"], data={"max_length": 8}), DataError, "max_length"),
    ):
        with pytest.raises(error, match=word):
            train(settings, out)
        assert not out.exists()
    train(config("dpo", tiny, small_data["pairs"], train={"max_steps": 1}), out)
    with pytest.raises(RunError):
        train(config("dpo", tiny, small_data["pairs"], train={"max_steps": 1}), out)


@pytest.mark.parametrize(
    ("vendor", "flags", "wanted"),
    [
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("AuthenticAMD", "avx512f", False),
    ],
)
def test_bf16_is_chosen_where_it_is_the_faster(vendor: str, flags: str, wanted: bool) -> None:
    assert bf16_pays(f"vendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n") is wanted
