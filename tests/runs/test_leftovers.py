"""What a killed process left of making a file or folder goes when another one has made it; what lives stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trueup.data.write import write_rows
from trueup.models.files import building
from trueup.runs.disk import temporary_for, write_atomic


def build(path: Path) -> None:
    with building(path, replace=True) as draft:
        (draft / "weights").write_text("x")


MAKERS: dict[str, Callable[[Path], object]] = {
    "write_atomic": lambda path: write_atomic(path, "x"),
    "write_rows": lambda path: write_rows(path, [{"a": 1}], overwrite=True),
    "building": build,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_leftovers_of_the_dead_go(maker: str, tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    script = (
        "import sys, os, pathlib; from trueup.runs.disk import temporary_for; "
        "t = temporary_for(pathlib.Path(sys.argv[1])); t.mkdir() if sys.argv[2] == 'building' else t.touch(); "
        "print(t.name); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", script, str(path), maker], capture_output=True, text=True)
    assert died.returncode == -9
    living = temporary_for(path)  # this process: perhaps another thread of it
    other = tmp_path / died.stdout.strip().replace("made", "other")
    for kept in (living, other, tmp_path / f".made.jsonl.tmp-{os.getppid()}-aa", tmp_path / "made.jsonl.tmp-notes"):
        kept.touch()
    assert (tmp_path / died.stdout.strip()).exists()
    MAKERS[maker](path)
    assert path.exists() and not (tmp_path / died.stdout.strip()).exists()
    assert len(list(tmp_path.iterdir())) == 5, "something that lives, or belongs to another name, has gone"
