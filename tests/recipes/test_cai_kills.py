"""SIGKILLs of the whole of `trueup cai run`, a real process: stages, training and evaluation end in the same bytes."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai_road import plan_in

SCRIPT = Path(__file__).parents[1] / "cai_road.py"
CLOCKS = {"timings.jsonl", ".lock", "MANIFEST.json"}  # wall-clock figures, process ids, hashes of what holds them
TIMES = re.compile(rb'"(?:timings_offset|created)": ?(?:\d+|"[^"]*")')


def process(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """A walk under way; what it says is in a file."""
    with (folder / "said.txt").open("wb") as said:
        return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(out)], stderr=said)


def files_of(out: Path) -> dict[str, bytes]:
    """Everything but clocks and the order of the logs' lines."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name not in CLOCKS):
        whole = b"" if path.name.endswith(".log.jsonl") else path.read_bytes()
        found[str(path.relative_to(out))] = TIMES.sub(b"", whole) if path.suffix == ".json" else whole
    return found


def keys_of(log: Path) -> list[str]:
    return [json.loads(line)["key"] for line in log.read_text().splitlines()[1:]]


def killed(folder: Path, kills: int) -> None:
    out = folder / "run"
    begun = time.monotonic()
    assert process(folder, out).wait() == 0, (folder / "said.txt").read_text()
    seconds = time.monotonic() - begun
    want, calls = files_of(out), {p.name: sorted(keys_of(p)) for p in out.rglob("*.log.jsonl")}
    rng, done, where = random.Random(0), 0, []
    while done < kills:
        shutil.rmtree(out)
        while True:
            child = process(folder, out)
            time.sleep(seconds * rng.random() if done < kills else 0)
            if done < kills and child.poll() is None:
                child.kill()
                done += 1
                where.append(max((p.name for p in out.iterdir()), key=lambda n: (out / n).stat().st_mtime, default="-")
                             if out.exists() else "-")  # fmt: skip
                child.wait()
                continue
            assert child.wait() == 0, (folder / "said.txt").read_text()
            break
        now = files_of(out)
        assert now.keys() == want.keys()
        assert [name for name in want if now[name] != want[name]] == []
        for log in out.rglob("*.log.jsonl"):
            assert len(set(keys_of(log))) == len(keys_of(log)), "a finished call was repeated"
            assert sorted(keys_of(log)) == calls[log.name]
    print(f"{done} kills, last touched:", {name: where.count(name) for name in sorted(set(where))})
    assert kills < 20 or len(set(where) - {"-"}) > 2, "the kills met too few stages to tell anything"


def test_an_evaluation_that_was_killed_before_its_last_lines_ends_in_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    plan_in(tmp_path, tiny)
    out = tmp_path / "run"
    assert process(tmp_path, out).wait() == 0, (tmp_path / "said.txt").read_text()
    want = files_of(out)
    for name in ("eval/eval.json", "report.json", "report.md"):
        (out / name).unlink()
    assert process(tmp_path, out).wait() == 0, (tmp_path / "said.txt").read_text()
    assert files_of(out) == want


def test_the_road_after_kills(tiny: Path, tmp_path: Path) -> None:
    plan_in(tmp_path, tiny)
    killed(tmp_path, 2)


@pytest.mark.soak
@pytest.mark.parametrize("route", ["dpo", "rlhf"])
def test_the_road_after_fifty_kills(tiny: Path, tmp_path: Path, route: str) -> None:
    plan_in(tmp_path, tiny)
    if route == "rlhf":
        (tmp_path / "rlhf").touch()
    killed(tmp_path, 50)
