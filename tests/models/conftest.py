"""Small model folders, and a wheel with a small GGUF model in it, all made here."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from trueup.models.tiny import save_tiny

GGUF_NAME = "tiny.Q4_1.gguf"


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def tiny_folder(tiny_original: Path, tmp_path: Path) -> Path:
    """A tiny model folder that the test may damage."""
    return Path(shutil.copytree(tiny_original, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / GGUF_NAME
    write_gguf(path)
    return path


@pytest.fixture(scope="session")
def make_wheel() -> Callable[[Path, bytes], Path]:
    return write_wheel


def write_gguf(path: Path, hidden: int = 64, layers: int = 2, heads: int = 4) -> None:
    """A llama in Q4_1 with a byte-level tokenizer that keeps digits apart, as the bundled model's does."""
    rng = np.random.default_rng(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ĠĠ", "he"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.2, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + values)
            return
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), hidden)
    add("output_norm.weight", hidden)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            add(f"{prefix}{name}.weight", hidden)
        for name in ("attn_q", "attn_output"):
            add(f"{prefix}{name}.weight", hidden, hidden)
        for name in ("attn_k", "attn_v"):
            add(f"{prefix}{name}.weight", hidden // 2, hidden)
        for name in ("ffn_gate", "ffn_up"):
            add(f"{prefix}{name}.weight", 2 * hidden, hidden)
        add(f"{prefix}ffn_down.weight", hidden, 2 * hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf_bytes: bytes) -> Path:
    """A wheel that pip takes, with a GGUF file as its cargo."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trueup_tiny_gguf-1.0-py3-none-any.whl"
    info = "trueup_tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"trueup_tiny_gguf/{GGUF_NAME}", gguf_bytes)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: trueup-tiny-gguf\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
