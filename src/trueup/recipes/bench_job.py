"""One method of `trueup bench-methods` with one seed, trained and measured in a process of its own.

    python -m trueup.recipes.bench_job FOLDER

reads ``FOLDER/job.json`` and makes ``FOLDER/run/`` (a run folder as of `trueup train`, its checkpoints removed),
``FOLDER/answers.jsonl`` (a line an answer, with its scores) and, last of all, ``FOLDER/result.json``: a folder without
it is unfinished. Its own process is what makes the peak memory that of this training alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueup.config import RunConfig
from trueup.data.write import write_rows
from trueup.errors import TrueupError
from trueup.evals.figure import prompts_of
from trueup.evals.kl import drift_figures
from trueup.feedback.base import Answered
from trueup.feedback.parse import open_scorer
from trueup.models.layout import Branches
from trueup.models.reference import FrozenCopy
from trueup.models.sampling import Sample, Sampling
from trueup.recipes.answers import open_sampler, read_prompts, rendered, shown
from trueup.recipes.build import machine_named
from trueup.recipes.memory import cast_of
from trueup.recipes.train import method_of, train
from trueup.runs.disk import remove_tree
from trueup.runs.encode import parse
from trueup.runs.folder import read_run, write_json
from trueup.runs.metrics import read_jsonl

INTERRUPTED = 130
ATTACHED = "--attached"
STATUS = Path("/proc/self/status")


def resident(key: str) -> int | None:
    """Bytes of this process, from the kernel's account: VmRSS now, VmHWM at most; None where there is no such account.

    Args:
        key: ``VmRSS`` or ``VmHWM``.
    """
    if not STATUS.exists():
        return None
    line = next((x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith(f"{key}:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def peak_above(base: int | None) -> int | None:
    """Bytes: on a GPU the most that tensors ever took there; else the peak of this process above ``base``."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    top = resident("VmHWM")
    return None if top is None or base is None else top - base


# ── training ──


def trained(config: RunConfig, run: Path) -> dict[str, Any] | None:
    """Trains; what it took. None: a signal stopped it.

    The peak counts from before the data are read, less what the interpreter held after its imports.

    Raises:
        TrueupError: as :func:`trueup.recipes.train.train`.
    """
    base = resident("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    begun = time.monotonic()
    result = train(config, run)
    seconds, peak = time.monotonic() - begun, peak_above(base)
    if not result.finished:
        return None
    remove_tree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    lines, timings = read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "timings.jsonl")
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "base_bytes": base,
        "steps": result.steps,
        "tokens": sum(int(line["tokens"]) for line in lines),
        "loop_seconds": sum(float(line["seconds"]) for line in timings),
        "rows": int(read_run(run)[1]["data"]["rows"]),
        "lr": max(float(line["lr"]) for line in lines),
        "models": models_held(config),
    }


def models_held(config: RunConfig) -> list[str]:
    """In words: every model that a run holds while it trains."""
    cast = cast_of(config, method_of(config))
    held = ["policy"]
    if cast.reference != "none":
        held.append("reference (adapter off)" if cast.reference == "adapter-off" else "reference")
    if cast.shared_value:
        held.append("value head")
    elif cast.value is not None:
        held.append("value model")
    return [*held, *(["reward model"] * len(cast.judges))]


# ── measuring ──


def measured(job: Mapping[str, Any], model: str, folder: Path) -> dict[str, Any]:
    """Answers the held-out prompts, scores the answers and writes them; KL to the base and time.

    In fp32 whatever the training was in: bf16 rounds small updates of the weights away, and its noise alone, answer by
    answer, looks like a KL of 0.14 nats (k3, 60 tokens of the bundled model) where fp32 finds 0.001.

    Args:
        job: its ``held_out``, ``sampling``, ``scorers`` and ``base`` are read.
        model: who answers; the base itself has no KL.
        folder: where ``answers.jsonl`` goes.

    Raises:
        TrueupError: a model that cannot be loaded, a prompt that does not fit, an answer that cannot be scored.
    """
    begun = time.monotonic()
    machine = machine_named(precision="fp32")
    prompts, sampling = read_prompts(job["held_out"]), Sampling(**job["sampling"])
    sampler = open_sampler(model, machine)
    asked = rendered(sampler, prompts)
    found: dict[tuple[str, int], Sample] = {(s.prompt, s.index): s for s in sampler.sample_ids(asked, sampling)}
    samples = [[found[p.id, k] for k in range(sampling.n)] for p in prompts]
    rows = [
        Answered(id=p.id, prompt=p.prompt, answer=s.text, truncated=s.finish == "length", tokens=s.tokens, meta=p.meta)
        for p, group in zip(prompts, samples, strict=True)
        for s in group
    ]
    groups = [_branches(ids.ids, group) for ids, group in zip(asked, samples, strict=True)]
    reference = None
    if model != job["base"]:
        other = open_sampler(job["base"], machine)
        reference = FrozenCopy(other.policy, other.identity)
    drift = drift_figures(sampler.policy, reference, groups, prompts_of(rows)[:: sampling.n])
    _write_answers(folder / "answers.jsonl", rows, sampling.n, _scores(job["scorers"], rows))
    return {"drift": {f.name: f.to_json() for f in drift}, "measuring_seconds": time.monotonic() - begun}


def _branches(prompt: np.ndarray, samples: Sequence[Sample]) -> Branches:
    """A prompt with its answers, every token of an answer being counted."""
    ids = tuple(np.asarray(s.ids, dtype=np.int32) for s in samples)
    return Branches(prompt, ids, tuple(np.ones(len(i), dtype=bool) for i in ids))


def _scores(specs: Mapping[str, Any], rows: Sequence[Answered]) -> dict[str, list[float]]:
    device = machine_named().device
    return {name: open_scorer(spec, device=device).score(rows).tolist() for name, spec in specs.items()}


def _write_answers(path: Path, rows: Sequence[Answered], n: int, scores: Mapping[str, Sequence[float]]) -> None:
    write_rows(
        path,
        [
            {
                "id": a.id, "prompt": shown(a.prompt), "index": i % n, "answer": a.answer, "truncated": a.truncated,
                "tokens": a.tokens, "scores": {name: values[i] for name, values in scores.items()},
            }
            for i, a in enumerate(rows)
        ],
    )  # fmt: skip


# ── the process ──


def run_apart(job: Mapping[str, Any], folder: Path, lock: int) -> str | None:
    """Does a job in a fresh process that makes ``folder`` anew; returns why it failed, or None.

    Args:
        job: what ``job.json`` will hold.
        folder: of the job.
        lock: a descriptor that the process inherits: the lock lasts as long as either process does.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    if folder.exists():
        remove_tree(folder)
    folder.mkdir()
    write_json(folder / "job.json", job)
    listen, hold = os.pipe()  # the process ends when this one, which holds the other end, is gone
    try:
        with (folder / "log.txt").open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-m", "trueup.recipes.bench_job", str(folder), ATTACHED],
                stdout=log, stderr=log, stdin=listen, pass_fds=(lock,), check=False,
            )  # fmt: skip
    finally:
        os.close(listen)
        os.close(hold)
    if done.returncode == 0 and (folder / "result.json").exists():
        return None
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    return _reason(done.returncode, folder / "log.txt")


def _reason(code: int, log: Path) -> str:
    """Why a process ended as it did, in a line."""
    if code == -signal.SIGKILL:
        return f"killed, most likely for want of memory (see {log})"
    if code < 0:
        return f"ended by {signal.Signals(-code).name} (see {log})"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix("error: ")


def work(folder: Path) -> int:
    """Does the job of a folder; returns the exit code. ``result.json`` is written only if all of it was done.

    Raises:
        TrueupError: the method failed.
    """
    job = parse((folder / "job.json").read_bytes())
    took: dict[str, Any] | None = {}
    if job["config"] is not None:
        took = trained(RunConfig.model_validate(job["config"]), folder / "run")
        if took is None:
            return INTERRUPTED
    model = job["base"] if job["config"] is None else str(folder / "run")
    write_json(folder / "result.json", {"method": job["method"], "seed": job["seed"], **took,
                                        **measured(job, model, folder)})  # fmt: skip
    return 0


def _end_with_parent() -> None:
    """Ends this process when the one that began it is gone, whatever became of it: nothing trains on unseen."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main(words: Sequence[str]) -> int:
    """The command line; a failure is told in the last line on standard error."""
    if ATTACHED in words[1:]:
        _end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return work(Path(words[0]))
    except TrueupError as error:
        logging.getLogger(__name__).error("error: %s", " ".join(str(error).split()))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
