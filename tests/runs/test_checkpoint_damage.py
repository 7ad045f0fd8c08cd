"""Damage after the fact: flipped bits, cut files, hostile files, and a disk that refuses."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from faults import count_calls, failing_at, in_child, loaded_step, names, same, tensors

from trueup.errors import ResourceError, RunError
from trueup.runs.checkpoint import latest_checkpoint, load_checkpoint, load_latest, save_checkpoint
from trueup.runs.encode import canonical


def save(folder, step):
    return save_checkpoint(folder, step, tensors(step), {"cursor": step})


@pytest.fixture
def two(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    save(folder, 2)
    return folder


def detected(folder, damaged):
    """The message, after a check that the damage was seen and that the older checkpoint is used instead."""
    with pytest.raises(RunError) as caught:
        load_checkpoint(damaged)
    found, skipped = load_latest(folder)
    assert found is not None and found.step == 1 and same(found.tensors, tensors(1))
    assert len(skipped) == 1 and str(damaged) in skipped[0]
    return str(caught.value)


def test_two_hundred_flips_and_cuts_are_all_detected(two):
    rng = random.Random(3)
    damaged = two / "step-000002"
    clean = {p.name: p.read_bytes() for p in damaged.iterdir()}
    for trial in range(200):
        name = rng.choice(sorted(clean))
        raw = bytearray(clean[name])
        if trial % 2:
            where = rng.randrange(len(raw))
            raw[where] ^= 1 << rng.randrange(8)
        else:
            del raw[rng.randrange(len(raw)) :]
        (damaged / name).write_bytes(raw)
        message = detected(two, damaged)
        assert str(damaged / name) in message
        assert "step-000001 is the newest usable older checkpoint" in message
        if trial % 2 and name != "MANIFEST.json":
            actual, expected = hashlib.sha256(raw).hexdigest(), hashlib.sha256(clean[name]).hexdigest()
            assert f"sha256 is {actual}, the manifest says {expected}" in message
        (damaged / name).write_bytes(clean[name])
    assert loaded_step(two) == 2


def test_every_byte_of_a_manifest_counts(two):
    path = two / "step-000002" / "MANIFEST.json"
    clean = path.read_bytes()
    for where in range(len(clean)):
        raw = bytearray(clean)
        raw[where] ^= 1 << where % 8
        path.write_bytes(raw)
        assert latest_checkpoint(two)[0] == two / "step-000001", where


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_missing_file_is_named(two, name):
    (two / "step-000002" / name).unlink()
    assert f"{two / 'step-000002' / name}: missing" in detected(two, two / "step-000002")


def test_files_of_another_checkpoint_do_not_mix_in(two):
    shutil.copy(two / "step-000001" / "weights.safetensors", two / "step-000002" / "weights.safetensors")
    assert "weights.safetensors: damaged: sha256" in detected(two, two / "step-000002")


def test_a_renamed_checkpoint_is_refused(two):
    (two / "step-000002").rename(two / "step-000003")
    assert "it is of step 2, the folder of step 3" in detected(two, two / "step-000003")


def test_no_checkpoint_left_is_said(two):
    for step in (1, 2):
        (two / f"step-00000{step}" / "MANIFEST.json").write_bytes(b"{}")
    with pytest.raises(RunError, match="no older checkpoint is usable"):
        load_checkpoint(two / "step-000002")
    found, skipped = load_latest(two)
    assert found is None and len(skipped) == 2
    assert latest_checkpoint(two)[0] is None


def test_not_a_checkpoint_folder(tmp_path):
    with pytest.raises(RunError, match="model: not a checkpoint folder"):
        load_checkpoint(tmp_path / "model")


# ---------------------------------------------------------------------------------------------- a disk that refuses


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_each_call_of_a_save_refused(two, tmp_path, number):
    probe = tmp_path / "probe"
    shutil.copytree(two, probe)
    calls = count_calls(lambda: save(probe, 3))
    for point in range(1, calls + 1):
        folder = tmp_path / str(point)
        shutil.copytree(two, folder)
        with failing_at(point, number), pytest.raises(ResourceError, match=r"while saving a checkpoint .* free\)"):
            save(folder, 3)
        assert loaded_step(folder) in (2, 3)
        assert not [n for n in names(folder) if ".tmp-" in n]
        save(folder, 3)
        assert loaded_step(folder) == 3
        shutil.rmtree(folder)


def test_a_really_full_disk(two, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        folder = mount / "checkpoints"
        save(folder, 1)
        big = {"weights": {"w": torch.zeros(1 << 17)}}
        with pytest.raises(ResourceError, match=r"the disk is full while saving a checkpoint .* MiB free"):
            save_checkpoint(folder, 2, big, {})
        assert names(folder) == ["step-000001"]
        assert loaded_step(folder) == 1
        save(folder, 2)
        assert loaded_step(folder) == 2
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_real_file_size_limit(two):
    for limit in (1, 600, 1000, 1400):

        def work(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(ResourceError, match="size limit of this system while saving a checkpoint"):
                save(two, 3)
            assert names(two) == ["step-000001", "step-000002"]

        assert in_child(work) == 0
    assert loaded_step(two) == 2


def test_a_real_read_only_folder():
    def work():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        with pytest.raises(ResourceError, match="permission denied while saving a checkpoint"):
            save(folder, 3)
        assert loaded_step(folder) == 2

    with tempfile.TemporaryDirectory() as place:  # not tmp_path: pytest closes that one to other users
        os.chmod(place, 0o755)
        folder = Path(place) / "checkpoints"
        save(folder, 2)
        folder.chmod(0o555)
        assert in_child(work) == 0
        folder.chmod(0o755)


# ------------------------------------------------------------------------------------------------- hostile files

_audited: list[str] = []
_listening = False


def _listen(event, _):
    if _listening and event in ("pickle.find_class", "os.system", "subprocess.Popen", "exec", "os.exec"):
        _audited.append(event)


sys.addaudithook(_listen)


@contextlib.contextmanager
def no_code_runs():
    """Fails if a class is looked up for a pickle, code is run or a process is started inside."""
    global _listening
    _audited.clear()
    _listening = True
    try:
        yield
    finally:
        _listening = False
    assert _audited == []


class Evil:
    def __reduce__(self):
        return os.system, ("echo owned",)


def forge(path, change):
    """Puts other files into a checkpoint, with a manifest that fits them."""
    files = {p.name: p for p in path.iterdir() if p.name != "MANIFEST.json"}
    change(path)
    entries = {}
    for name in files:
        raw = (path / name).read_bytes()
        entries[name] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    forge_manifest(path, entries)


def forge_manifest(path, entries):
    body = {"schema": 1, "step": 2, "files": entries}
    sealed = {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
    (path / "MANIFEST.json").write_bytes(canonical(sealed) + b"\n")


def torch_pickle():
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, stream)
    return stream.getvalue()


def header(text, body=b""):
    return len(text).to_bytes(8, "little") + text + body


HOSTILE = {
    "a pickle": (pickle.dumps(Evil()), "pickle"),
    "torch.save": (torch_pickle(), "pickle"),
    "nothing": (b"", "not a safetensors file"),
    "a giant header length": ((1 << 60).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    "a giant header": (header(b"{" + b" " * (20 << 20) + b"}"), "refused: a header of 20,971,522 bytes"),
    "a deep header": (header(b"[" * 200_000), "nested too deeply"),
    "not an object": (header(b"[]"), "no object"),
    "offsets outside": (header(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "not a usable safetensors"),
    "a shape that overflows": (
        header(b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"1234"),
        "not a usable safetensors",
    ),
    "overlap": (
        header(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
            b"123456",
        ),
        "not a usable safetensors",
    ),
    "a key twice": (header(b'{"a":1,"a":2}'), "the same key twice"),
    "not UTF-8": (header(b'{"\xff":1}'), "not a safetensors file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tensor_files_are_refused_with_a_reason(two, kind):
    raw, message = HOSTILE[kind]
    path = two / "step-000002"
    forge(path, lambda p: (p / "weights.safetensors").write_bytes(raw))

    def work():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        with no_code_runs(), pytest.raises(RunError, match=re.escape(message)) as caught:
            load_checkpoint(path)
        assert str(path / "weights.safetensors") in str(caught.value)
        assert time.perf_counter() - begun < 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10

    assert in_child(work) == 0
    assert detected(two, path)


@pytest.mark.parametrize(
    "name",
    ["../step-000001/state.json", "/etc/passwd", "weights.pt", ".hidden.safetensors", "a/b.safetensors", "", ".."],
)
def test_a_manifest_cannot_point_elsewhere(two, name):
    path = two / "step-000002"
    entries = json.loads((path / "MANIFEST.json").read_bytes())["files"]
    forge_manifest(path, {**entries, name: {"sha256": "0" * 64, "size": 0}})
    assert f"refused: {name!r} is no file that a checkpoint holds" in detected(two, path)


def test_symbolic_links_are_refused(two, tmp_path):
    path = two / "step-000002"
    shutil.move(path / "weights.safetensors", tmp_path / "elsewhere")
    (path / "weights.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "weights.safetensors: refused: not a plain file" in detected(two, path)
    (two / "step-000003").symlink_to(two / "step-000001")
    found, skipped = load_latest(two)
    assert found is not None and found.step == 1
    assert "step-000003: refused: a symbolic link" in skipped[0]


def test_a_pipe_does_not_hang_the_reader(two):
    path = two / "step-000002"
    (path / "weights.safetensors").unlink()
    os.mkfifo(path / "weights.safetensors")
    assert "refused: not a plain file" in detected(two, path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not usable"),
        (b"[]", "not usable"),
        (b"null", "not usable"),
        (b'{"schema":1}', "not usable"),
        (b'{"schema":2,"step":2,"files":{}}', "schema 2; this trueup reads schema 1"),
        (b'{"schema":1,"step":2,"files":[]}', "not usable"),
        (b'{"schema":1,"step":2,"files":{}}', "altered"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (2 << 20), "refused: 2,097,152 bytes"),
        (pickle.dumps(Evil()), "not usable"),
        (b'{"schema":1,"step":NaN,"files":{}}', "NaN is not JSON"),
    ],
)
def test_hostile_manifests(two, raw, message):
    path = two / "step-000002"
    (path / "MANIFEST.json").write_bytes(raw)
    with no_code_runs():
        assert message in detected(two, path)


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"7", b'{"step":2}', b"[" * 50_000, b'{"step":3,"meta":{}}', b"\xff"])
def test_hostile_states(two, raw):
    path = two / "step-000002"
    forge(path, lambda p: (p / "state.json").write_bytes(raw))
    assert str(path / "state.json") in detected(two, path)
