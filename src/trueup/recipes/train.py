"""`trueup train` and `trueup resume`: one road from a config to a run folder with a model and its evidence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueup.config import RunConfig
from trueup.errors import ConfigError, MidStepError, TrainingError
from trueup.models.card import CardInfo, write_card
from trueup.models.policy import Policy
from trueup.models.save import save_result
from trueup.models.source import identity
from trueup.recipes.build import build
from trueup.recipes.guard import check_alarms
from trueup.recipes.online import build_online
from trueup.recipes.prepare import Prepared, prepare
from trueup.recipes.rollouts import build_rollouts
from trueup.recipes.samples import answer_prompts
from trueup.recipes.session import Listener, Progress, Session, follow
from trueup.recipes.work import Work
from trueup.runs.checkpoint import load_checkpoint, load_latest, step_folder
from trueup.runs.encode import parse
from trueup.runs.folder import RunFolder, read_run, write_json
from trueup.runs.metrics import JsonlWriter, cut_lines, read_jsonl
from trueup.runs.signals import Stop, stop_on_signals
from trueup.runs.sinks import open_sinks
from trueup.train import ranks
from trueup.train.evaluate import Figure
from trueup.train.methods import Method, find_method, words

log = logging.getLogger(__name__)

Results = dict[str, Any]
Builder = Callable[[RunConfig, Method, Prepared], tuple[Work, Policy]]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended.

    Attributes:
        folder: the run folder.
        steps: optimizer steps done.
        finished: False if a signal stopped it; ``trueup resume`` goes on.
        exit_code: for the shell; 0 when finished.
        results: ``before`` and ``after`` figures on held-out rows, each with mean, low, high, n.
        leader: False in every process but the first, which has nothing to show.
    """

    folder: Path
    steps: int
    finished: bool
    exit_code: int
    results: Results
    leader: bool = True


def method_of(config: RunConfig) -> Method:
    """The method of a config.

    Raises:
        ConfigError: no such method.
    """
    if (method := find_method(config.method)) is None:
        raise ConfigError(f"method: {config.method!r} is unknown; known are {', '.join(words())}")
    return method


def audit(config: RunConfig) -> Prepared:
    """Reads, renders and audits the data of a config; loads no weights and writes nothing."""
    return prepare(config, method_of(config))


def train(config: RunConfig, out: Path, listeners: tuple[Listener, ...] = ()) -> TrainResult:
    """Runs a config from the start.

    Raises:
        UserError: the config, the data, the model or the folder cannot be used; nothing is left behind.
        TrainingError: the run stopped itself; it is saved.
        ResourceError: disk or memory ran out; the last checkpoint is intact.
    """
    ranks.start()
    method = method_of(config)
    check_alarms(config)
    if ranks.world() > 1 and method.family in ("policy", "online"):
        raise ConfigError(f"{config.method}: several processes are not supported for methods that sample answers")
    if ranks.rank() > 0:
        return _follow(out, config, method)
    quarantine = out.with_name(out.name + ".quarantine.jsonl") if config.data.bad_rows == "quarantine" else None
    prepared = prepare(config, method, quarantine)
    settings = config.model_dump(mode="json")
    manifest = {
        "data": {"path": config.data.path, "rows": len(prepared.train), "held_out": len(prepared.held_out),
                 "tokens_sha256": prepared.fingerprint},
        "model": {"path": config.model.path, "identity": identity(config.model.path, config.model.revision)},
        "seed": config.train.seed,
    }  # fmt: skip
    with RunFolder.create(out, settings, manifest) as folder:
        write_json(folder.audit, prepared.audit.to_json())
        return _drive(folder, config, method, prepared, listeners)


def resume(out: Path, listeners: tuple[Listener, ...] = ()) -> TrainResult:
    """Goes on with a run from its newest sound checkpoint, bit for bit as if it had never stopped.

    Raises:
        RunError: no run folder, or one that belongs to other data, weights or objective.
    """
    ranks.start()
    if ranks.rank() > 0:
        ranks.wait()
        config = RunConfig.model_validate(read_run(out)[0])
        return _follow(out, config, method_of(config))
    with RunFolder.open(out) as folder:
        ranks.wait()
        config = RunConfig.model_validate(folder.config)
        method = method_of(config)
        if folder.model.exists():
            log.warning("%s: the run is finished; there is nothing to resume", out)
            results = _read_results(folder.path / "results.json", "before", "after")
            return TrainResult(folder.path, _steps_done(folder), True, 0, results)
        prepared = prepare(config, method)
        return _drive(folder, config, method, prepared, listeners)


def _drive(
    folder: RunFolder, config: RunConfig, method: Method, prepared: Prepared, listeners: tuple[Listener, ...]
) -> TrainResult:
    """Builds, restores if there is something to restore, trains, evaluates, writes the result."""
    builders: dict[str, Builder] = {"policy": build_rollouts, "online": build_online}
    job, policy = builders.get(method.family, build)(config, method, prepared)
    checkpoint, skipped = load_latest(folder.checkpoints)
    ranks.wait()
    for reason in skipped:
        log.warning("checkpoint not used: %s", reason)
    results_path = folder.path / "results.json"
    results: Results = {}
    if checkpoint is None:
        _start_afresh(folder)
        results["before"] = _figures(job.evaluate())
        write_json(results_path, results)
        _samples(folder, policy, prepared, 0, method)
    else:
        results = _read_results(results_path, "before")
    sinks = open_sinks(config.save.sinks, folder.config, folder.path)
    heard = (*listeners, lambda step: sinks.log(step.index, step.metrics))
    session = Session(folder, job, Progress(), heard, sinks.alarm)
    try:
        if checkpoint is not None:
            session.restore(checkpoint)
        with stop_on_signals() as stop:
            finished = _run(session, stop)
        steps = session.progress.loop.step
        if not finished:
            return TrainResult(folder.path, steps, False, stop.exit_code, results)
        _take_best(session, folder)
        results["after"] = _figures(job.evaluate())
        if table := job.memory().get("table"):
            results["rounds"] = table
        write_json(results_path, results)
        _samples(folder, policy, prepared, steps, method)
        _publish(folder, config, method, policy, prepared, job, results, session.progress)
        return TrainResult(folder.path, steps, True, 0, results)
    finally:
        session.close()
        sinks.close()


def _follow(out: Path, config: RunConfig, method: Method) -> TrainResult:
    """What every process but the first does with a run: its share of the steps; it writes nothing."""
    if (out / "model").exists():
        return TrainResult(out, 0, True, 0, {}, leader=False)
    job, _ = build(config, method, prepare(config, method))
    ranks.wait()
    checkpoint, _ = load_latest(out / "checkpoints") if (out / "checkpoints").exists() else (None, [])
    progress = Progress()
    with stop_on_signals() as stop:
        follow(job, progress, checkpoint, stop)
    return TrainResult(out, progress.loop.step, True, 0, {}, leader=False)


def _run(session: Session, stop: Stop) -> bool:
    try:
        return session.run(stop)
    except MidStepError:
        raise
    except TrainingError:
        session.save()
        raise


def _steps_done(folder: RunFolder) -> int:
    """Of a finished run: the step of its last line."""
    lines = read_jsonl(folder.metrics)
    return int(lines[-1]["step"]) if lines else 0


def _start_afresh(folder: RunFolder) -> None:
    """Empties what an interruption before the first checkpoint left."""
    for path in (folder.metrics, folder.timings, folder.samples, folder.alarms, folder.undone):
        cut_lines(path, 0)


def _figures(figures: Mapping[str, Figure]) -> dict[str, dict[str, float | None]]:
    return {name: figure.to_json() for name, figure in figures.items()}


def _read_results(path: Path, *wanted: str) -> Results:
    known = parse(path.read_bytes()) if path.exists() else {}
    return {name: known[name] for name in wanted if name in known}


def _samples(folder: RunFolder, policy: Policy, prepared: Prepared, step: int, method: Method) -> None:
    """Greedy answers to three held-out prompts, before (step 0) and after."""
    if method.family == "reward":
        return
    with JsonlWriter(folder.samples) as writer:
        for record in answer_prompts(policy, prepared.tokenizer, prepared.held_out, count=3):
            writer.append({"step": step, **record})


def _take_best(session: Session, folder: RunFolder) -> None:
    """Puts the best checkpoint's weights back if evaluation said that the last is not the best."""
    progress = session.progress
    if session.job.config.eval.every == 0 or progress.best_step in (0, progress.loop.step):
        return
    best = load_checkpoint(step_folder(folder.checkpoints, progress.best_step))
    session.job.optimizer.load(best.tensors["weights"], {})
    log.info("result: step %d, the best on held-out rows (%s)", progress.best_step, session.job.metric)


def _publish(
    folder: RunFolder,
    config: RunConfig,
    method: Method,
    policy: Policy,
    prepared: Prepared,
    job: Work,
    results: Results,
    progress: Progress,
) -> None:
    """Writes ``model/``: the result in plain transformers form with tokenizer, template and card."""
    job.optimizer.give_masters()
    info = CardInfo(
        base=config.model.path,
        base_identity=str(job.identity["model"]),
        method=method.name,
        data=config.data.path,
        data_fingerprint=prepared.fingerprint,
        rows=len(prepared.train),
        settings=config.model_dump(mode="json"),
        reference=str(job.identity["reference"]),
        results=results,
        steps=progress.loop.step,
        notes=tuple(f"The data were made under the constitution {c} (sha256)." for c in prepared.report.constitutions),
    )
    save_result(policy.model, prepared.tokenizer, folder.model, card=lambda path: write_card(path, info))
