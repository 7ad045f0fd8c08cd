"""The run folder: made whole or not at all, held by one process, and checked when opened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from faults import count_calls, failing_at, in_child, killed_at, names, start

from trueup.errors import ResourceError, RunError, TrainingError, TrueupError
from trueup.runs.encode import hash_file, hash_files, hash_json
from trueup.runs.environment import command_line, environment
from trueup.runs.folder import RunFolder, read_run, write_json, write_yaml
from trueup.runs.sinks import SINKS

CONFIG = {
    "method": "dpo",
    "model": {"path": "bundled:smollm2-135m-instruct", "revision": None},
    "train": {"lr": 1e-6, "betas": (0.9, 0.95), "max_steps": 10**12},
    "odd": ["yes", "1e-6", "null", "~", "", " x ", "é\u2028\x07", "a: b", "2020-01-01", "0x1F", "1_000"],
}
MANIFEST = {"hashes": {"data": "ab", "model": "cd"}, "seeds": {"train": 0}}


def make(path):
    RunFolder.create(path, CONFIG, MANIFEST).close()


def test_layout_and_round_trip(tmp_path):
    path = tmp_path / "deep" / "run"
    with RunFolder.create(path, CONFIG, MANIFEST) as run:
        assert names(path) == [".lock", "checkpoints", "config.yaml", "manifest.json"]
        assert run.metrics == path / "metrics.jsonl" and run.model == path / "model"
        created = run.config, run.manifest
    with RunFolder.open(path) as run:
        assert (run.config, run.manifest) == created
    assert created[0] == {**CONFIG, "train": {**CONFIG["train"], "betas": [0.9, 0.95]}}
    assert yaml.safe_load((path / "config.yaml").read_text()) == created[0]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["hashes"] == MANIFEST["hashes"] and manifest["seeds"] == {"train": 0}
    assert manifest["config_sha256"] == hash_json(created[0])
    assert set(manifest["versions"]) >= {"python", "trueup", "torch", "transformers", "peft", "safetensors"}
    assert manifest["platform"]["cpus"] >= 1
    assert read_run(path) == created


@pytest.mark.parametrize("what", ["file.txt", "config.yaml", ".hidden", "checkpoints", "model/"])
def test_a_folder_that_is_not_empty_is_refused_and_untouched(tmp_path, what):
    path = tmp_path / "run"
    path.mkdir()
    if what.endswith("/"):
        (path / what).mkdir()
    else:
        (path / what).write_text("mine")
    before = names(path)
    with pytest.raises(RunError, match=r"run: the folder is not empty \(it holds .*\); choose another --out"):
        make(path)
    assert names(path) == before


def test_an_existing_run_is_refused_with_the_way_on(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(RunError, match="a run is there already; choose another --out, or go on with `trueup resume"):
        make(tmp_path / "run")
    with RunFolder.open(tmp_path / "run"):
        pass


def test_an_empty_folder_is_fine_and_a_file_or_closed_place_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot be made: .*; choose another --out"):
            make(path)
    with pytest.raises(RunError, match="cannot be made"):
        make(tmp_path / ("x" * 300))


def test_killed_at_every_call_of_create_then_made_again(tmp_path):
    calls = count_calls(lambda: make(tmp_path / "probe" / "run"))
    halves = 0
    for point in range(1, calls + 1):
        for how in ("before", "torn", "after"):
            path = tmp_path / f"{point}-{how}" / "run"
            assert killed_at(point, how, lambda path=path: make(path)) == -signal.SIGKILL
            try:
                with RunFolder.open(path) as run:
                    assert run.config["method"] == "dpo"
                continue
            except RunError as error:
                halves += 1
                assert "interrupted" in str(error) or "not a run folder" in str(error) or "no such folder" in str(error)
            make(path)
            assert names(path) == [".lock", "checkpoints", "config.yaml", "manifest.json"]
            with RunFolder.open(path):
                pass
    assert halves > 20


def test_create_refused_at_every_call_leaves_nothing(tmp_path):
    calls = count_calls(lambda: make(tmp_path / "probe" / "run"))
    for point in range(1, calls + 1):
        path = tmp_path / str(point) / "run"
        with failing_at(point, 28), pytest.raises((ResourceError, RunError)) as caught:
            make(path)
        assert "\n" not in str(caught.value)
        assert not path.exists() or "manifest.json" in names(path), point


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: (p / "manifest.json").unlink(), "making this run folder was interrupted"),
        (lambda p: (p / "config.yaml").unlink(), r"config\.yaml: missing"),
        (lambda p: os.truncate(p / "manifest.json", 20), r"manifest\.json: damaged"),
        (lambda p: (p / "manifest.json").write_text("[]"), r"manifest\.json: damaged: it holds a list"),
        (lambda p: (p / "manifest.json").write_text('{"schema": 7}'), r"schema 7, .* this trueup reads schema 1"),
        (lambda p: (p / "config.yaml").write_text("a: [1"), r"config\.yaml: damaged"),
        (lambda p: (p / "config.yaml").write_text("a: !!python/object:os.system {}"), r"config\.yaml: damaged"),
        (lambda p: (p / "config.yaml").write_bytes(b"\xff\xfe\x00"), r"config\.yaml: damaged"),
        (lambda p: (p / "config.yaml").write_text("method: kto"), r"config\.yaml: changed since the run was started"),
    ],
)
def test_a_spoilt_run_folder_is_named(tmp_path, change, message):
    path = tmp_path / "run"
    make(path)
    change(path)
    with pytest.raises(RunError, match=message) as caught:
        RunFolder.open(path)
    assert "\n" not in str(caught.value)


def test_no_run_there(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        RunFolder.open(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="not a folder"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(RunError, match=r"not a run folder \(no manifest\.json\)"):
        RunFolder.open(tmp_path)
    assert names(tmp_path) == ["file"]


HOLD = """
import sys, time
from trueup.runs.folder import RunFolder
run = RunFolder.open(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path):
    make(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for door in (RunFolder.open, make):
            with pytest.raises(
                RunError, match=rf"in use by another process \(pid {holder.pid}\)|a run is there already"
            ):
                door(tmp_path / "run")
        with pytest.raises(RunError, match=rf"in use by another process \(pid {holder.pid}\)"):
            RunFolder.open(tmp_path / "run")
        holder.kill()
    with RunFolder.open(tmp_path / "run"):
        pass


def test_of_eight_that_create_at_once_one_wins(tmp_path):
    def work():
        try:
            run = RunFolder.create(tmp_path / "run", CONFIG, MANIFEST)
        except RunError:
            os._exit(7)
        time.sleep(0.5)
        run.close()

    pids = [start(work) for _ in range(8)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0] + [7] * 7
    with RunFolder.open(tmp_path / "run"):
        pass


def test_atomic_writes_show_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "audit.json"
    write_json(path, {"v": 1})
    calls = count_calls(lambda: write_json(path, {"v": 2}))
    for point in range(1, calls + 1):
        write_json(path, {"v": 1})
        assert killed_at(point, "torn", lambda: write_json(path, {"v": 2})) == -signal.SIGKILL
        assert json.loads(path.read_text())["v"] in (1, 2)
    with failing_at(2, 28), pytest.raises(ResourceError, match="the disk is full while writing"):
        write_json(path, {"v": 3})
    for odd in ({"a": float("nan")}, {1: 2}, {"a": object()}):
        with pytest.raises(TrueupError):
            write_json(path, odd)
    write_yaml(tmp_path / "x.yaml", {"b": 1, "a": 2})
    assert (tmp_path / "x.yaml").read_text() == "b: 1\na: 2\n"


def test_lone_surrogates_do_not_spoil_a_file(tmp_path):
    write_json(tmp_path / "a.json", {"text": "\ud800"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "\ud800"}
    make_odd = {"text": "\ud800"}
    write_yaml(tmp_path / "a.yaml", make_odd)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == make_odd


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    both = hash_files([tmp_path / "a", tmp_path / "b"])
    assert both == hash_files([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "b").rename(tmp_path / "c")
    assert hash_files([tmp_path / "a", tmp_path / "c"]) != both
    assert hash_json({"a": 1, "b": [1.0, "x"]}) == hash_json({"b": [1.0, "x"], "a": 1}) != hash_json({"a": 1})


def test_the_manifest_names_no_user_host_or_remote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment()["git"] is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=canary-mail@x"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "remote", "add", "origin", "https://canary-user:canary-pass@host/x"], check=True)
    (tmp_path / "f").write_text("1")
    subprocess.run(["git", "add", "f"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "canary-title"], check=True)
    clean = environment()["git"]
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "f").write_text("2")
    assert environment()["git"] == {**clean, "dirty": True}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/bin/trueup", "train", f"--data={tmp_path}/a", "--hf-token", "abcd"])
    shown = json.dumps(environment())
    assert "canary" not in shown and os.uname().nodename not in shown and str(tmp_path) not in shown
    assert environment()["command"] == ["trueup", "train", "--data=~/a", "--hf-token", "***"]
    assert command_line([]) == []


def test_the_page_about_the_run_folder_names_every_part_of_it(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()
    with RunFolder.create(tmp_path / "run", CONFIG, MANIFEST) as run:
        parts = [run.metrics, run.timings, run.samples, run.audit, run.checkpoints, run.model, *run.path.iterdir()]
    for part in parts:
        assert f"`{part.name}" in page, part.name
    for error in (TrueupError, RunError, TrainingError, ResourceError):
        assert f"| {error.exit_code} |" in page
    for name in SINKS:
        assert f"| `{name}` |" in page


def test_the_lock_is_not_kept_by_a_closed_folder(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG, MANIFEST)
    found = []
    thread = threading.Thread(target=lambda: found.append(in_child(lambda: RunFolder.open(tmp_path / "run"))))
    thread.start()
    thread.join()
    assert found == [99], "a second opening in another process must fail"
    run.close()
    run.close()
    assert in_child(lambda: RunFolder.open(tmp_path / "run")) == 0
