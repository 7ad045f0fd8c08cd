"""Faults for tests: every system call that changes the disk is counted, and can die, fail, or be written down.

The calls are those of the ``os`` module through which all of ``trueup.runs`` writes. Deaths are real SIGKILLs of real
(forked) processes.
"""

import contextlib
import os
import signal
import traceback
import warnings
from pathlib import Path

import torch

from trueup.runs.checkpoint import load_latest

HOOKED = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "ftruncate")


class Hooks:
    """Calls ``at(number, name, call)`` instead of each hooked function; ``call()`` does the real thing."""

    def __init__(self, at):
        self.at, self.count, self.real = at, 0, {}

    def _wrap(self, name):
        real = self.real[name] = getattr(os, name)

        def hooked(*args, **kwargs):
            if name == "open" and not (args[1] if len(args) > 1 else kwargs["flags"]) & os.O_CREAT:
                return real(*args, **kwargs)
            self.count += 1
            return self.at(self.count, name, lambda *a: real(*(a or args), **kwargs), args)

        return hooked

    def __enter__(self):
        for name in HOOKED:
            setattr(os, name, self._wrap(name))
        return self

    def __exit__(self, *_):
        for name, real in self.real.items():
            setattr(os, name, real)


def count_calls(work):
    """How many hooked calls ``work()`` makes (in this process)."""
    with Hooks(lambda _n, _name, call, _args: call()) as hooks:
        work()
    return hooks.count


def start(work):
    """Starts ``work()`` in a forked child; returns its process id. A failure ends it with 99."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with idle threads
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


def in_child(work):
    """Runs ``work()`` in a forked child; returns its exit code, or minus the signal that ended it."""
    _, status = os.waitpid(start(work), 0)
    return os.waitstatus_to_exitcode(status)


def killed_at(point, how, work):
    """Runs ``work()`` in a child that SIGKILLs itself at call number ``point``.

    Args:
        point: from 1.
        how: ``before`` the call, ``after`` it, or ``torn``: after writing half of the bytes.
        work: what is done.
    """

    def at(number, name, call, args):
        if number != point:
            return call()
        if how == "torn" and name == "write":
            call(args[0], args[1][: len(args[1]) // 2])
        elif how == "after":
            with contextlib.suppress(OSError):
                call()
        os.kill(os.getpid(), signal.SIGKILL)

    def hooked():
        with Hooks(at):
            work()

    return in_child(hooked)


@contextlib.contextmanager
def failing_at(point, number):
    """Call number ``point`` fails with this errno (a write: after half of the bytes)."""

    def at(count, name, call, args):
        if count != point:
            return call()
        if name == "write":
            call(args[0], args[1][: len(args[1]) // 2])
        raise OSError(number, os.strerror(number), str(args[0]) if isinstance(args[0], str | Path) else None)

    with Hooks(at) as hooks:
        yield hooks


def tensors(step):
    """A small state that no other step has."""
    g = torch.Generator().manual_seed(step)
    return {
        "weights": {"w": torch.randn(40, 8, generator=g), "b": torch.randn(8, generator=g).to(torch.bfloat16)},
        "optimizer": {"w//step": torch.tensor(float(step)), "w//exp_avg": torch.randn(40, 8, generator=g)},
        "rng": {"torch": torch.arange(step, step + 64, dtype=torch.uint8)},
    }


def bits(tensor):
    """The bytes of a tensor: NaNs and signed zeros count too."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def same(one, other):
    """Equal to the bit: groups, names, types, shapes, values."""
    return one.keys() == other.keys() and all(
        one[g].keys() == other[g].keys()
        and all(
            one[g][n].dtype == other[g][n].dtype
            and one[g][n].shape == other[g][n].shape
            and torch.equal(bits(one[g][n]), bits(other[g][n]))
            for n in one[g]
        )
        for g in one
    )


def loaded_step(folder):
    """Step of the newest intact checkpoint, after a check that all of it belongs together; no skips allowed."""
    found, skipped = load_latest(folder)
    assert not skipped, skipped
    assert found is not None
    assert found.meta == {"cursor": found.step}, "a mix of two checkpoints"
    assert same(found.tensors, tensors(found.step)), "a mix of two checkpoints"
    return found.step


def names(folder):
    """What is in a folder, sorted."""
    return sorted(p.name for p in folder.iterdir())
