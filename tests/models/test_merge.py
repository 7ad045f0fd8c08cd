"""Merging: the full model answers like base and adapter, in every variant, or is not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trueup.config import LoraConfig
from trueup.errors import ModelError, RunError, TrueupError
from trueup.models.load import add_lora, load_causal_lm, load_reward_model, load_tokenizer, trainable
from trueup.models.merge import merge
from trueup.models.save import save_result
from trueup.models.tiny import save_tiny, tiny_tokenizer

IDS = torch.arange(4, 40)[None]


def adapter(base: Path, out: Path, *, reward: bool = False, **settings) -> tuple[torch.Tensor, Path]:
    model = load_reward_model(base, new_head=True) if reward else load_causal_lm(base)
    model = add_lora(model, LoraConfig(rank=4, **settings), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in trainable(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model(input_ids=IDS).logits, save_result(model, tiny_tokenizer(), out)


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, "alpha": 3.5}, {"reward": True}])
def test_the_merged_model_answers_like_the_two(settings: dict, tiny_folder: Path, tmp_path: Path) -> None:
    answers, _ = adapter(tiny_folder, tmp_path / "run" / "model", **settings)
    out = merge(tmp_path / "run", tmp_path / "out")  # a run folder
    assert not (out / "adapter_config.json").exists() and not (out / "trueup.json").exists()
    load = load_reward_model if settings.get("reward") else load_causal_lm
    plain = load(tiny_folder, **({"new_head": True} if settings.get("reward") else {}))
    assert (load(out)(IDS).logits - answers).abs().max() < 1e-4
    assert (plain(IDS).logits - answers).abs().max() > 1e-2
    assert load_tokenizer(out).chat_template == tiny_tokenizer().chat_template


def test_precision_of_the_base_or_as_asked(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    half = save_result(load_causal_lm(base), tiny_tokenizer(), tmp_path / "half", dtype=torch.bfloat16)
    answers, folder = adapter(half, tmp_path / "adapter")
    kinds = {}
    for name, dtype in (("own", None), ("wide", torch.float32)):
        out = merge(folder, tmp_path / name, dtype)
        kinds[name] = {t.dtype for t in load_file(out / "model.safetensors").values()}
    assert kinds == {"own": {torch.bfloat16}, "wide": {torch.float32}}
    assert json.loads((tmp_path / "own" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (load_causal_lm(tmp_path / "wide")(IDS).logits - answers).abs().max() < 1e-4


def test_merging_into_a_gguf_base(tiny_gguf: Path, tmp_path: Path) -> None:
    answers, folder = adapter(tiny_gguf, tmp_path / "adapter")
    assert (load_causal_lm(merge(folder, tmp_path / "out"))(IDS).logits - answers).abs().max() < 1e-4


def test_a_merge_that_changes_the_answers_is_not_written(tiny_folder: Path, tmp_path: Path) -> None:
    _, folder = adapter(tiny_folder, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    name = next(n for n in state if "lora_A" in n)
    state[name][0] = float("nan")
    save_file(state, path)
    with pytest.raises(TrueupError, match="answers differ by nan"):
        merge(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "tiny"]


def test_what_cannot_be_merged(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a full model already"):
        merge(tiny_folder, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="exists already"):
        merge(tiny_folder, tmp_path / "taken")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="exists already"):
        merge(tiny_folder, tmp_path / "link")
