"""Results load in plain transformers, in a process that knows nothing of us; what is written is what was trained."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trueup.config import LoraConfig
from trueup.errors import ResourceError, RunError, TrueupError
from trueup.models import save
from trueup.models.load import add_lora, load_causal_lm, load_reward_model, load_tokenizer, trainable
from trueup.models.policy import Policy
from trueup.models.save import save_result
from trueup.models.source import identity
from trueup.models.tiny import tiny_model, tiny_tokenizer

IDS = torch.arange(4, 40)[None]

PLAIN = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trueup":
            raise ImportError("trueup is not here")
sys.meta_path.insert(0, Wall())
import json, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
answers = {}
for folder in sys.argv[1:]:
    reward = "reward" in folder
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    labels = {"num_labels": 1} if reward and "adapter" in folder else {}
    model = auto.from_pretrained(folder, **labels).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        out = model(input_ids=torch.arange(4, 40)[None]).logits
        batch = model(input_ids=torch.arange(4, 44).view(2, 20)).logits
    answers[folder] = {
        "sum": out.double().abs().sum().item(), "first": out.flatten()[:3].tolist(), "rows": len(batch),
        "prompt": tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False,
                                                add_generation_prompt=True),
        "dtype": str(model.dtype), "pad": model.config.pad_token_id,
    }
print(json.dumps(answers))
"""


def changed(model, seed: int = 0):
    """The model after some training, so that nothing is left of its initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable(model):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


def test_every_kind_of_result_loads_in_plain_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    models = {
        "full": changed(load_causal_lm(tiny_folder)),
        "reward": changed(load_reward_model(tiny_folder, new_head=True)),
        "adapter": changed(add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=4), 0)),
        "reward-adapter": changed(add_lora(load_reward_model(tiny_folder, new_head=True), LoraConfig(rank=4), 0)),
        "gpt2": changed(tiny_model(kind="gpt2")),
    }
    models["full"].config.pad_token_id = None  # as many published models have it
    folders = {name: save_result(model, tokenizer, tmp_path / name) for name, model in models.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, *map(str, folders.values())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for name, model in models.items():
        ours, theirs = model(input_ids=IDS).logits, answers[str(folders[name])]
        assert theirs["sum"] == pytest.approx(ours.double().abs().sum().item(), rel=1e-5), name
        assert theirs["first"] == pytest.approx(ours.flatten()[:3].tolist(), abs=1e-4), name
        assert theirs["rows"] == 2 and theirs["dtype"] == "torch.float32", name
        assert theirs["prompt"] == "<bos>user\nhi<eos>\n<bos>assistant\n", name
        if name == "full":
            assert theirs["pad"] == tokenizer.pad_token_id


def test_precision_of_the_written_weights(tiny_folder: Path, tmp_path: Path) -> None:
    model = changed(load_causal_lm(tiny_folder))
    folder = save_result(model, tiny_tokenizer(), tmp_path / "half", dtype=torch.bfloat16)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert model.dtype == torch.float32
    lora = add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=4), 0)
    folder = save_result(lora, tiny_tokenizer(), tmp_path / "lora", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(folder / "adapter_model.safetensors").values()} == {torch.bfloat16}


def test_the_reward_head_is_saved_and_gives_the_same_scores(tiny_folder: Path, tmp_path: Path) -> None:
    model = changed(load_reward_model(tiny_folder, new_head=True))
    again = load_reward_model(save_result(model, tiny_tokenizer(), tmp_path / "reward"))
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    lora = changed(add_lora(load_reward_model(tiny_folder, new_head=True), LoraConfig(rank=4), 0))
    folder = save_result(lora, tiny_tokenizer(), tmp_path / "adapter")
    assert "base_model.model.score.weight" in load_file(folder / "adapter_model.safetensors")
    assert (load_reward_model(folder)(IDS).logits - lora(IDS).logits).abs().max() < 1e-5


def test_our_attention_leaves_no_trace(tiny_folder: Path, tmp_path: Path) -> None:
    policy = Policy(load_causal_lm(tiny_folder), 0, "shared")
    folder = save_result(policy.model, tiny_tokenizer(), tmp_path / "out")
    assert "trueup" not in (folder / "config.json").read_text()
    assert load_causal_lm(folder).config._attn_implementation == "sdpa"


def test_an_adapter_tells_its_base_and_is_written_the_same_way_twice(tiny_folder: Path, tmp_path: Path) -> None:
    def make(name: str) -> Path:
        return save_result(add_lora(load_causal_lm(tiny_folder), LoraConfig(), 0), tiny_tokenizer(), tmp_path / name)

    one, two = make("one"), make("two")
    origin = json.loads((one / "trueup.json").read_text())
    assert origin == {"base": str(tiny_folder.resolve()), "revision": None, "base_identity": identity(tiny_folder)}
    assert json.loads((one / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_folder)
    assert identity(one) == identity(two)
    assert not (one / "README.md").exists()


def test_answers_end_where_the_tokenizer_ends(tiny_folder: Path, tmp_path: Path, caplog) -> None:
    model = load_causal_lm(tiny_folder)
    model.generation_config.eos_token_id = [99]
    model.generation_config.temperature = 0.5  # contradicts do_sample=False, as in some published models
    model.generation_config.do_sample = False
    with caplog.at_level(logging.WARNING):
        folder = save_result(model, tiny_tokenizer(), tmp_path / "out")
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["eos_token_id"] == [99, 2] and written["do_sample"] is True
    assert "contradicts itself" in caplog.text


def test_what_differs_after_reading_back_is_not_published(tiny_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """The comparison is real: a file spoilt between writing and reading back is caught, for each kind of result."""
    for model in (load_causal_lm(tiny_folder), changed(add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=2), 0))):
        write = type(model).save_pretrained

        def spoil(self, folder, write=write, **arguments) -> None:
            write(self, folder, **arguments)
            path = next(Path(folder).glob("*model.safetensors"))
            state = load_file(path)
            next(iter(state.values())).flatten()[0] += 1e-3
            save_file(state, path, metadata={"format": "pt"})

        with monkeypatch.context() as patch:
            patch.setattr(type(model), "save_pretrained", spoil)
            with pytest.raises(TrueupError, match="differs from the trained model after reading it back"):
                save_result(model, tiny_tokenizer(), tmp_path / "out")
        assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


def test_bits_are_compared_not_values() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.zeros(1)
    assert save._same_bits(nan, nan.clone())
    assert not save._same_bits(zero, -zero) and not save._same_bits(zero, zero.double())


def test_a_full_disk_keeps_the_old_result(tiny_folder: Path, tmp_path: Path) -> None:
    out = save_result(load_causal_lm(tiny_folder), tiny_tokenizer(), tmp_path / "out")
    before = identity(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ResourceError, match="out: the disk is full"):
            save_result(changed(load_causal_lm(tiny_folder)), tiny_tokenizer(), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert identity(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tiny"]
    save_result(changed(load_causal_lm(tiny_folder)), tiny_tokenizer(), out)
    assert identity(out) != before
    with pytest.raises(RunError, match="exists already"):
        save_result(load_causal_lm(tiny_folder), tiny_tokenizer(), out, replace=False)
