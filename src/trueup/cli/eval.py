"""`trueup eval answers|reward|choice|perplexity|agreement`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import typer

from trueup.cli.sample import Teller, sampling_of, servers_of
from trueup.cli.show_eval import show_evaluation
from trueup.data.render import Chat
from trueup.errors import ConfigError
from trueup.feedback.hearing import Manner, Way
from trueup.feedback.verdict import HELPFUL, Rubric
from trueup.recipes.build import Machine, machine_named
from trueup.recipes.contestants import named
from trueup.recipes.evaluate import Evaluation, begun, finished
from trueup.recipes.evaluate_agreement import evaluate_judge, evaluate_raters
from trueup.recipes.evaluate_answers import AnswersTask, evaluate_answers
from trueup.recipes.evaluate_export import check_form, export_answers, export_paths
from trueup.recipes.evaluate_judges import JudgeSpec, is_scorer
from trueup.recipes.evaluate_sets import FORMS, evaluate_choices, evaluate_perplexity, evaluate_rewards

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure models, answers, reward models and judges: every figure with its 95 % interval.",
)

Found: TypeAlias = tuple[Evaluation, Mapping[str, Sequence[Mapping[str, Any]]]]
Words = list[str] | None
Models = Annotated[Words, typer.Option(help="[NAME=]MODEL: run folder, model, adapter, bundled:NAME; again for more")]
Model = Annotated[
    list[str], typer.Option(help="[NAME=]MODEL: run folder, model, adapter, bundled:NAME; again for more")
]
Given = Annotated[Words, typer.Option("--answers", help="[NAME=]FILE of answers; again for more")]
Data = Annotated[str | None, typer.Option(help="prompts; default: those of the first file of answers")]
Baseline = Annotated[str | None, typer.Option(help="NAME that the others meet, or reference: the answers in --data")]
EveryPair = Annotated[bool, typer.Option("--every-pair", help="compare every two, although there is a baseline")]
Rewards = Annotated[Words, typer.Option(help="who scores: PATH, rule:NAME, module:function or YAML; again for more")]
Reward = Annotated[list[str], typer.Option(help="scorer: PATH, rule:NAME, module:function or YAML; again for more")]
Judges = Annotated[Words, typer.Option(help="who compares: a model, rule:NAME or reward:SCORER; several make a panel")]
JudgeServer = Annotated[Words, typer.Option(help="OpenAI-compatible server of the judging model; again for more")]
JudgeKey = Annotated[str | None, typer.Option(help="environment variable that holds its key")]
JudgeConcurrency = Annotated[int, typer.Option(help="requests at once to each of its servers")]
JudgeWay = Annotated[str, typer.Option(help="auto, logprobs (of the answer tokens) or parsed (a verdict in words)")]
JudgeScale = Annotated[float, typer.Option(help="rule or reward as judge: p = sigmoid(score difference / this)")]
JudgeCalls = Annotated[int | None, typer.Option(help="calls to judging models at most, over restarts")]
RubricText = Annotated[str | None, typer.Option(help="what counts, in words, or @FILE")]
Reference = Annotated[str | None, typer.Option(help="model that KL is measured to")]
N = Annotated[int, typer.Option(help="answers a prompt")]
Temperature = Annotated[float, typer.Option(help="of answers; 0: greedy")]
TopP = Annotated[float, typer.Option(help="only the likeliest tokens that hold this probability")]
MaxNewTokens = Annotated[int, typer.Option(help="longer answers are truncated")]
Server = Annotated[Words, typer.Option(help="OpenAI-compatible server of the --model; again for more")]
ServerKey = Annotated[str | None, typer.Option(help="environment variable that holds the servers' key")]
ServerConcurrency = Annotated[int, typer.Option(help="requests at once to each server")]
ChatMode = Annotated[str, typer.Option(help="raw prompts: auto, template (a user turn) or plain")]
Export = Annotated[tuple[str, Path] | None, typer.Option(help="alpaca-eval FILE: answers as AlpacaEval reads them")]
Out = Annotated[Path | None, typer.Option(help="folder to make: eval.json, rows, calls; without it nothing is kept")]
Seed = Annotated[int, typer.Option(help="of answers, groupings and resampling")]
Limit = Annotated[int | None, typer.Option(help="use the first rows only")]
Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32")]
AsJson = Annotated[bool, typer.Option("--json", help="print eval.json instead of tables")]
Pairs = Annotated[str | None, typer.Option("--data", help="pairs that people ranked: chosen and rejected")]
BestOf = Annotated[str | None, typer.Option(help="several answers a prompt, with scores by people")]
Questions = Annotated[str, typer.Option(help="file of questions")]
Form = Annotated[str, typer.Option(help=", ".join(FORMS))]
SkipTooLong = Annotated[bool, typer.Option("--skip-too-long", help="leave out questions longer than a context")]
PairForm = Annotated[str, typer.Option("--form", help="of --data: pairs (any format that holds them) or hhh")]
Texts = Annotated[str, typer.Option("--data", help="held-out texts: a row each with a text, or one text file")]
Window = Annotated[int | None, typer.Option(help="tokens seen at once; default 1024, or the context if that is less")]
Stride = Annotated[int | None, typer.Option(help="tokens from one window to the next; default half a window")]
Labels = Annotated[str, typer.Option("--data", help="pairs that people ranked (--judge), or rows of labels (--raters)")]
Raters = Annotated[str | None, typer.Option(help="columns of labels, with commas between")]
Cluster = Annotated[str | None, typer.Option(help="column that says which rows belong together (with --raters)")]


def machine_of(precision: str) -> Machine:
    """Where models run.

    Raises:
        ConfigError: an unknown precision.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"--precision: {precision!r} is none of auto, bf16, fp32")
    return machine_named(precision=precision)


def judge_of(
    judges: Sequence[str] | None, server: list[str] | None, key: str | None, concurrency: int, way: str,
    scale: float, calls: int | None, rubric: str | None,
) -> JudgeSpec | None:  # fmt: skip
    """The judge that the options name; None: none.

    Raises:
        ConfigError: options that contradict each other, or have no effect.
    """
    models = [j for j in judges or () if not is_scorer(j)]
    idle = {"--judge-server": server, "--judge-key-env": key, "--rubric": rubric, "--judge-calls": calls}
    for name, value in idle.items():
        if value and not models:
            raise ConfigError(f"{name}: has no effect without a --judge that is a model")
    if way not in ("auto", "logprobs", "parsed"):
        raise ConfigError(f"--judge-way: {way!r} is none of auto, logprobs, parsed")
    if not judges:
        return None
    if server and len(models) > 1:
        raise ConfigError("--judge-server: serves one judging model; there are " + ", ".join(models))
    served = servers_of(server, models[0], key, concurrency) if models else None
    return JudgeSpec(
        specs=tuple(judges), servers=tuple(served if j in models else None for j in judges), rubric=rubric_of(rubric),
        manner=Manner(way=cast(Way, way)), scale=scale, calls=calls,
    )  # fmt: skip


def rubric_of(words: str | None) -> Rubric:
    """From words or ``@FILE``.

    Raises:
        ConfigError: a file that cannot be read, or nothing in it.
    """
    if words is None:
        return HELPFUL
    try:
        text = Path(words[1:]).read_text(encoding="utf-8") if words.startswith("@") else words
        return Rubric(text.strip(), "own")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--rubric: {words}: {error}") from None


@contextmanager
def folder_of(out: Path | None) -> Iterator[Path]:
    """The folder that is named, or one that is gone afterwards."""
    if out is not None:
        yield out
        return
    place = Path(tempfile.mkdtemp(prefix="trueup-eval-"))
    try:
        yield place / "eval"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def told(evaluation: Evaluation, out: Path | None, as_json: bool) -> int:
    """Prints the result; returns the exit code."""
    if as_json:
        print(json.dumps(evaluation.to_json(), ensure_ascii=False, allow_nan=False))
        return 0
    show_evaluation(evaluation)
    if out is not None:
        print(f"written: {out}")
    return 0


def kept(out: Path | None, as_json: bool, work: Callable[[Path], Found]) -> int:
    """Makes the folder, works (with its journal folder), writes what was found, and prints it."""
    with folder_of(out) as place:
        journal = begun(place)
        evaluation, rows = work(journal)
        evaluation = finished(place, evaluation, rows)
    return told(evaluation, out, as_json)


def say(line: str) -> None:
    """A line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def checked_chat(chat: str, served: bool = False) -> Chat:
    """How raw prompts are put.

    Raises:
        ConfigError: an unknown way, or a way that a server decides.
    """
    if chat not in ("auto", "template", "plain"):
        raise ConfigError(f"--chat: {chat!r} is none of auto, template, plain")
    if served and chat != "auto":
        raise ConfigError("--chat: has no effect with --server, which renders prompts itself")
    return cast(Chat, chat)


@app.command()
def answers(
    model: Models = None,
    given: Given = None,
    data: Data = None,
    baseline: Baseline = None,
    every_pair: EveryPair = False,
    reward: Rewards = None,
    judge: Judges = None,
    judge_server: JudgeServer = None,
    judge_key_env: JudgeKey = None,
    judge_concurrency: JudgeConcurrency = 8,
    judge_way: JudgeWay = "auto",
    judge_scale: JudgeScale = 1.0,
    judge_calls: JudgeCalls = None,
    rubric: RubricText = None,
    reference_model: Reference = None,
    n: N = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    server: Server = None,
    server_key_env: ServerKey = None,
    server_concurrency: ServerConcurrency = 8,
    chat: ChatMode = "auto",
    export: Export = None,
    out: Out = None,
    seed: Seed = 0,
    limit: Limit = None,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> int:
    """Answers of models and files: rewards, win rates, lengths, variety, refusals. Interrupted, the same goes on."""
    if server and len(model or ()) != 1:
        raise ConfigError("--server: serves one --model")
    asked = [named(m, "model") for m in model or ()]
    served = [servers_of(server, who.source, server_key_env, server_concurrency) for who in asked]
    task = AnswersTask(
        contestants=(
            *(replace(who, servers=s) for who, s in zip(asked, served, strict=True)),
            *(named(g, "file") for g in given or ()),
        ),
        data=data, baseline=baseline, every_pair=every_pair, rewards=tuple(reward or ()), reference=reference_model,
        judge=judge_of(
            judge, judge_server, judge_key_env, judge_concurrency, judge_way, judge_scale, judge_calls, rubric
        ),
        sampling=sampling_of(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, n=n, seed=seed),
        limit=limit, chat=checked_chat(chat, bool(server)), seed=seed,
    )  # fmt: skip
    return _answers(task, out, machine_of(precision), export, as_json)


def _answers(
    task: AnswersTask, out: Path | None, machine: Machine, export: tuple[str, Path] | None, as_json: bool
) -> int:
    names = [c.name for c in task.contestants]
    if export is not None:
        check_form(export[0])
        export_paths(export[1], names)  # before anything is drawn
    with folder_of(out) as place:
        found = evaluate_answers(task, place, machine, tell=Teller(), say=say)
        written = [] if export is None else export_answers(place, *export, names)
    code = told(found, out, as_json)
    for path in written if not as_json else ():
        print(f"written: {path}")
    return code


@app.command()
def reward(
    reward: Reward,
    data: Pairs = None,
    form: PairForm = "pairs",
    best_of: BestOf = None,
    out: Out = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> int:
    """Reward models and rules on answers that people ranked: accuracy, best of N, calibration, and length alone."""
    machine = machine_of(precision)
    return kept(out, as_json, lambda _: (evaluate_rewards(reward, data, best_of, machine, form=form, seed=seed), {}))


@app.command()
def choice(
    model: Model,
    questions: Questions,
    form: Form = "plain",
    chat: ChatMode = "plain",
    out: Out = None,
    limit: Limit = None,
    skip_too_long: SkipTooLong = False,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> int:
    """Multiple choice by log-probability: HHH, TruthfulQA, or questions of your own."""
    who, how, machine = [named(m, "model") for m in model], checked_chat(chat), machine_of(precision)

    def work(_: Path) -> Found:
        found = evaluate_choices(who, questions, form, machine, chat=how, limit=limit, skip_too_long=skip_too_long)
        return found, {}

    return kept(out, as_json, work)


@app.command()
def perplexity(
    model: Model,
    data: Texts,
    window: Window = None,
    stride: Stride = None,
    out: Out = None,
    seed: Seed = 0,
    limit: Limit = None,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> int:
    """Perplexity and bits per byte of held-out text."""
    who, machine = [named(m, "model") for m in model], machine_of(precision)

    def work(_: Path) -> Found:
        return evaluate_perplexity(who, data, machine, window=window, stride=stride, limit=limit, seed=seed), {}

    return kept(out, as_json, work)


@app.command()
def agreement(
    data: Labels,
    form: PairForm = "pairs",
    judge: Judges = None,
    judge_server: JudgeServer = None,
    judge_key_env: JudgeKey = None,
    judge_concurrency: JudgeConcurrency = 8,
    judge_way: JudgeWay = "auto",
    judge_scale: JudgeScale = 1.0,
    judge_calls: JudgeCalls = None,
    rubric: RubricText = None,
    raters: Raters = None,
    cluster: Cluster = None,
    out: Out = None,
    seed: Seed = 0,
    limit: Limit = None,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> int:
    """Does a judge say what people say (--judge), or several columns of labels the same (--raters)?"""
    if bool(judge) == bool(raters):
        raise ConfigError("--judge or --raters: one of the two is needed")
    if cluster is not None and judge:
        raise ConfigError("--cluster: has no effect with --judge: pairs belong together by their prompt")
    if form != "pairs" and raters:
        raise ConfigError("--form: has no effect with --raters")
    spec = judge_of(judge, judge_server, judge_key_env, judge_concurrency, judge_way, judge_scale, judge_calls, rubric)
    machine = machine_of(precision)

    def work(journal: Path) -> Found:
        if spec is None:
            columns = [c.strip() for c in (raters or "").split(",")]
            return evaluate_raters(data, columns, cluster=cluster, seed=seed), {}
        found, rows = evaluate_judge(spec, data, journal, machine, form=form, limit=limit, seed=seed, say=say)
        return found, {"judgements": rows}

    return kept(out, as_json, work)
