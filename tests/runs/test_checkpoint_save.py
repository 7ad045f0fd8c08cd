"""Checkpoints as they should be: what is saved comes back to the bit, and nothing is ever overwritten."""

import hashlib
import json
import os
import struct

import pytest
import torch
from faults import in_child, loaded_step, names, same, tensors
from safetensors.torch import load_file

from trueup.errors import RunError, TrueupError
from trueup.runs import tensorfile
from trueup.runs.checkpoint import latest_checkpoint, load_checkpoint, load_latest, prune, save_checkpoint

ODD = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
    "strided": torch.arange(20.0)[::3],
    "one of a stride": torch.arange(20.0)[::30],
    "expanded": torch.ones(1).expand(4),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
    "flag": torch.tensor([True, False]),
    "bf16": torch.tensor([1.5, -0.0, float("nan")]).to(torch.bfloat16),
    "half": torch.tensor([65504.0]).half(),
    "f64": torch.tensor([0.1], dtype=torch.float64),
    "i64": torch.tensor([-(2**63), 2**63 - 1]),
    "u8": torch.arange(5, dtype=torch.uint8),
    "grad": torch.nn.Parameter(torch.ones(2)),
    "näme //with odd.chars": torch.ones(1),
}


def save(folder, step):
    return save_checkpoint(folder, step, tensors(step), {"cursor": step})


def test_everything_comes_back_to_the_bit(tmp_path):
    meta = {
        "float": 0.1 + 0.2,
        "tiny": 5e-324,
        "big": 2**80,
        "text": "é\u2028",
        "none": None,
        "list": [1, [2.5]],
        "t": (1,),
    }
    path = save_checkpoint(tmp_path / "a" / "checkpoints", 123, {"weights": ODD, "optimizer": {}}, meta)
    assert path == tmp_path / "a" / "checkpoints" / "step-000123"
    assert names(path) == ["MANIFEST.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
    found = load_checkpoint(path)
    assert found.step == 123
    assert found.meta == {**meta, "t": [1]}
    assert same(found.tensors, {"weights": {k: v.detach() for k, v in ODD.items()}, "optimizer": {}})


def test_the_files_are_ordinary_safetensors_with_aligned_data(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"weights": ODD}, {}) / "weights.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert length % 8 == 0
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % ODD[name].element_size() == 0, name
    assert load_file(path).keys() == ODD.keys()


def test_the_manifest_tells_the_truth(tmp_path):
    path = save(tmp_path, 7)
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    assert manifest["schema"] == 1 and manifest["step"] == 7
    assert sorted(manifest["files"]) == sorted(n for n in names(path) if n != "MANIFEST.json")
    for name, entry in manifest["files"].items():
        raw = (path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}


def test_equal_states_give_equal_bytes(tmp_path):
    one, other = save(tmp_path / "1", 5), save(tmp_path / "2", 5)
    for name in names(one):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_saving_the_same_again_changes_nothing(tmp_path):
    path = save(tmp_path, 5)
    before = {n: (path / n).stat().st_mtime_ns for n in names(path)}
    assert save(tmp_path, 5) == path
    assert {n: (path / n).stat().st_mtime_ns for n in names(path)} == before
    assert names(tmp_path) == ["step-000005"]


@pytest.mark.parametrize("part", ["tensor", "meta", "group"])
def test_a_valid_checkpoint_is_never_overwritten(tmp_path, part):
    save(tmp_path, 5)
    state, meta = tensors(5), {"cursor": 5}
    if part == "tensor":
        state["weights"]["b"][0] += 1
    elif part == "meta":
        meta["cursor"] = 6
    else:
        del state["rng"]
    with pytest.raises(RunError, match=r"step-000005: a valid checkpoint of this step holds other content .* --out"):
        save_checkpoint(tmp_path, 5, state, meta)
    assert loaded_step(tmp_path) == 5
    assert names(tmp_path) == ["step-000005"]


def test_a_damaged_one_is_moved_aside(tmp_path):
    for number in (1, 2):
        path = save(tmp_path, 5)
        os.truncate(path / "state.json", 3)
        save(tmp_path, 5)
        assert loaded_step(tmp_path) == 5
        assert f"step-000005.damaged-{number}" in names(tmp_path)
    assert names(tmp_path) == ["step-000005", "step-000005.damaged-1", "step-000005.damaged-2"]


def test_only_leftovers_of_the_dead_are_removed(tmp_path):
    dead = _a_dead_pid()
    for pid in (dead, os.getpid(), os.getppid(), 1):
        folder = tmp_path / f"step-000001.tmp-{pid}-abcd"
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "notes.tmp-x-y").touch()
    save(tmp_path, 2)
    living = {f"step-000001.tmp-{pid}-abcd" for pid in (os.getppid(), 1)} - {f"step-000001.tmp-{os.getpid()}-abcd"}
    assert set(names(tmp_path)) == living | {"notes.tmp-x-y", "step-000002"}
    assert loaded_step(tmp_path) == 2


def _a_dead_pid():
    read, write = os.pipe()
    assert in_child(lambda: os.write(write, str(os.getpid()).encode())) == 0
    pid = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return pid


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])
    assert latest_checkpoint(tmp_path) == (None, [])
    assert load_latest(tmp_path) == (None, [])


def test_newest_by_number_not_by_name_or_time(tmp_path):
    for step in (1_000_000, 2, 999_999):
        save(tmp_path, step)
    assert latest_checkpoint(tmp_path) == (tmp_path / "step-1000000", [])
    assert loaded_step(tmp_path) == 1_000_000


def test_prune_keeps_the_newest_the_protected_and_the_damaged(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step)
    (tmp_path / "step-000007" / "MANIFEST.json").unlink()
    gone = prune(tmp_path, 2, protect=[1, tmp_path / "step-000003"])
    assert [p.name for p in gone] == ["step-000004", "step-000002"]
    assert names(tmp_path) == ["step-000001", "step-000003", "step-000005", "step-000006", "step-000007"]
    assert prune(tmp_path, 2, protect=[1, 3]) == []
    with pytest.raises(TrueupError, match="at least one"):
        prune(tmp_path, 0)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"best": float("nan")}, "best: nan cannot be written"),
        ({"a": {"b": [1.0, float("inf")]}}, r"a\.b\[1\]: inf cannot be written"),
        ({"a": {1: 2}}, "a: key 1 is not a string"),
        ({"a": {1, 2}}, "a: set cannot be written"),
        ({"a": torch.ones(2)}, "a: Tensor cannot be written"),
    ],
)
def test_meta_must_survive_json_unchanged(tmp_path, meta, message):
    with pytest.raises(TrueupError, match=message):
        save_checkpoint(tmp_path / "new", 1, tensors(1), meta)
    assert not (tmp_path / "new").exists()


def test_what_safetensors_cannot_hold_is_refused_before_the_folder_counts(tmp_path):
    with pytest.raises(TrueupError, match=r"tensor z: torch\.complex64 cannot be stored"):
        save_checkpoint(tmp_path, 1, {"weights": {"z": torch.zeros(1, dtype=torch.complex64)}}, {})
    with pytest.raises(TrueupError, match=r"group '\.\./x'"):
        save_checkpoint(tmp_path, 1, {"../x": {}}, {})
    assert names(tmp_path) == []


def test_streaming_and_hashing_agree(tmp_path):
    big = {"w": torch.arange(3 << 20, dtype=torch.float32)}
    assert tensorfile.write(tmp_path / "x", tensorfile.pieces(big)) == tensorfile.digest(tensorfile.pieces(big))
    assert max(len(p) for p in tensorfile.pieces(big)) == 4 << 20
