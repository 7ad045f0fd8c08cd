"""Weights handed over through the file system: whole or not at all, also when the trainer is killed at any moment."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trueup.errors import ResourceError, RunError, TrainingError
from trueup.models import handover
from trueup.models.handover import Handed, Mismatch, check_staleness, latest, mismatch, prune, publish, wait_for


def saver(version: int, size: int = 1000) -> Callable[[Path], None]:
    """Two files, one in a folder, whose every byte tells the version."""

    def save(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "model.safetensors").write_bytes(bytes([version % 256]) * size)
        (folder / "inner" / "config.json").write_bytes(bytes([version % 256]) * 10)

    return save


def held(handed: Handed) -> set[int]:
    return set((handed.path / "model.safetensors").read_bytes()) | set((handed.path / "inner/config.json").read_bytes())


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_versions_appear_in_order_and_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    assert latest(tmp_path) is None
    for version in (0, 1, 5, 12):
        path = publish(folder, version, saver(version))
        assert path == folder / f"v{version:06d}"
        handed = latest(folder)
        assert handed == Handed(version, path) and held(handed) == {version}
    assert names(folder) == ["LATEST", "v000005", "v000012"]
    assert (folder / "LATEST").read_text() == "v000012\n"
    sealed = json.loads((folder / "v000012" / "HANDOVER.json").read_text())
    assert sealed == {"version": 12, "files": {"inner/config.json": 10, "model.safetensors": 1000}}
    publish(folder, 1_000_000, saver(3), keep=3)
    assert names(folder) == ["LATEST", "v000005", "v000012", "v1000000"]
    assert prune(folder, 1) == [folder / "v000005", folder / "v000012"]
    assert latest(folder) == Handed(1_000_000, folder / "v1000000")


def test_a_version_is_never_written_again(tmp_path: Path) -> None:
    publish(tmp_path, 3, saver(3))
    for version in (3, 2):
        with pytest.raises(RunError, match=f"version {version} cannot be handed over after 3; .* goes on with 4"):
            publish(tmp_path, version, saver(9))
    assert held(wait_for(tmp_path, 3, 0)) == {3}
    for arguments in ({"version": -1}, {"version": 4, "keep": 1}):
        with pytest.raises(ValueError, match="at least"):
            publish(tmp_path, save=saver(9), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        prune(tmp_path, 0)


def test_a_save_that_fails_leaves_the_version_before_and_nothing_over(tmp_path: Path) -> None:
    publish(tmp_path, 1, saver(1))

    def full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))

    def link(folder: Path) -> None:
        (folder / "model.safetensors").symlink_to("/etc/hostname")

    with pytest.raises(ResourceError, match="the disk is full while handing over weights"):
        publish(tmp_path, 2, full)
    with pytest.raises(RunError, match="symbolic link"):
        publish(tmp_path, 2, link)
    with pytest.raises(RunError, match="nothing was saved for version 2"):
        publish(tmp_path, 2, lambda folder: None)
    assert names(tmp_path) == ["LATEST", "v000001"] and held(wait_for(tmp_path, 1, 0)) == {1}


def test_damage_is_told(tmp_path: Path) -> None:
    path = publish(tmp_path, 4, saver(4))
    (path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match=r"model.safetensors: has 5 bytes instead of 1000; hand the weights over again"):
        latest(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model.safetensors: is missing"):
        latest(tmp_path)
    for content in ("{", "[]", '{"files": [1]}', '{"files": {"a": null}}'):
        (path / "HANDOVER.json").write_text(content)
        with pytest.raises(RunError, match="is damaged"):
            latest(tmp_path)
    (path / "HANDOVER.json").unlink()
    with pytest.raises(RunError, match=r"named by LATEST, and not there or without HANDOVER.json"):
        latest(tmp_path)
    (tmp_path / "LATEST").write_text("../elsewhere")
    with pytest.raises(RunError, match="is no version"):
        latest(tmp_path)


def test_a_reader_beside_a_busy_trainer_never_sees_a_mix(tmp_path: Path) -> None:
    """The reader looks as often as it can while versions come and go faster than it reads."""
    publish(tmp_path, 0, saver(0))
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            handed = latest(tmp_path)
            assert handed is not None
            seen.append(handed.version)

    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            read()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(1, 100):
        publish(tmp_path, version, saver(version, 100))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set(seen)) > 10


def test_waiting_ends_with_the_version_or_names_it(tmp_path: Path) -> None:
    publish(tmp_path, 6, saver(6))
    later = threading.Timer(0.3, lambda: publish(tmp_path, 8, saver(8)))
    later.start()
    begun = time.monotonic()
    assert wait_for(tmp_path, 7, 10, poll=0.02).version == 8  # a newer one will do
    assert 0.2 < time.monotonic() - begun < 5
    later.join()
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"waited 0.3 s for version 9 of the weights, and the newest is 8; is the"):
        wait_for(tmp_path, 9, 0.3)
    assert 0.3 <= time.monotonic() - begun < 2
    with pytest.raises(RunError, match="none is there yet"):
        wait_for(tmp_path / "v000008", 0, 0)
    with pytest.raises(RunError, match="will not come: the trainer ended; the newest is 8"):
        wait_for(tmp_path, 9, 60, alive=lambda: False)
    assert wait_for(tmp_path, 8, 60, alive=lambda: False).version == 8


TRAINER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_handover import saver
from trueup.models.handover import latest, publish
folder = Path({folder!r})
handed = latest(folder)
version = 0 if handed is None else handed.version + 1
print(version, flush=True)
while True:
    publish(folder, version, saver(version, 200_000))
    version += 1
"""


def test_a_trainer_killed_at_any_moment_can_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    code = TRAINER.format(tests=str(Path(__file__).parent), folder=str(folder))
    dice = random.Random(7)
    before, leftovers = -1, 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert int(process.stdout.readline()) == before + 1
        time.sleep(dice.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        handed = latest(folder)
        if handed is not None:
            assert held(handed) == {handed.version % 256}
            before = handed.version
            leftovers += names(folder) != ["LATEST", *(f"v{v:06d}" for v in (before - 1, before) if v >= 0)]
    assert before > 8 and leftovers > 0  # kills fell inside a hand-over too
    publish(folder, before + 1, saver(before + 1))
    assert names(folder) == ["LATEST", f"v{before:06d}", f"v{before + 1:06d}"]


def test_a_version_that_was_never_announced_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, 1, saver(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def dies(path: Path, data: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(handover, "write_atomic", dies)  # between the rename and the announcement
        publish(tmp_path, 2, saver(77))
    assert "v000002" in names(tmp_path) and latest(tmp_path) == Handed(1, tmp_path / "v000001")
    publish(tmp_path, 2, saver(2))
    assert held(wait_for(tmp_path, 2, 0)) == {2}


# ── drift ──


def test_staleness_is_bounded_on_both_sides() -> None:
    check_staleness(7, 7, 0)
    check_staleness(5, 7, 2)
    with pytest.raises(TrainingError, match=r"version 4 is 3 versions behind the trainer \(7\), and 2 are allowed"):
        check_staleness(4, 7, 2)
    with pytest.raises(TrainingError, match=r"version 8 reached a trainer at version 7"):
        check_staleness(8, 7, 100)


def test_mismatch_by_hand() -> None:
    """Ratios 2 and 1/2 and 1: mean factor (2 + 2 + 1) / 3; k3: (1 − ln 2) + (ln 2 − 1/2) + 0 over 3 = 1/6."""
    trainer = np.log([[0.5, 0.2, 0.3, 0.9]])
    sampler = np.log([[0.25, 0.4, 0.3, 0.1]])
    found = mismatch(trainer, sampler, np.array([[True, True, True, False]]))
    assert found.token_mult_prob_error == pytest.approx(5 / 3, rel=1e-12)
    assert found.kl == pytest.approx(1 / 6, rel=1e-12)
    assert found.largest == pytest.approx(np.log(2), rel=1e-12)
    assert found.tokens == 3
    assert mismatch(trainer, trainer, np.ones((1, 4), dtype=bool)) == Mismatch(1.0, 0.0, 0.0, 4)


def test_the_kl_is_that_of_sampler_from_trainer() -> None:
    """Against the exact sum over a vocabulary, whose other direction is far off."""
    dice = np.random.default_rng(0)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])  # sampler, trainer
    drawn = dice.choice(3, size=(100, 2000), p=p)
    found = mismatch(np.log(q)[drawn], np.log(p)[drawn], np.ones_like(drawn, dtype=bool))
    forward, backward = (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()
    assert abs(found.kl - forward) < 0.01 < 0.02 < abs(forward - backward)
    assert found.token_mult_prob_error == pytest.approx((p * np.maximum(p / q, q / p)).sum(), rel=0.01)


def test_mismatch_refuses_what_it_cannot_compare() -> None:
    ones = np.zeros((2, 3))
    with pytest.raises(ValueError, match="one shape"):
        mismatch(ones, ones[:1], np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="mask bool"):
        mismatch(ones, ones, np.ones((2, 3)))
    with pytest.raises(ValueError, match="no sampled token"):
        mismatch(ones, ones, np.zeros((2, 3), dtype=bool))
    bad = ones.copy()
    bad[0, 0] = -np.inf
    with pytest.raises(TrainingError, match="1 of the sampler's 6 log-probabilities"):
        mismatch(ones, bad, np.ones((2, 3), dtype=bool))
    hidden = np.ones((2, 3), dtype=bool)
    hidden[0, 0] = False
    assert mismatch(ones, bad, hidden).tokens == 5
    assert mismatch(ones, ones - 1000, np.ones((2, 3), dtype=bool)).kl == np.inf
