"""`trueup bench-methods`: several methods on the same prompts, scorer, budget and seeds, measured alike.

OUT/
├── bench.json          what was asked for; the same folder goes on only with the same
├── prompts.jsonl       training prompts
├── held_out.jsonl      the prompts that every figure is about
├── seed-0/pairs.jsonl  answers of the base model to the training prompts, scored and paired; pairs.json: their report
├── base/               answers of the untrained model
├── dpo-0/              a method with a seed: run/, answers.jsonl, result.json, log.txt
├── results.json, table.md
└── score.png, score-kl.png, cost.png

The budget is in scored answers: every method gets, for each seed, ``prompts`` x ``n`` answers drawn and scored. Methods
that learn from a file share those of the base model; methods that sample draw as many of their own. All pass over
their data ``passes`` times, ROWS_A_STEP prompts or pairs an optimizer step.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueup.config import (
    DataConfig,
    LoraConfig,
    ModelConfig,
    OnlineConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from trueup.data.mix import shared_prompts, split_held_out
from trueup.data.pairing import Pairing
from trueup.data.write import write_rows
from trueup.errors import ConfigError, DataError, RunError
from trueup.feedback.base import Scorer
from trueup.feedback.parse import open_scorer
from trueup.models.sampling import Sampling
from trueup.models.source import identity
from trueup.recipes.answers import Progress, shown
from trueup.recipes.bench_job import run_apart
from trueup.recipes.bench_table import BASE, write_report
from trueup.recipes.build import machine_named
from trueup.recipes.contestants import read_prompts_of
from trueup.recipes.demo import DATA, MARGIN, MODEL, NEW_TOKENS, RULE
from trueup.recipes.pairs import Source, make_pairs
from trueup.runs.encode import parse, plain
from trueup.runs.folder import write_json
from trueup.train.methods import Method, find_method, words
from trueup.types import Prompt

Say = Callable[[str], None]
DEFAULT = ("sft", "dpo", "ipo", "kto", "orpo", "simpo", "ppo")
SAMPLES = ("policy", "online")  # families that draw answers of their own
ROWS_A_STEP = 8
EVAL_SEED = 2**20  # of the answers to held-out prompts: the same random numbers for every model
HELD_OUT_SHARE = 0.25  # of the user's own prompts, where no held-out file is named
SETTINGS = "bench.json"
HALF_MADE = {".lock", "prompts.jsonl", "held_out.jsonl"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTask:
    """What is asked for.

    Attributes:
        model: where all methods start; KL is measured to it.
        methods, seeds: every method is trained with every seed.
        data, held_out: prompts; None: those of the demo. ``data`` without ``held_out`` has a quarter of its prompts
            held out.
        reward: who scores training answers, as :func:`trueup.feedback.parse.open_scorer` takes it.
        gold: a second scorer that nothing is trained on; None: the figures are of ``reward`` on held-out prompts.
        prompts, held_out_prompts: used at most.
        n: answers to each training prompt.
        held_out_n: answers to each held-out prompt.
        max_new_tokens: longer answers are truncated.
        min_margin: scores of a pair differ by more than this.
        passes: over the data.
        lora_rank: of the adapters; 0: all weights are trained.
        lr: peak learning rate of every method; None: the project's default of each.
        precision: of training: auto, bf16 or fp32; measured is in fp32.
    """

    model: str = MODEL
    methods: tuple[str, ...] = DEFAULT
    seeds: tuple[int, ...] = (0, 1, 2)
    data: str | None = None
    held_out: str | None = None
    reward: Any = RULE
    gold: Any = None
    prompts: int = 64
    held_out_prompts: int = 40
    n: int = 4
    held_out_n: int = 2
    max_new_tokens: int = NEW_TOKENS
    min_margin: float = MARGIN
    passes: int = 2
    lora_rank: int = 16
    lr: float | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            ConfigError: an unknown method, one or a seed named twice, a number out of its range.
        """
        for name in self.methods:
            checked_method(name)
        for what, values in (("--methods", self.methods), ("--seeds", self.seeds)):
            if not values:
                raise ConfigError(f"{what}: names none")
            if twice := next((v for v in values if values.count(v) > 1), None):
                raise ConfigError(f"{what}: {twice} is named twice")
        if min(self.seeds) < 0:
            raise ConfigError(f"--seeds: whole numbers from 0 on are expected, got {min(self.seeds)}")
        least = {"prompts": 1, "held_out_prompts": 1, "n": 2, "held_out_n": 1, "max_new_tokens": 1, "min_margin": 0,
                 "passes": 1, "lora_rank": 0}  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"--{name.replace('_', '-')}: at least {low}, got {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ConfigError(f"--lr: above 0, got {self.lr}")
        if self.held_out is not None and self.data is None:
            raise ConfigError("--held-out: has no effect without --data")

    def settings(self) -> dict[str, Any]:
        """What finished runs depend on: everything but which methods and seeds are asked for."""
        told = {k: v for k, v in plain(asdict(self)).items() if k not in ("methods", "seeds")}
        return {**told, "model_identity": identity(self.model), "rows_a_step": ROWS_A_STEP}


def checked_method(name: str) -> Method:
    """A method that makes a model which answers.

    Raises:
        ConfigError: no such method (the nearest is named), or a reward model.
    """
    if (method := find_method(name)) is None:
        near = difflib.get_close_matches(name, words(), 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(words())}"
        raise ConfigError(f"--methods: {name!r} is unknown; {hint}")
    if method.family == "reward":
        raise ConfigError(f"--methods: {name} trains a scorer, which gives no answers to compare")
    return method


def bench(task: BenchTask, out: Path, *, say: Say = lambda _: None, tell: Progress | None = None) -> dict[str, Any]:
    """Trains and measures whatever ``out`` does not hold yet, and writes the comparison.

    The same call goes on where an interrupted one was: a method with a seed that is finished is kept, one that was
    under way or failed is begun again, so that its time and memory are those of one undisturbed run.

    Args:
        task: what is asked for.
        out: folder to make, or one that was begun with the same settings.
        say: called with a line as each part begins or ends.
        tell: called after each answer that is drawn for pairs.

    Returns:
        What ``results.json`` holds; see :func:`trueup.recipes.bench_table.report_of`.

    Raises:
        UserError: prompts, model, scorer or folder cannot be used; what was finished stays.
    """
    scorer = open_scorer(task.reward, device=machine_named(precision=task.precision).device)
    if task.gold is not None:
        open_scorer(task.gold)  # what cannot be used is said before anything is trained
    with _held(out) as lock:
        settings = _begun(out, task)
        for seed in task.seeds:
            if any(checked_method(m).family not in SAMPLES for m in task.methods):
                _pairs(task, out, seed, scorer, say, tell)
        jobs = [(BASE, None), *((m, s) for s in task.seeds for m in task.methods)]
        failed: dict[str, str] = {}
        for number, (method, seed) in enumerate(jobs):
            folder = out / (BASE if seed is None else f"{method}-{seed}")
            if (folder / "result.json").exists():
                say(f"{folder.name}: kept ({number} of {len(jobs) - 1})")
                continue
            reason = run_apart(_job(task, out, folder, method, seed), folder, lock)
            if reason is not None and seed is None:
                raise RunError(f"{folder}: the untrained model could not be measured: {reason}")
            if reason is not None:
                failed[folder.name] = reason
            say(_ended(folder, reason, number, len(jobs) - 1))
        return write_report(out, settings, task.methods, task.seeds, failed)


def _ended(folder: Path, reason: str | None, number: int, of: int) -> str:
    place = f"({number} of {of})"
    if reason is not None:
        return f"{folder.name}: failed: {reason} {place}"
    found = parse((folder / "result.json").read_bytes())
    took = f"trained in {found['seconds']:.0f} s, " if "seconds" in found else ""
    return f"{folder.name}: {took}measured in {found['measuring_seconds']:.0f} s {place}"


# ── the folder ──


@contextmanager
def _held(out: Path) -> Iterator[int]:
    """The folder, for this process and the one it starts alone: the descriptor of the lock, which that one inherits.

    Raises:
        RunError: it holds something else, or another process has it.
    """
    ours = out.is_dir() and ((out / SETTINGS).is_file() or {p.name for p in out.iterdir()} <= HALF_MADE)
    if out.exists() and not ours:
        raise RunError(f"{out}: is there and was not made by bench-methods; name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError:
        raise RunError(f"{out}: another process is at work there") from None
    finally:
        os.close(lock)
        if not (out / SETTINGS).exists():  # refused before it began: nothing is left behind
            with contextlib.suppress(OSError):
                (out / ".lock").unlink()
                out.rmdir()


def _begun(out: Path, task: BenchTask) -> dict[str, Any]:
    """Writes settings and prompts, or compares the settings with those that are there.

    Raises:
        RunError: they differ; the message says in what.
        DataError: prompts that cannot be used.
    """
    settings = task.settings()
    if (out / SETTINGS).exists():
        kept = parse((out / SETTINGS).read_bytes())
        told = [f"{k} {kept.get(k)!r}, now {settings.get(k)!r}" for k in {**kept, **settings}
                if kept.get(k) != settings.get(k)]  # fmt: skip
        if told:
            raise RunError(f"{out}: was begun with {'; '.join(told)}; use those settings, or another --out")
        return settings
    train, held_out = _prompts(task)
    for name, rows in (("prompts", train), ("held_out", held_out)):
        write_rows(out / f"{name}.jsonl", [_row(p) for p in rows], overwrite=True)
    write_json(out / SETTINGS, settings)
    return settings


def _row(prompt: Prompt) -> dict[str, Any]:
    tools = {} if prompt.tools is None else {"tools": list(prompt.tools)}
    return {"id": prompt.id, "prompt": shown(prompt.prompt), **tools, **prompt.meta}


def _prompts(task: BenchTask) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts, chosen at random but always alike where there are more than wanted.

    Raises:
        DataError: none, or prompts that are in both.
    """
    if task.data is None:
        train, held_out = (read_prompts_of(str(DATA / f"{n}.jsonl")).rows for n in ("prompts", "held_out"))
    elif task.held_out is not None:
        train, held_out = (read_prompts_of(path).rows for path in (task.data, task.held_out))
    else:
        train, held_out = split_held_out(read_prompts_of(task.data).rows, HELD_OUT_SHARE, 0)
        if not held_out:
            raise DataError(f"{task.data}: too few prompts to hold some out; name others with --held-out")
    if both := shared_prompts(train, held_out):
        raise DataError(f"{task.held_out}: {len(both)} held-out prompts are training prompts too ({both[0]}): leave "
                        "them out of one of the two files")  # fmt: skip
    return _some(train, task.prompts), _some(held_out, task.held_out_prompts)


def _some(rows: Sequence[Prompt], count: int) -> list[Prompt]:
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(order.tolist())]


def _pairs(task: BenchTask, out: Path, seed: int, scorer: Scorer, say: Say, tell: Progress | None) -> None:
    """Answers of the base model to the training prompts, paired best against worst; kept if they are there.

    Raises:
        DataError: no pair at all.
    """
    folder = out / f"seed-{seed}"
    if (folder / "pairs.json").exists():
        return
    folder.mkdir(exist_ok=True)
    say(f"seed {seed}: {task.n} answers of the base model to each training prompt")
    (folder / "pairs.jsonl").unlink(missing_ok=True)  # complete but without its report: a kill fell between the two
    source = Source(task.model, Sampling(n=task.n, max_new_tokens=task.max_new_tokens, seed=seed))
    begun = time.monotonic()
    report = make_pairs(
        [source], str(out / "prompts.jsonl"), folder / "pairs.jsonl", scorer,
        Pairing(min_margin=task.min_margin, seed=seed), machine_named(precision=task.precision), tell=tell,
    )  # fmt: skip
    # of an interrupted drawing only a part was timed: no figure rather than a wrong one
    seconds = time.monotonic() - begun if report.drawn == report.answers else None
    write_json(folder / "pairs.json", {**report.to_json(), "seconds": seconds})


# ── one job ──


def config_of(task: BenchTask, name: str, seed: int, pairs: Path, prompts: Path) -> RunConfig:
    """The settings of one training run; what is not named here is the project's default.

    Args:
        task: what is asked for.
        name: the method.
        seed: of data order, adapters and answers.
        pairs: data of methods that learn from a file: they take pairs, their better sides, or both sides as labels.
        prompts: data of methods that sample.
    """
    method = checked_method(name)
    samples = method.family in SAMPLES
    # one pair is two rows of labels; a sampling method draws n answers to each prompt of a step
    rows = 2 * ROWS_A_STEP if method.family == "unpaired" else ROWS_A_STEP
    more: dict[str, Any] = {}
    if samples:
        more = {"reward": task.reward, "sample": SampleConfig(n=task.n, max_new_tokens=task.max_new_tokens)}
    if method.family == "online":
        more["online"] = OnlineConfig(min_margin=task.min_margin)
    if method.family == "policy":
        more["policy"] = PolicyConfig(epochs=task.passes)
    # passes of a policy gradient are over each batch of answers, and online losses learn from theirs once: a second
    # pass over the prompts would double the answers drawn
    once = method.family == "policy" or name.startswith("online-")
    return RunConfig(
        method=name,
        model=ModelConfig(path=task.model),
        data=DataConfig(path=str(prompts if samples else pairs), eval_fraction=0.0),
        train=TrainConfig(
            lr=task.lr, batch_size=rows, epochs=1.0 if once else float(task.passes), seed=seed,
            precision=task.precision,  # type: ignore[arg-type]
        ),
        lora=LoraConfig(rank=task.lora_rank, alpha=2.0 * task.lora_rank) if task.lora_rank else None,
        **more,
    )  # fmt: skip


def _job(task: BenchTask, out: Path, folder: Path, method: str, seed: int | None) -> dict[str, Any]:
    """What the process of a job reads."""
    config = None
    if seed is not None:
        config = config_of(task, method, seed, out / f"seed-{seed}" / "pairs.jsonl", out / "prompts.jsonl")
    scorers = {"reward": task.reward} | ({} if task.gold is None else {"gold": task.gold})
    sampling = {"n": task.held_out_n, "max_new_tokens": task.max_new_tokens, "seed": EVAL_SEED}
    return {
        "method": method, "seed": seed, "config": None if config is None else config.model_dump(mode="json"),
        "base": task.model, "held_out": str(out / "held_out.jsonl"), "sampling": sampling, "scorers": scorers,
    }  # fmt: skip
