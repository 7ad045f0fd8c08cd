"""What the manifest says about where a run happened: versions, machine, git commit, command line; no host or user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from trueup.runs.scrub import scrub

_PACKAGES = ("trueup", "torch", "transformers", "peft", "safetensors", "tokenizers", "datasets", "numpy")


def environment() -> dict[str, Any]:
    """Versions, platform, CPUs, git commit of the current folder, and the command line with secrets scrubbed.

    Names of users and hosts, remote addresses and the home folder are left out: the home folder is written ``~``.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "platform": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
        },
        "git": git_commit(),
        "command": command_line(sys.argv),
    }


def command_line(words: list[str]) -> list[str]:
    """The words of a command line as they may be written down: secrets masked, the home folder as ``~``."""
    home = str(Path.home())
    shown = [os.path.basename(words[0]), *words[1:]] if words else []
    return scrub([w.replace(home, "~") if len(home) > 1 else w for w in shown])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> dict[str, Any] | None:
    """Commit of the repository around the current folder and whether files differ from it; None outside of one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes.strip())}


def _git(*words: str) -> str | None:
    """None where git is absent, slow, or outside of a repository: the manifest then says so with null."""
    command = ["git", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
