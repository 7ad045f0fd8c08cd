"""Model folders made to do harm: each is refused with a reason, quickly, and nothing in them is run or unpickled."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trueup.errors import ModelError
from trueup.models.chat import Chat
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.tiny import tiny_model, tiny_tokenizer

FORBIDDEN = {"pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"}

seen: list[str] = []
listening = False


def hook(event: str, arguments: tuple) -> None:
    if listening and event in FORBIDDEN:
        seen.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(hook)


@pytest.fixture
def watched() -> Iterator[None]:
    """Fails the test if anything forbidden happened in it."""
    global listening
    seen.clear()
    listening = True
    yield
    listening = False
    assert seen == []


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


CODE = "import pathlib\npathlib.Path({!r}).write_text('ran')\nclass Config: pass\nclass Model: pass\n"


def header(folder: Path, text: bytes, length: int | None = None, body: bytes = b"") -> None:
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + body)


def change(folder: Path, name: str, **entries) -> None:
    path = folder / name
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **entries}))


def pickled_weights(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Payload(f"touch {mark}")}, folder / "pytorch_model.bin")


def pickle_called_safetensors(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(f"touch {mark}")))


def code_in_config(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(CODE.format(str(mark)))
    change(folder, "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})


def code_in_unknown_type(folder: Path, mark: Path) -> None:
    code_in_config(folder, mark)
    change(folder, "config.json", model_type="evil")


def code_in_part_of_config(folder: Path, mark: Path) -> None:
    change(folder, "config.json", text_config={"auto_map": {"AutoConfig": "other/repo--evil.Config"}})


def code_in_tokenizer(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(CODE.format(str(mark)))
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Config", None]}, tokenizer_class="Evil")


def kernel_by_name(folder: Path, mark: Path) -> None:
    change(folder, "config.json", attn_implementation="evil/kernel")


def expert_kernel_by_name(folder: Path, mark: Path) -> None:
    change(folder, "config.json", text_config={"_experts_implementation": {"": "evil/kernel@main"}})


def giant_header_length(folder: Path, mark: Path) -> None:
    header(folder, b"{}", length=2**63)


def header_of_100_megabytes(folder: Path, mark: Path) -> None:
    header(folder, b"{", length=100_000_001)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(120_000_000)  # sparse


def header_that_is_no_json(folder: Path, mark: Path) -> None:
    header(folder, b"import os;")


def tensor_beyond_the_end(folder: Path, mark: Path) -> None:
    entry = {"model.norm.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header(folder, json.dumps(entry).encode(), body=bytes(16))


def tensors_that_overlap(folder: Path, mark: Path) -> None:
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header(folder, json.dumps({"a": one, "b": one}).encode(), body=bytes(16))


def shape_that_overflows(folder: Path, mark: Path) -> None:
    entry = {"a": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 16]}}
    header(folder, json.dumps(entry).encode(), body=bytes(16))


def weights_linked_out(folder: Path, mark: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def template_linked_to_a_secret(folder: Path, mark: Path) -> None:
    secret = folder.parent / "id_secret"
    secret.write_text("very secret")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").symlink_to("../id_secret")


def tokenizer_that_never_ends(folder: Path, mark: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")


def config_that_never_ends(folder: Path, mark: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def pipe_for_weights(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def link_to_itself(folder: Path, mark: Path) -> None:
    (folder / "extra.json").symlink_to("extra.json")


def index(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, mark: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        torch.save({"a": Payload(f"touch {mark}")}, folder / "evil.bin")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    make.__name__ = f"index naming {name}"
    return make


def index_of_numbers(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": [1]}}')


def a_thousand_million_layers(folder: Path, mark: Path) -> None:
    change(folder, "config.json", num_hidden_layers=10**9)


def a_huge_vocabulary(folder: Path, mark: Path) -> None:
    change(folder, "config.json", vocab_size=10**11)


def a_huge_config(folder: Path, mark: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 32)  # sparse


def deep_config(folder: Path, mark: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000)


def adapter(**settings) -> Callable[[Path, Path], None]:
    def make(folder: Path, mark: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        torch.save({"a": Payload(f"touch {mark}")}, folder / "adapter_model.bin")
        change(folder, "adapter_config.json", **{"peft_type": "LORA", "task_type": "CAUSAL_LM", **settings})

    make.__name__ = f"adapter {settings}"
    return make


def adapter_that_imports(folder: Path, mark: Path) -> None:
    adapter(megatron_config={"a": 1}, megatron_core="evil")(folder, mark)


def adapter_of_itself(folder: Path, mark: Path) -> None:
    adapter(base_model_name_or_path=str(folder))(folder, mark)
    header(folder, b"{}")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


MADE = [
    pickled_weights, pickle_called_safetensors, code_in_config, code_in_unknown_type, code_in_part_of_config,
    code_in_tokenizer, kernel_by_name, expert_kernel_by_name, giant_header_length, header_of_100_megabytes,
    header_that_is_no_json, tensor_beyond_the_end, tensors_that_overlap, shape_that_overflows, weights_linked_out,
    template_linked_to_a_secret, tokenizer_that_never_ends, config_that_never_ends, pipe_for_weights, link_to_itself,
    index("../outside.safetensors"), index("/etc/passwd"), index("evil.bin"), index("nosuch.safetensors"),
    index_of_numbers, a_thousand_million_layers, a_huge_vocabulary, a_huge_config, deep_config, adapter(),
    adapter(peft_type="X_EVIL"), adapter_that_imports, adapter_of_itself,
]  # fmt: skip


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_it_is_refused_with_a_reason_and_nothing_runs(make, tiny_folder: Path, tmp_path: Path, watched) -> None:
    mark = tmp_path / "mark"
    make(tiny_folder, mark)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        load_causal_lm(tiny_folder)
    assert time.perf_counter() - begun < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB
    assert not mark.exists()
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path) in text and len(text) < 700


@pytest.mark.parametrize("make", [kernel_by_name, expert_kernel_by_name, adapter_that_imports])
def test_code_named_in_a_config_is_refused_by_us(make, tiny_folder: Path, tmp_path: Path, watched) -> None:
    """Not because the package that would fetch it happens to be absent."""
    make(tiny_folder, tmp_path / "mark")
    with pytest.raises(ModelError, match="would load code; remove that entry"):
        load_causal_lm(tiny_folder)


@pytest.mark.parametrize("make", [code_in_tokenizer, template_linked_to_a_secret, tokenizer_that_never_ends])
def test_the_tokenizer_alone_is_refused_too(make, tiny_folder: Path, tmp_path: Path, watched) -> None:
    make(tiny_folder, tmp_path / "mark")
    with pytest.raises(ModelError):
        load_tokenizer(tiny_folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [
    b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60),
    b"GGUF" + struct.pack("<IQQ", 9, 1, 1), b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"\xff" * 64,
    b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(64),
])  # fmt: skip
def test_a_gguf_file_that_lies(content: bytes, tmp_path: Path, watched) -> None:
    (tmp_path / "evil.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="GGUF"):
        load_causal_lm(tmp_path / "evil.gguf")


def test_a_gguf_file_cut_short(tiny_gguf: Path, tmp_path: Path, watched) -> None:
    whole = tiny_gguf.read_bytes()
    for size in (30, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cannot be read as GGUF|not a GGUF|damaged GGUF"):
            load_causal_lm(tmp_path / "cut.gguf")


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ messages.append(1) }}",
    "{% for x in",
])  # fmt: skip
def test_a_chat_template_cannot_reach_out(template: str, watched) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template refuses"):
        list(Chat(tiny_model(), tokenizer).reply([{"role": "user", "content": "hi"}], 4))


def test_the_watch_itself_works(tmp_path: Path) -> None:
    """The same payload does run where pickle is let in; otherwise the tests above would prove nothing."""
    global listening
    seen.clear()
    listening = True
    pickle.loads(pickle.dumps(Payload(f"touch {tmp_path / 'mark'}")))
    listening = False
    assert (tmp_path / "mark").exists()
    assert [event.split()[0] for event in seen] == ["pickle.find_class", "os.system"]
