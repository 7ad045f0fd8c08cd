"""The estimator against what really is: counted weights, saved tensors, PyTorch's own FLOP counter, files on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trueup.cli import main
from trueup.config import LoraConfig, RunConfig
from trueup.errors import ConfigError, ModelError
from trueup.models.head import token_figures
from trueup.models.layout import Branches
from trueup.models.load import load_causal_lm
from trueup.models.lora import add_lora, trainable
from trueup.models.policy import Policy, output_head
from trueup.models.source import weight_files
from trueup.models.tiny import save_tiny
from trueup.recipes.estimate import Estimate, estimate
from trueup.recipes.memory import reward_models
from trueup.recipes.rehearse import rehearse_look, rehearse_training, settings_of, size_of, skeleton
from trueup.recipes.survey import assumed
from trueup.recipes.train import method_of, train
from trueup.settings import validated

KINDS = ["llama", "mistral", "gemma2", "qwen2", "gpt2"]


def config(method: str, model: Path, data: object = "(none)", **sections: Any) -> RunConfig:
    tree: dict[str, Any] = {"method": method, "model": {"path": str(model)}, "data": {"path": str(data)}, **sections}
    tree["train"] = {"precision": "fp32", "device": "cpu", **tree.get("train", {})}
    return validated(tree, "test")


def guess(method: str, model: Path, prompt: int = 40, answer: int = 30, count: int = 32, **sections: Any) -> Estimate:
    settings = config(method, model, **sections)
    return estimate(settings, method_of(settings), assumed(method_of(settings), count, prompt, answer))


def groups(count: int, prompt: int = 30, answer: int = 20) -> list[Branches]:
    one, mask = np.zeros(answer, np.int32), np.ones(answer, dtype=bool)
    return [Branches(np.zeros(prompt, np.int32), (one, one), (mask, mask))] * count


# ── the rehearsal ──


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_counted_as_they_lie_in_the_file(kind: Any, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / kind, kind=kind)
    counted = size_of(skeleton(settings_of(str(folder)), torch.float32)).base * 4
    on_disk = sum(f.stat().st_size for f in weight_files(folder))
    assert on_disk * 0.9 < counted <= on_disk


def test_an_adapter_is_counted_as_it_is_put_on(tiny: Path) -> None:
    lora = LoraConfig(rank=4)
    counted = size_of(skeleton(settings_of(str(tiny)), torch.float32, lora=lora))
    real = add_lora(load_causal_lm(tiny), lora, 0)
    assert counted.trained == sum(p.numel() for _, p in trainable(real))
    assert counted.base == sum(p.numel() for n, p in real.named_parameters() if "lora_" not in n)


def _real(folder: Path, rows: list[Branches]) -> tuple[float, float]:
    """Bytes that autograd keeps in a real forward pass, each storage once; FLOPs of forward and backward."""
    model = load_causal_lm(folder)
    model.requires_grad_(True)
    policy = Policy(model, 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    laid = policy.layout(rows)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            states = policy.hidden(laid).index_select(0, laid.source)
            total = token_figures(states, output_head(model), laid.target).logprob.sum()
        total.backward()
    return float(sum(kept.values())), float(counter.get_total_flops())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_rehearsal_keeps_what_autograd_keeps_and_counts_its_products(kind: Any, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / kind, kind=kind, layers=4)
    rows = groups(6)
    kept, flops = _real(folder, rows)
    rehearsed = rehearse_training(skeleton(settings_of(str(folder)), torch.float32), rows)
    assert rehearsed.kept == pytest.approx(kept, rel=0.1)
    assert rehearsed.flops == pytest.approx(flops, rel=0.02)
    assert rehearsed.peak > rehearsed.kept


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention_can_be_rehearsed(kind: Any, tmp_path: Path) -> None:
    policy = skeleton(settings_of(str(save_tiny(tmp_path / kind, kind=kind))), torch.bfloat16)
    small, large = (rehearse_training(policy, groups(n)) for n in (2, 8))
    assert 3 < large.kept / small.kept < 5
    assert rehearse_look(policy, groups(8)).peak < large.peak


def test_checkpointing_keeps_less_and_computes_more(tiny: Path) -> None:
    settings = settings_of(str(tiny))
    plain, checked = (
        rehearse_training(skeleton(settings, torch.float32, checkpointing=c), groups(8)) for c in (False, True)
    )
    assert checked.kept < 0.5 * plain.kept
    assert 1.1 * plain.flops < checked.flops < 1.5 * plain.flops


def test_gradients_stay_until_the_step(tiny: Path) -> None:
    policy = skeleton(settings_of(str(tiny)), torch.float32)
    alone, later = (rehearse_training(policy, groups(8), accumulated=a) for a in (False, True))
    assert later.kept - alone.kept == size_of(policy).trained * 4


# ── the estimate ──


ALL = [
    ("sft", {}),
    ("reward", {}),
    ("dpo", {}),
    ("ipo", {"lora": {"rank": 4}}),
    ("orpo", {}),
    ("kto", {"lora": {"rank": 4}}),
    ("ppo", {"reward": "rule:length_window"}),
    ("ppo", {"reward": "rule:length_window", "lora": {"rank": 4}}),
    ("rloo", {"reward": "rule:length_window"}),
    ("grpo", {"reward": "rule:length_window", "policy": {"minibatches": 2}}),
    ("reinforce", {"reward": "rule:length_window", "policy": {"kl": "none"}}),
    ("online-dpo", {"reward": "rule:length_window"}),
    ("iterative-ipo", {"reward": "rule:length_window", "lora": {"rank": 4}}),
]


@pytest.mark.parametrize(("method", "sections"), ALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_method_has_an_estimate(method: str, sections: dict[str, Any], precision: str, tiny: Path) -> None:
    found = guess(method, tiny, train={"precision": precision}, **sections)
    base = size_of(skeleton(settings_of(str(tiny)), torch.float32)).base
    if method != "reward":
        assert found.memory["weights"] == base * (4 if precision == "fp32" else 2)
    assert found.total == sum(found.memory.values()) > 0
    assert found.seconds > 0 and found.steps >= 1
    assert all(size >= 0 for size in [*found.memory.values(), *found.disk.values()])
    assert found.lines()[0].startswith("memory: about")


def test_the_parts_of_full_fine_tuning_by_hand(tiny: Path) -> None:
    base = size_of(skeleton(settings_of(str(tiny)), torch.float32)).base
    memory = guess("dpo", tiny, train={"precision": "bf16"}).memory
    assert memory["weights"] == memory["reference"] == 2 * base
    assert memory["master weights"] == 4 * base
    assert memory["AdamW"] == 8 * base
    assert "reference" not in guess("orpo", tiny).memory


def test_one_set_of_weights_serves_policy_reference_and_value(tiny: Path) -> None:
    shared = guess("ppo", tiny, reward="rule:length_window", lora={"rank": 4})
    assert not {"reference", "value model", "reward model"} & set(shared.memory)
    assert any("one set of base weights serves" in n and "value model" in n for n in shared.notes)
    base = size_of(skeleton(settings_of(str(tiny)), torch.float32))
    own = guess("ppo", tiny, reward="rule:length_window", lora={"rank": 4}, policy={"value": "separate"})
    trained = base.base - 260 * 64  # all but the output layer, on which no value depends
    assert own.memory["value model"] == base.base * 4 + trained * 8
    judged = guess("ppo", tiny, reward=str(tiny), lora={"rank": 4})
    assert judged.memory["reward model"] == 4 * (base.base - 260 * 64 + 64)  # a score head for the output layer
    assert any("1 reward model loaded besides" in n for n in judged.notes)


def test_longer_rows_more_slots_and_bigger_batches_cost_more(tiny: Path) -> None:
    plain = guess("dpo", tiny)
    assert guess("dpo", tiny, prompt=200, answer=200).total > plain.total
    assert guess("dpo", tiny, train={"micro_batch": 1}).total < plain.total
    assert guess("dpo", tiny, count=64).steps == 2 * plain.steps
    few, many = (
        guess("grpo", tiny, reward="rule:length_window", sample={"n": n, "max_new_tokens": 16}).total for n in (2, 8)
    )
    assert many > few


def test_a_config_alone_is_enough(tiny: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_bytes((tiny / "config.json").read_bytes())
    assert guess("dpo", alone).memory == guess("dpo", tiny).memory
    assert guess("dpo", alone / "config.json").memory == guess("dpo", tiny).memory


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-model"}'])
def test_a_config_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config"):
        guess("dpo", tmp_path)


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        (None, []),
        ("rule:regex", []),
        ("my.module:score", []),
        ("rm", ["rm"]),
        ("bundled:rm", ["bundled:rm"]),
        ({"rule": "regex"}, []),
        ({"sum": ["a", {"reward_model": "b", "weight": 2.0}, "rule:tags"]}, ["a", "b"]),
        ({"ensemble": ["a", {"sum": ["b"]}], "how": "min"}, ["a", "b"]),
    ],
)
def test_reward_models_are_found_wherever_they_are_named(spec: Any, paths: list[str]) -> None:
    assert reward_models(spec) == paths


def test_a_reward_that_names_nobody_is_told() -> None:
    with pytest.raises(ConfigError, match="names no scorer"):
        reward_models({"how": "min"})


@pytest.mark.parametrize("lora", [None, {"rank": 32}])
def test_disk_is_what_a_run_leaves(lora: Any, tiny: Path, small_data: dict[str, Path], tmp_path: Path) -> None:
    sections = {} if lora is None else {"lora": lora}
    settings = config(
        "dpo", tiny, small_data["pairs"], train={"batch_size": 8, "max_steps": 3}, save={"every": 1}, **sections
    )
    train(settings, tmp_path / "run")
    files = [f for part in ("checkpoints", "model") for f in (tmp_path / "run" / part).rglob("*.safetensors")]
    left = sum(f.stat().st_size for f in files)
    disk = estimate(settings, method_of(settings), assumed(method_of(settings), 30, 20, 20)).disk
    assert sum(v for n, v in disk.items() if n != "one being written") == pytest.approx(left, rel=0.15)


# ── the verb ──


def test_the_verb_says_what_the_dry_run_says(tiny: Path, small_data: dict[str, Path], capsys: Any) -> None:
    words = ["dpo", "--model", str(tiny), "--data", str(small_data["pairs"]), "--lora.rank", "4", "--json"]
    assert main.run(["estimate", *words]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main.run(["train", *words, "--dry-run"]) == 0
    assert own["memory"] == json.loads(capsys.readouterr().out)["estimate"]["memory"]


def test_the_verb_assumes_rows_and_refuses_what_would_do_nothing(
    tiny: Path, small_data: dict[str, Path], capsys: Any
) -> None:
    assert main.run(["estimate", "sft", "--model", str(tiny), "--rows", "64", "--answer-tokens", "9"]) == 0
    assert "4 steps" in capsys.readouterr().out
    words = ["estimate", "sft", "--model", str(tiny), "--data", str(small_data["sft"]), "--rows", "64"]
    assert main.run(words) == 2
    assert "--rows: has no effect with data" in capsys.readouterr().err
    assert main.run(["estimate", "sft", "--model", str(tiny), "--prompt-tokens", "0"]) == 2
    assert main.run(["estimate", "sft", "--model", str(tiny), "--train.batchsize", "4"]) == 2
    assert "did you mean train.batch_size" in capsys.readouterr().err
