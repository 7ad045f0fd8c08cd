"""Models load whole or not at all; what they are is told by a hash; adapters go on, off, and back to disk."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trueup.config import LoraConfig
from trueup.errors import ConfigError, ModelError
from trueup.models.load import (
    adapter_off,
    add_lora,
    identity,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    require_chat_template,
    resolve,
    score_head,
    trainable,
)
from trueup.models.save import save_result
from trueup.models.source import base_of
from trueup.models.tiny import save_tiny, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 40)[None]


def edit(path: Path, **changes) -> None:
    value = json.loads(path.read_text())
    for key, new in changes.items():
        value.pop(key, None)
        if new is not None:
            value[key] = new
    path.write_text(json.dumps(value))


def edit_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def trained_adapter(base: Path, out: Path, *, reward: bool = False, **settings) -> tuple[torch.Tensor, Path]:
    """An adapter whose weights are not zero, and its answers to IDS."""
    model = load_reward_model(base, new_head=True) if reward else load_causal_lm(base)
    model = add_lora(model, LoraConfig(rank=4, **settings), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in trainable(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        answers = model(input_ids=IDS).logits
    return answers, save_result(model, tiny_tokenizer(), out)


# ---- loading


def test_a_folder_loads_to_the_bit_and_in_the_precision_asked_for(tiny_folder: Path) -> None:
    model = load_causal_lm(tiny_folder)
    written = load_file(tiny_folder / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in written.items())
    assert not model.training
    assert load_causal_lm(tiny_folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_causal_lm(tiny_folder, attention="eager").config._attn_implementation == "eager"


def test_sharded_weights_load(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_causal_lm(tiny_folder)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    assert torch.equal(load_causal_lm(tmp_path / "sharded")(IDS).logits, model(IDS).logits)


def test_a_run_folder_means_its_result(tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_folder, run / "model")
    (run / "config.yaml").write_text("method: dpo\n")
    assert resolve(run).folder == (run / "model").resolve()
    assert load_tokenizer(run)("a").input_ids == [101]


def test_a_gguf_file_and_a_folder_that_holds_one(tiny_gguf: Path, tmp_path: Path) -> None:
    model = load_causal_lm(tiny_gguf)
    assert torch.equal(model(IDS).logits, load_causal_lm(tiny_gguf.parent)(IDS).logits)
    assert load_causal_lm(tiny_gguf, dtype=torch.bfloat16).dtype == torch.bfloat16
    tokenizer = load_tokenizer(tiny_gguf)
    require_chat_template(tokenizer, tiny_gguf)
    reward = load_reward_model(tiny_gguf, new_head=True)
    assert torch.equal(reward.model.embed_tokens.weight, model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path / "plain")
    assert torch.equal(load_causal_lm(tmp_path / "plain")(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(("file", "content", "says"), [
    ("config.json", None, "config.json: missing"),
    ("config.json", "{", "config.json: not readable as JSON"),
    ("config.json", "[1]", "an object is expected, found list"),
    ("config.json", "\udcff", "config.json: not readable as JSON"),
    ("config.json", "[" * 100_000, "config.json: not readable as JSON"),
    ("config.json", '{"model_type": "nosuch"}', "nosuch"),
    ("config.json", '{"a": 1}', "names no model_type"),
    ("config.json", " " * (5 << 20), "too many for a configuration"),
    ("model.safetensors", None, "no weights"),
    ("model.safetensors", "", "model.safetensors: damaged safetensors file"),
    ("model.safetensors", "hello, world", "model.safetensors: damaged safetensors file"),
])  # fmt: skip
def test_files_missing_or_garbled_are_named(tiny_folder: Path, file: str, content: str | None, says: str) -> None:
    (tiny_folder / file).unlink()
    if content is not None:
        (tiny_folder / file).write_text(content, errors="surrogateescape")
    with pytest.raises(ModelError, match=says) as caught:
        load_causal_lm(tiny_folder)
    assert "\n" not in str(caught.value) and str(tiny_folder.resolve()) in str(caught.value)


@pytest.mark.parametrize("changes", [
    {"num_attention_heads": 0}, {"num_attention_heads": "four"}, {"hidden_size": -1}, {"hidden_size": 128},
    {"vocab_size": 10**12}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1},
    {"hidden_act": "nosuch"}, {"model_type": "bert"}, {"rope_parameters": {"rope_type": "nosuch"}},
    {"model_type": 7}, {"num_key_value_heads": None, "head_dim": 3},
])  # fmt: skip
def test_a_config_that_does_not_fit_the_weights(tiny_folder: Path, changes: dict) -> None:
    edit(tiny_folder / "config.json", **changes)
    with pytest.raises(ModelError) as caught:
        load_causal_lm(tiny_folder)
    assert "\n" not in str(caught.value)


def test_missing_and_left_over_weights_are_listed(tiny_folder: Path) -> None:
    edit_weights(tiny_folder, lambda state: state.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: missing from the weights"):
        load_causal_lm(tiny_folder)
    edit_weights(tiny_folder, lambda s: s.update({f"extra.{i}": torch.ones(1) for i in range(7)}))
    edit_weights(tiny_folder, lambda s: s.update({"model.layers.1.mlp.up_proj.weight": torch.ones(128, 64)}))
    with pytest.raises(ModelError, match=r"extra\.0, .*extra\.4 and 2 more: left over in the weights"):
        load_causal_lm(tiny_folder)


def test_a_truncated_weight_file_is_named(tiny_folder: Path) -> None:
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged safetensors file .*copy or download it again"):
        load_causal_lm(tiny_folder)


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tied", kind="gpt2")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_causal_lm(folder)


def test_names_that_are_nothing(tmp_path: Path) -> None:
    for name in ("./nosuch", str(tmp_path / "nosuch"), "nosuch.gguf", "a/b/c", "C:\\models", "", str(tmp_path)):
        with pytest.raises(ModelError, match=r"no such folder or file|this is not a model folder"):
            load_causal_lm(name)
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="name the model folder"):
        resolve(tmp_path / "weights.safetensors")
    (tmp_path / "not.gguf").write_bytes(b"GGUX" + bytes(40))
    with pytest.raises(ModelError, match="not a GGUF file"):
        load_causal_lm(tmp_path / "not.gguf")


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="someone/some-model: no such folder here, and not to be had") as caught:
        load_causal_lm("someone/some-model")
    assert "\n" not in str(caught.value)


def test_revisions_are_for_hub_ids(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="has no revisions"):
        load_causal_lm(tiny_folder, revision="main")
    with pytest.raises(ModelError, match="code in a local folder is never run"):
        load_causal_lm(tiny_folder, code_revision="a" * 40)
    for wrong in ("main", "a" * 39, "A" * 40):
        with pytest.raises(ModelError, match="40 hexadecimal digits"):
            load_causal_lm("someone/some-model", code_revision=wrong)


# ---- tokenizer


def test_a_folder_without_tokenizer_or_template(tiny_folder: Path) -> None:
    (tiny_folder / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(tiny_folder)
    with pytest.raises(ModelError, match=r"has no chat template.*chat_template.jinja"):
        require_chat_template(tokenizer, tiny_folder)
    (tiny_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        load_tokenizer(tiny_folder)
    (tiny_folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer \(tokenizer.json\) beside the model"):
        load_tokenizer(tiny_folder)


def test_a_tokenizer_without_end_or_padding(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(tiny_folder / "tokenizer_config.json", pad_token=None)
    with caplog.at_level(logging.WARNING):
        assert load_tokenizer(tiny_folder).pad_token == "<eos>"
    assert "no pad_token; eos_token takes its place" in caplog.text
    edit(tiny_folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no eos_token, so no answer could ever end"):
        load_tokenizer(tiny_folder)


# ---- reward models


def test_a_reward_model_needs_its_head(tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError, match=r"no score head \(score.weight is missing\): a language model"):
        load_reward_model(tiny_folder)
    with caplog.at_level(logging.WARNING):
        model = load_reward_model(tiny_folder, new_head=None, seed=3, head_std=0.02)
    assert "a fresh score head (seed 3, standard deviation 0.02)" in caplog.text
    expected = torch.randn(1, 64, generator=torch.Generator().manual_seed(3)) * 0.02
    assert torch.equal(score_head(model).weight, expected)
    saved = save_result(model, load_tokenizer(tiny_folder), tmp_path / "reward")
    caplog.clear()
    again = load_reward_model(saved, new_head=None)
    assert torch.equal(again(IDS).logits, model(IDS).logits) and not caplog.records
    fresh = load_reward_model(saved, new_head=True, seed=4)
    assert not torch.equal(score_head(fresh).weight, expected) and "in place of its own" in caplog.text
    with pytest.raises(ModelError, match="a reward model or classifier"):
        load_causal_lm(saved)


def test_a_classifier_is_not_a_reward_model(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_reward_model(tiny_folder, new_head=True)
    saved = save_result(model, load_tokenizer(tiny_folder), tmp_path / "two")
    edit_weights(saved, lambda state: state.update({"score.weight": torch.ones(2, 64)}))
    with pytest.raises(ModelError, match=r"score\.weight has shape \[2, 64\], but by config.json it is \[1, 64\]"):
        load_reward_model(saved)


# ---- identity


def test_identity_follows_content_not_place(tiny_folder: Path, tmp_path: Path) -> None:
    first = identity(tiny_folder)
    assert first.startswith("sha256:") and len(first) == 71
    (tiny_folder / "notes.md").write_text("of no account")
    moved = tiny_folder.rename(tmp_path / "elsewhere")
    assert identity(moved) == first
    seen = {first}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        content = (moved / name).read_bytes()
        changed = bytearray(content)
        changed[-3] ^= 1
        (moved / name).write_bytes(changed)
        try:
            seen.add(identity(moved))
        except ModelError:
            assert name == "config.json"
        (moved / name).write_bytes(content)
    assert len(seen) >= 4 and identity(moved) == first


def test_identity_of_gguf_and_adapter(tiny_gguf: Path, tiny_folder: Path, tmp_path: Path) -> None:
    _, adapter = trained_adapter(tiny_folder, tmp_path / "adapter")
    assert len({identity(tiny_gguf), identity(adapter), identity(tiny_folder)}) == 3


# ---- LoRA


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, "alpha": 2.5}, {"targets": ("q_proj",)}])
def test_an_adapter_starts_as_its_base_and_comes_from_its_seed(tiny_folder: Path, settings: dict) -> None:
    base = load_causal_lm(tiny_folder)(IDS).logits
    state = torch.get_rng_state()
    one, two, other = (
        add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=4, **settings), seed=seed) for seed in (7, 7, 8)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (one(IDS).logits - base).abs().max() < 1e-5
    weights = [dict(trainable(model)) for model in (one, two, other)]
    assert all("lora_" in name for name in weights[0])
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    name = next(name for name in weights[0] if "lora_A" in name)
    assert not torch.equal(weights[0][name], weights[2][name])
    with torch.no_grad():
        for parameter in weights[0].values():
            parameter.add_(0.1)
    assert (one(IDS).logits - base).abs().max() > 0.1
    with adapter_off(one):
        assert torch.equal(one(IDS).logits, base)


def test_all_linear_means_every_layer_but_the_head(tiny_folder: Path) -> None:
    names = {n.split(".lora_")[0] for n, _ in trainable(add_lora(load_causal_lm(tiny_folder), LoraConfig(), 0))}
    assert len(names) == 2 * 7 and not any("lm_head" in name for name in names)
    reward = add_lora(load_reward_model(tiny_folder, new_head=True), LoraConfig(), 0)
    assert [n for n, _ in trainable(reward) if "lora_" not in n] == [
        "base_model.model.score.modules_to_save.default.weight"
    ]
    assert score_head(reward).weight.requires_grad


def test_adapter_weights_stay_fp32_on_a_bf16_base(tiny_folder: Path) -> None:
    model = add_lora(load_causal_lm(tiny_folder, dtype=torch.bfloat16), LoraConfig(), 0)
    assert {p.dtype for _, p in trainable(model)} == {torch.float32}
    assert all(p.dtype == torch.bfloat16 for p in model.parameters() if not p.requires_grad)


def test_targets_that_are_not_there_name_the_nearest(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no linear layer called 'q_prj'; did you mean q_proj?"):
        add_lora(load_causal_lm(tiny_folder), LoraConfig(targets=("q_prj",)), 0)
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        add_lora(load_causal_lm(tiny_folder), LoraConfig(targets="nosuch"), 0)


@pytest.mark.skipif(__import__("importlib").util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_four_bits_need_bitsandbytes(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="4bit needs bitsandbytes"):
        load_causal_lm(tiny_folder, quantize="4bit")
    with pytest.raises(ConfigError, match="the model was loaded in full precision"):
        add_lora(load_causal_lm(tiny_folder), LoraConfig(quantize="4bit"), 0)


@pytest.mark.parametrize("reward", [False, True])
def test_an_adapter_folder_loads_as_base_plus_adapter(tiny_folder: Path, tmp_path: Path, reward: bool) -> None:
    answers, folder = trained_adapter(tiny_folder, tmp_path / "adapter", reward=reward)
    load = load_reward_model if reward else load_causal_lm
    model = load(folder)
    assert (model(IDS).logits - answers).abs().max() < 1e-4
    with pytest.raises(ModelError, match="an adapter of a"):
        (load_causal_lm if reward else load_reward_model)(folder)
    with pytest.raises(ModelError, match="an adapter on top of an adapter"):
        add_lora(model, LoraConfig(), 0)


def test_an_adapter_knows_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    _, folder = trained_adapter(tiny_folder, tmp_path / "adapter")
    assert base_of(resolve(folder)).folder == tiny_folder.resolve()
    edit_weights(tiny_folder, lambda state: state["model.norm.weight"].add_(1))
    with pytest.raises(ModelError, match=r"this adapter was trained on sha256:.* now is sha256:"):
        load_causal_lm(folder)
    shutil.rmtree(tiny_folder)
    with pytest.raises(ModelError, match=r"the base model of this adapter cannot be used: .*no such folder"):
        load_causal_lm(folder)


def test_an_adapter_for_another_model_does_not_load(tiny_folder: Path, tmp_path: Path) -> None:
    _, folder = trained_adapter(tiny_folder, tmp_path / "adapter")
    wider = save_tiny(tmp_path / "wider", hidden=96)
    edit(folder / "trueup.json", base=str(wider), base_identity=identity(wider))
    with pytest.raises(ModelError, match="the adapter does not fit its base"):
        load_causal_lm(folder)


def test_tiny_models_save_and_load_as_themselves(tmp_path: Path) -> None:
    for kind in ("llama", "mistral", "gemma2", "qwen2", "gpt2", "bigram"):
        folder = save_tiny(tmp_path / kind, kind=kind, seed=2)
        assert torch.equal(load_causal_lm(folder)(IDS).logits, tiny_model(kind=kind, seed=2)(IDS).logits), kind
