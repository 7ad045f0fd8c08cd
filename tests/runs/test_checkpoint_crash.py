"""Crashes: at every system call of a save, at random moments, and power cuts that lose what was not fsynced."""

import itertools
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from faults import Hooks, count_calls, in_child, killed_at, loaded_step, names, same, start, tensors

from trueup.runs.checkpoint import load_latest, prune, save_checkpoint
from trueup.runs.metrics import JsonlWriter


def save(folder, step):
    return save_checkpoint(folder, step, tensors(step), {"cursor": step})


def save_and_prune(folder):
    save(folder, 3)
    prune(folder, 1)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before") / "checkpoints"
    save(folder, 1)
    save(folder, 2)
    return folder


def test_killed_at_every_system_call_of_a_save_and_a_prune(before, tmp_path):
    probe = tmp_path / "probe"
    shutil.copytree(before, probe)
    calls = count_calls(lambda: save_and_prune(probe))
    assert 40 <= calls <= 100, calls
    seen = set()
    for point in range(1, calls + 1):
        for how in ("before", "torn", "after"):
            folder = tmp_path / f"{point}-{how}"
            shutil.copytree(before, folder)
            assert killed_at(point, how, lambda folder=folder: save_and_prune(folder)) == -signal.SIGKILL
            step = loaded_step(folder)
            assert step in (2, 3)
            seen.add((step, any(".tmp-" in n for n in names(folder))))
            save(folder, 4)
            assert loaded_step(folder) == 4
            assert not [n for n in names(folder) if ".tmp-" in n], "leftovers after the next save"
            assert all(len(list((folder / n).iterdir())) == 5 for n in names(folder))
            shutil.rmtree(folder)
    assert seen == {(2, False), (2, True), (3, False), (3, True)}, "the points do not cover a save and a prune"


def test_a_kill_in_the_first_save_ever_leaves_nothing_that_counts(tmp_path):
    calls = count_calls(lambda: save(tmp_path / "probe", 1))
    for point in range(1, calls + 1):
        folder = tmp_path / str(point)
        assert killed_at(point, "before", lambda folder=folder: save(folder, 1)) == -signal.SIGKILL
        found, skipped = load_latest(folder)
        assert skipped == []
        assert found is None or same(found.tensors, tensors(1))
        save(folder, 1)
        assert names(folder) == ["step-000001"]


class Disk:
    """What a power cut may leave: built from the calls of one save, in the order they were made.

    A file keeps what was fsynced; of the rest it may have lost all, or hold zeros. A folder keeps the names that it had
    at its last fsync; of the later changes, a first part may have survived, in each folder on its own.
    """

    def __init__(self):
        self.calls = []

    def record(self, _number, name, call, args):
        result = call()
        where = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[0])
        extra = bytes(args[1]) if name == "write" else os.fspath(args[1]) if name == "rename" else None
        self.calls.append((name, where, extra))
        return result

    def states(self, upto):
        """Yields (files: path -> bytes, folders) for each disk that a cut after ``upto`` calls may leave."""
        changes, safe = {}, {}
        for index, (name, where, _) in enumerate(self.calls[:upto]):
            if name in ("open", "mkdir", "rename"):
                changes.setdefault(os.path.dirname(where), []).append(index)
            elif name == "fsync":
                safe[where] = len(changes.get(where, []))
        choices = [[f[:n] for n in range(safe.get(d, 0), len(f) + 1)] for d, f in changes.items()]
        for survived in itertools.product(*choices):
            for fill in (b"", b"\0"):
                yield self._apply(sorted(i for part in survived for i in part), upto, fill)

    def _apply(self, survived, upto, fill):
        data, synced = {}, {}
        for name, where, extra in self.calls[:upto]:
            if name == "write":
                data[where] = data.get(where, b"") + extra
            elif name == "fsync" and where in data:
                synced[where] = data[where]
        files, folders = {}, []
        for name, where, extra in (self.calls[i] for i in survived):
            if name == "mkdir":
                folders.append(where)
            elif name == "rename":
                files = {p.replace(where + os.sep, extra + os.sep): b for p, b in files.items()}
                folders = [extra if f == where else f for f in folders]
            elif os.path.dirname(where) in folders:
                kept = synced.get(where, b"")
                files[where] = kept + fill * (len(data.get(where, b"")) - len(kept))
        return files, folders


def test_power_cut_after_every_system_call(before, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(before, folder)
    disk = Disk()
    with Hooks(disk.record):
        save(folder, 3)
    assert [c[0] for c in disk.calls][-2:] == ["rename", "fsync"]
    tried, seen = 0, set()
    for upto in range(len(disk.calls) + 1):
        for number, (files, folders) in enumerate(disk.states(upto)):
            copy = tmp_path / f"{upto}-{number}"
            shutil.copytree(before, copy)
            for made in folders:
                Path(made.replace(str(folder), str(copy))).mkdir()
            for path, content in files.items():
                Path(path.replace(str(folder), str(copy))).write_bytes(content)
            step = loaded_step(copy)
            assert step in (2, 3)
            assert upto < len(disk.calls) or step == 3, "the save had returned"
            seen.add(step)
            tried += 1
            shutil.rmtree(copy)
    assert seen == {2, 3} and tried > 100


def train(run, total, slow=0.0):
    """A trainer in small: deterministic, resumes by itself, logs, saves every second step, prunes."""
    folder = run / "checkpoints"
    found, skipped = load_latest(folder)
    assert not skipped, skipped
    step, weight, offset = 0, torch.zeros(1 << 20), 0
    if found is not None:
        step, weight, offset = found.step, found.tensors["weights"]["w"].clone(), found.meta["offset"]
    with JsonlWriter(run / "metrics.jsonl") as metrics:
        metrics.truncate_to(offset)
        while step < total:
            step += 1
            weight += 1.0 / step
            metrics.append({"step": step, "loss": float(weight[0])})
            time.sleep(slow)
            if step % 2 == 0:
                metrics.fsync()
                (run / "inside").touch()
                save_checkpoint(folder, step, {"weights": {"w": weight}}, {"offset": metrics.offset()})
                prune(folder, 2)
                (run / "inside").unlink()


def digest(run):
    found, skipped = load_latest(run / "checkpoints")
    assert found is not None and not skipped
    return found.step, found.tensors["weights"]["w"].numpy().tobytes(), (run / "metrics.jsonl").read_bytes()


def kill_and_resume(tmp_path, kills):
    rng = random.Random(5)
    calm = tmp_path / "calm"
    calm.mkdir()
    train(calm, 40)
    run = tmp_path / "killed"
    run.mkdir()
    done = inside = 0
    while done < kills:
        if (run / "checkpoints").is_dir() and loaded_or_zero(run) >= 40:
            assert digest(run) == digest(calm)
            shutil.rmtree(run)
            run.mkdir()
        (run / "inside").unlink(missing_ok=True)
        pid = start(lambda: train(run, 40, slow=0.001))
        time.sleep(rng.uniform(0.002, 0.05))
        if done % 2:  # half of the kills aim at a save, the others at nothing
            _await(run / "inside")
            time.sleep(rng.uniform(0, 0.005))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            done += 1
            inside += (run / "inside").exists()
    assert in_child(lambda: train(run, 40)) == 0
    assert digest(run) == digest(calm)
    return inside / done


def _await(path, patience=0.5):
    end = time.monotonic() + patience
    while not path.exists() and time.monotonic() < end:
        pass


def loaded_or_zero(run):
    found, skipped = load_latest(run / "checkpoints")
    assert not skipped
    return found.step if found else 0


def test_sigkill_at_random_moments_changes_no_byte_of_the_result(tmp_path):
    assert kill_and_resume(tmp_path, kills=30) >= 0.3, "too few kills fell inside a checkpoint write"


@pytest.mark.soak
def test_a_thousand_sigkills(tmp_path):
    assert kill_and_resume(tmp_path, kills=1000) >= 0.3
