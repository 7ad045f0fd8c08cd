"""Several processes that train one model together: every one holds all weights and computes its share of each batch.

Started by ``torchrun``; without it every function here does nothing. All processes see the same global batch (a pure
function of the step), so denominators need no talk; gradients, metric sums and batch statistics are summed in fp32 or
wider. Every process takes part in every collective call, also one that ran out of memory.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from trueup.errors import ConfigError

T = TypeVar("T")

BUCKET = 2**24  # numbers summed in one call
TIMEOUT = timedelta(minutes=30)  # a process that is waited for longer is taken for lost


def start() -> None:
    """Joins the other processes if ``torchrun`` started several; a second call does nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=TIMEOUT)
    atexit.register(finish)  # on every way out: an interpreter that ends with the group's threads running is aborted
    if dist.get_rank() > 0:
        logging.getLogger("trueup").setLevel(logging.ERROR)  # the first one tells


def finish() -> None:
    """Leaves the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; process 0 writes the run folder."""
    return dist.get_rank() if dist.is_initialized() else 0


def mine(parts: Sequence[T]) -> Sequence[T]:
    """This process's share of a list."""
    return parts[rank() :: world()]


def check_batch(rows: int) -> None:
    """Every process must have a row of every batch.

    Raises:
        ConfigError: there are more processes than rows.
    """
    if rows < world():
        raise ConfigError(f"train.batch_size: {rows} rows cannot be shared by {world()} processes; raise it")


def add(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def highest(values: torch.Tensor) -> torch.Tensor:
    """The largest over all processes, in place."""
    if world() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def device() -> torch.device:
    """Where tensors must lie to be summed."""
    return torch.device("cuda") if torch.cuda.is_available() and world() > 1 else torch.device("cpu")


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if world() == 1:
        return flag
    return bool(highest(torch.tensor(float(flag), device=device())) > 0)


def leaders(value: float) -> float:
    """The first process's number, in every process."""
    if world() == 1:
        return value
    return float(add(torch.tensor(value if rank() == 0 else 0.0, dtype=torch.float64, device=device())))


def together(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The sum over processes of what each computes; if one runs out of memory, all do.

    Raises:
        torch.OutOfMemoryError: in every process, if it was raised in one.
    """
    value: torch.Tensor | None = None
    with contextlib.suppress(torch.OutOfMemoryError):
        value = compute()
    if any_of(value is None) or value is None:
        raise torch.OutOfMemoryError("out of memory in one of the processes")
    return add(value.to(device()))


def add_gradients(masters: Iterable[torch.nn.Parameter]) -> None:
    """Sums gradients over processes, in a few large calls; a missing one counts as zeros."""
    if world() == 1:
        return
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for master in masters:
        if master.grad is None:
            master.grad = torch.zeros_like(master)
        bucket.append(master)
        size += master.numel()
        if size >= BUCKET:
            _add_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _add_bucket(bucket)


def _add_bucket(bucket: Sequence[torch.nn.Parameter]) -> None:
    grads = [m.grad for m in bucket if m.grad is not None]
    flat = add(torch.cat([g.flatten() for g in grads]))
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


@contextlib.contextmanager
def zero_first() -> Iterator[None]:
    """Process 0 does it while the others wait, then they do (and find it done)."""
    if world() > 1 and rank() > 0:
        dist.barrier()
    yield
    if world() > 1 and rank() == 0:
        dist.barrier()


def wait() -> None:
    """Until all are here."""
    if world() > 1:
        dist.barrier()
