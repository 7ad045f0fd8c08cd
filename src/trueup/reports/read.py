"""A run folder as the report sees it: everything that is there, and a plain word for everything that is not.

Nothing in a folder is trusted: values of the wrong kind are left out and named in :attr:`RunView.problems`. What makes
the folder no run at all (no manifest, another version, an altered config) is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trueup.errors import RunError
from trueup.runs.encode import parse
from trueup.runs.folder import read_run
from trueup.runs.metrics import number, read_jsonl

T = TypeVar("T")

MOST = 1e300
DEMO = "results.json"  # of the demo, beside its run


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the steps: ``steps`` and ``values`` ``[n]``; values may be nan or infinite."""

    steps: list[float]
    values: list[float]

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [v for v in self.values if math.isfinite(v)]


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its 95 % interval; ``low`` and ``high`` are None where no interval can be known."""

    mean: float
    low: float | None
    high: float | None
    n: int | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer that the run kept for a person to read.

    Attributes:
        step: after which it was given; 0: before training.
        row: id of its prompt's row.
        prompt: as the model saw it; empty if the run did not keep it.
        answer: the text.
        greedy: an answer to a held-out prompt before or after; else one that training drew.
        ended: False: cut off at the limit; None: not known.
        score, tokens: where the run kept them.
    """

    step: int
    row: str
    prompt: str
    answer: str
    greedy: bool
    ended: bool | None = None
    score: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AlarmSeen:
    """A line of ``alarms.jsonl``: the fields of :class:`trueup.types.Alarm`, and what was done about it."""

    monitor: str
    step: int
    level: str
    seen: str
    since: int
    cause: str
    action: str
    done: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run folder, read.

    Attributes:
        name: of the folder, as it is shown.
        path: of the folder.
        config, manifest: what the run was told, and where it happened.
        curves: metric -> curve; of ``metrics.jsonl`` and ``timings.jsonl``.
        steps: number of the last step; 0 if there is none.
        skipped: steps that changed no weight.
        samples: answers that the run kept.
        alarms: of the monitors; None: no monitor watched.
        audit: what the data check found, or nothing.
        before, after: figures on held-out rows.
        demo: what the demo measured beside its run, or nothing.
        finished: the result was published.
        problems: what is missing, unfinished or damaged, in words.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    curves: Mapping[str, Curve]
    steps: int
    skipped: int
    samples: Sequence[Sampled]
    alarms: Sequence[AlarmSeen] | None
    audit: Mapping[str, Any]
    before: Mapping[str, Measured]
    after: Mapping[str, Measured]
    demo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    finished: bool
    problems: Sequence[str]

    @property
    def method(self) -> str:
        """The word of ``trueup train``."""
        return str(self.config.get("method", "unknown method"))

    @property
    def model(self) -> str:
        """The model that training began with, as the user named it."""
        return str(at(self.config, "model", "path") or "unknown model")

    @property
    def seconds(self) -> float | None:
        """Time of all steps together; None if it was not kept."""
        curve = self.curves.get("seconds")
        return sum(curve.finite) if curve and curve.finite else None


def read_view(path: Path) -> RunView:
    """Reads a run folder, or the folder of the demo that holds one.

    Raises:
        RunError: no run folder, half-made, of another version, or damaged at its root.
    """
    path, beside = (path / "run", path) if _is_demo(path) else (path, None)
    config, manifest = read_run(path)
    problems: list[str] = []
    curves, skipped = _curves(path, problems)
    finished = (path / "model").is_dir()
    results = read_object(path / "results.json", problems, "no figures on held-out rows")
    audit = read_object(path / "audit.json", problems, "nothing is known of the data")
    samples = _lines(path / "samples.jsonl", _sample, problems, "no answers to read")
    alarms = _alarms(path, "monitors" in config, problems)
    steps = int(max((c.steps[-1] for c in curves.values() if c.steps), default=0))
    if not finished:
        problems.insert(0, f"The run is not finished: {steps} steps are there and no model/ was published.")
    return RunView(
        name=(beside or path).resolve().name or str(path),
        path=path,
        config=config,
        manifest=manifest,
        curves=curves,
        steps=steps,
        skipped=skipped,
        samples=samples,
        alarms=alarms,
        audit=audit,
        before=_measured(results.get("before"), "results.json: before", problems),
        after=_measured(results.get("after"), "results.json: after", problems),
        demo=read_object(beside / DEMO, problems, "the demo did not come to its end") if beside else {},
        finished=finished,
        problems=problems,
    )


def at(value: Any, *keys: str) -> Any:
    """The value under nested keys; None where something on the way is not there."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def real(value: Any) -> float | None:
    """A finite number of a size that can be reckoned with, or None."""
    try:
        found = number(value)
    except RunError:
        return None
    return found if abs(found) < MOST else None


def _is_demo(path: Path) -> bool:
    return not (path / "manifest.json").exists() and (path / "run" / "manifest.json").is_file()


def read_object(path: Path, problems: list[str], without: str) -> Mapping[str, Any]:
    """A JSON object, or nothing and a problem."""
    if not path.exists():
        problems.append(f"{path.name} is missing: {without}.")
        return {}
    try:
        value = parse(path.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} is damaged ({' '.join(str(error).split())}): it is left out.")
        return {}
    if not isinstance(value, Mapping):
        problems.append(f"{path.name} holds no object: it is left out.")
        return {}
    return value


def read_records(path: Path, problems: list[str], without: str) -> list[dict[str, Any]]:
    """The objects of a line file, or none and a problem."""
    if not path.exists():
        problems.append(f"{path.name} is missing: {without}.")
        return []
    try:
        records = read_jsonl(path)
    except RunError as error:
        problems.append(f"{path.name} is damaged ({str(error).removeprefix(str(path)).lstrip(':')}): it is left out.")
        return []
    if records.torn is not None:
        problems.append(f"{path.name} ends in an unfinished line, which is left out.")
    return list(records)


def _lines(path: Path, reader: Callable[[Mapping[str, Any]], T | None], problems: list[str], without: str) -> list[T]:
    """The lines of a file that ``reader`` understands; those it does not are counted."""
    found = [reader(r) for r in read_records(path, problems, without)]
    odd = sum(f is None for f in found)
    if odd:
        problems.append(f"{path.name}: {odd} of {len(found)} lines are not understood and left out.")
    return [f for f in found if f is not None]


def _curves(path: Path, problems: list[str]) -> tuple[dict[str, Curve], int]:
    curves: dict[str, Curve] = {}
    skipped = odd = 0
    for name in ("metrics.jsonl", "timings.jsonl"):
        for record in read_records(path / name, problems, "no curves"):
            step = real(record.get("step"))
            if step is None:
                odd += 1
                continue
            skipped += record.get("skipped") is True
            for metric, value in record.items():
                if metric == "step" or isinstance(value, bool | list):
                    continue
                try:
                    found = number(value)
                except RunError:
                    odd += 1
                    continue
                curve = curves.setdefault(metric, Curve([], []))
                curve.steps.append(step)
                curve.values.append(found)
    if odd:
        problems.append(f"metrics.jsonl and timings.jsonl: {odd} values are no numbers and left out.")
    return curves, skipped


def _alarms(path: Path, watched: bool, problems: list[str]) -> list[AlarmSeen] | None:
    """What monitors said; nothing where they watched and found nothing, None where none watched."""
    if (path / "undone.jsonl").exists():
        undone = read_records(path / "undone.jsonl", problems, "")
        if undone:
            problems.append(f"{len(undone)} steps were rolled back after an alarm; they stand in undone.jsonl only.")
    if not (path / "alarms.jsonl").exists():
        return [] if watched else None
    return _lines(path / "alarms.jsonl", _alarm, problems, "")


def _sample(record: Mapping[str, Any]) -> Sampled | None:
    step, answer = real(record.get("step")), record.get("answer")
    if step is None or not isinstance(answer, str):
        return None
    tokens = real(record.get("tokens"))
    ended = record.get("ended")
    if "finish" in record:
        ended = record["finish"] != "length"
    prompt = record.get("prompt")
    return Sampled(
        step=int(step),
        row=str(record.get("row", "")),
        prompt=prompt if isinstance(prompt, str) else "",
        answer=answer,
        greedy="ended" in record,
        ended=ended if isinstance(ended, bool) else None,
        score=real(record.get("score")),
        tokens=None if tokens is None else int(tokens),
    )


def _alarm(record: Mapping[str, Any]) -> AlarmSeen | None:
    step, since = real(record.get("step")), real(record.get("since"))
    words = {name: record.get(name, "") for name in ("monitor", "level", "seen", "cause", "action")}
    if step is None or not all(isinstance(w, str) for w in words.values()):
        return None
    done = record.get("done", "")
    return AlarmSeen(
        step=int(step), since=int(step if since is None else since), done=done if isinstance(done, str) else "", **words
    )


def _measured(value: Any, where: str, problems: list[str]) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for name, figure in (value if isinstance(value, Mapping) else {}).items():
        mean = real(at(figure, "mean"))
        if mean is None:
            problems.append(f"{where}: {name} is not a finite number.")
            continue
        n = real(at(figure, "n"))
        found[name] = Measured(mean, real(at(figure, "low")), real(at(figure, "high")), None if n is None else int(n))
    return found
