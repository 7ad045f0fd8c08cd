"""`trueup cai run|revise|label|explain|rebuild`."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from trueup.cli.show import listen
from trueup.errors import ConfigError, RunError
from trueup.feedback.constitution import load_constitution
from trueup.feedback.local import LocalSpeaker
from trueup.feedback.speaker import Speaker
from trueup.models.sampling import Sampling
from trueup.recipes.answers import open_sampler, read_prompts, sample_file
from trueup.recipes.build import machine_named
from trueup.recipes.cai_audit import explain as explained
from trueup.recipes.cai_audit import rebuild as rebuilt
from trueup.recipes.cai_course import course_of
from trueup.recipes.cai_label import Labelling
from trueup.recipes.cai_label import label as make_labels
from trueup.recipes.cai_log import rows_of
from trueup.recipes.cai_mix import comparisons_of, conversations_of
from trueup.recipes.cai_revise import Revising
from trueup.recipes.cai_revise import revise as make_revisions
from trueup.recipes.cai_run import CaiPlan, report_lines, run_cai
from trueup.recipes.judges import Speaking, open_speaking
from trueup.runs.metrics import read_jsonl

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Constitutional AI: critiques, revisions, labels by principles, an aligned model, an audit trail.",
)
Model = Annotated[str, typer.Option(help="model to align: folder, GGUF file, hub id, run folder, or bundled:NAME")]
File = Annotated[str, typer.Option(help="constitution: YAML file, or default")]
Feedback = Annotated[str | None, typer.Option(help="model that critiques and compares; default: the model itself")]
Server = Annotated[
    list[str] | None, typer.Option(help="address of an OpenAI-compatible server that gives the feedback; may repeat")
]
Key = Annotated[str | None, typer.Option(help="environment variable that holds the servers' key")]
Tokens = Annotated[int, typer.Option(help="of every text")]
Seed = Annotated[int, typer.Option(help="of texts and of the principles drawn")]
Rounds = Annotated[int | None, typer.Option(help="critique-revision rounds; default: the constitution's")]
Warmth = Annotated[float | None, typer.Option("--temperature", help="of every text; default: the constitution's")]
Helpful = Annotated[
    str | None, typer.Option(help="conversations by people, mixed into the revisions; default: the constitution's")
]
Comparisons = Annotated[str | None, typer.Option(help="pairs compared by people, mixed into the labels")]
Ratio = Annotated[
    float | None, typer.Option(help="rows by people for each revision or label; default: the constitution's")
]
AsJson = Annotated[bool, typer.Option("--json", help="print as JSON")]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def speaking_of(model: str, feedback: str | None, server: list[str] | None, key: str | None) -> Speaking:
    """What opens the feedback model; one in this process is loaded when it is first needed.

    Raises:
        ConfigError: a server without the name of its model, or a key for no server.
    """
    if server:
        if feedback is None:
            raise ConfigError("--feedback: missing; name the model that the servers serve")
        return open_speaking({"server": server, "model": feedback, "key_env": key}, machine_named())
    if key is not None:
        raise ConfigError("--feedback-key-env: has no effect without --feedback-server")
    opened: list[Speaking] = []

    def late() -> AbstractContextManager[Speaker]:
        if not opened:
            opened.append(open_speaking(feedback or model, machine_named()))
        return opened[0]()

    return late


@app.command()
def run(
    model: Model,
    out: Annotated[Path, typer.Option(help="folder of the run; the same command goes on with it")],
    constitution: File = "default",
    prompts: Annotated[str | None, typer.Option(help="red-team prompts; default: the 64 that are shipped")] = None,
    feedback: Feedback = None,
    feedback_server: Server = None,
    feedback_key_env: Key = None,
    route: Annotated[str, typer.Option(help="dpo on the labels, or rlhf: reward model and PPO")] = "dpo",
    revisions: Rounds = None,
    temperature: Warmth = None,
    answers: Annotated[int, typer.Option(help="a prompt, that are compared")] = 2,
    max_tokens: Tokens = 128,
    reasoned: Annotated[
        bool, typer.Option("--reasoned", help="the judge gives reasons before its verdict; labels are clamped")
    ] = False,
    helpful: Helpful = None,
    comparisons: Comparisons = None,
    ratio: Ratio = None,
    alike: Annotated[
        str | None, typer.Option(help="safe and unsafe prompts that look alike, with label; default: those shipped")
    ] = None,
    hhh: Annotated[str | None, typer.Option(help="the HHH comparisons: what is the judge worth?")] = None,
    hhh_items: Annotated[int, typer.Option(help="the first so many of them")] = 40,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="optimizer steps of PPO")] = 20,
    config: Annotated[str | None, typer.Option(help="YAML file with settings of every training stage")] = None,
    as_json: AsJson = False,
) -> int:
    """Red-team prompts and a constitution in, an aligned model and a report out; every stage goes on where it was."""
    if route not in ("dpo", "rlhf"):
        raise ConfigError(f"--route: {route!r} is none of dpo, rlhf")
    if answers < 2 or max_tokens < 1 or hhh_items < 1 or steps < 1:
        raise ConfigError("--max-tokens, --hhh-items and --steps are at least 1, --answers 2")
    for name, path in (("helpful", helpful), ("comparisons", comparisons), ("alike", alike)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"--{name}: {path}: there is no such file")
    plan = CaiPlan(
        model=model, constitution=constitution, prompts=prompts, route=cast(Any, route), revisions=revisions,
        temperature=temperature, answers=answers, max_tokens=max_tokens, reasoned=reasoned, helpful=helpful,
        comparisons=comparisons, ratio=ratio, alike=alike, hhh=hhh, hhh_items=hhh_items, seed=seed, steps=steps,
        config=config,
    )  # fmt: skip
    report = run_cai(plan, out, speaking_of(model, feedback, feedback_server, feedback_key_env), (listen(),), _say)
    print(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(report_lines(report)))
    return 0


@app.command()
def revise(
    model: Model,
    prompts: Annotated[str, typer.Option(help="red-team prompts: any file that holds prompts")],
    out: Annotated[Path, typer.Option(help="folder for sft.jsonl, revise.json and the log")],
    constitution: File = "default",
    feedback: Feedback = None,
    feedback_server: Server = None,
    feedback_key_env: Key = None,
    revisions: Rounds = None,
    temperature: Warmth = None,
    max_tokens: Tokens = 128,
    helpful: Helpful = None,
    ratio: Ratio = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Drafts, critiques, revisions: a file for `trueup train sft`."""
    if max_tokens < 1:
        raise ConfigError("--max-tokens is at least 1")
    principles = load_constitution(constitution)
    course = course_of(principles, revisions=revisions, temperature=temperature, helpful=helpful, ratio=ratio)
    people = conversations_of(course.helpful) if course.helpful else []
    rows = rows_of(read_prompts(prompts))
    speaking = speaking_of(model, feedback, feedback_server, feedback_key_env)
    writer = LocalSpeaker(open_sampler(model, machine_named()))
    with speaking() as critic:
        settings = Revising(
            revisions=course.revisions, temperature=course.temperature, max_tokens=max_tokens, seed=seed,
            ratio=course.ratio if people else 0.0,
        )  # fmt: skip
        report = make_revisions(principles, rows, settings, writer, critic, out, people)
    _told(report, as_json, f"{report['kept']} of {report['prompts']} revisions kept: {out / 'sft.jsonl'}")
    return 0


@app.command()
def label(
    model: Model,
    prompts: Annotated[str, typer.Option(help="any file that holds prompts")],
    out: Annotated[Path, typer.Option(help="folder for preferences.jsonl, label.json, matrix.json and the log")],
    constitution: File = "default",
    feedback: Feedback = None,
    feedback_server: Server = None,
    feedback_key_env: Key = None,
    answers: Annotated[int, typer.Option(help="a prompt, that are compared")] = 2,
    max_tokens: Tokens = 128,
    reasoned: Annotated[
        bool, typer.Option("--reasoned", help="reasons before the verdict; labels are clamped")
    ] = False,
    temperature: Warmth = None,
    comparisons: Comparisons = None,
    ratio: Ratio = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Answers of the model, compared under each principle: soft labels for `trueup train dpo` or `reward`."""
    if answers < 2 or max_tokens < 1:
        raise ConfigError("--answers is at least 2, --max-tokens 1")
    people = comparisons_of(comparisons) if comparisons else []
    principles, rows = load_constitution(constitution), rows_of(read_prompts(prompts))
    course = course_of(principles, temperature=temperature, ratio=ratio)
    speaking = speaking_of(model, feedback, feedback_server, feedback_key_env)
    out.mkdir(parents=True, exist_ok=True)
    if not (drawn := out / "answers.jsonl").exists():
        sampling = Sampling(n=answers, temperature=course.temperature, max_new_tokens=max_tokens, seed=seed)
        sample_file(model, prompts, drawn, sampling, machine_named())
    lines = list(read_jsonl(drawn))
    given = {r["id"]: [x["answer"] for x in lines if x["id"] == r["id"]] for r in rows}
    settings = Labelling(
        reasoned=reasoned, decide=principles.defaults.decide, max_tokens=max_tokens, seed=seed,
        ratio=course.ratio if people else 0.0,
    )  # fmt: skip
    with speaking() as judge:
        report = make_labels(principles, rows, given, settings, judge, out, lines[0]["model"], people)
    how = f"{report['labelled']} of {report['pairs']} pairs labelled: {out / 'preferences.jsonl'}"
    _told(report, as_json, how + ("\nwarning: the judge prefers one slot: unusable" if report["unusable"] else ""))
    return 0


@app.command()
def explain(
    folder: Annotated[Path, typer.Argument(help="folder of a run, or of a stage")],
    row: Annotated[str, typer.Argument(help="id of a prompt, or of a pair of its answers (ID/0-1)")],
) -> int:
    """The whole way from a prompt to its label: every call, every verdict, what decided."""
    print("\n".join(explained(folder, row)))
    return 0


@app.command()
def rebuild(
    folder: Annotated[Path, typer.Argument(help="folder of a run, or of a stage")],
    out: Annotated[Path, typer.Option(help="folder to make")],
    as_json: AsJson = False,
) -> int:
    """Make the data sets again from the logs alone, and compare. Exit code 2 if a byte differs."""
    same = rebuilt(folder, out)
    words = {True: "the same bytes", False: "DIFFERENT", None: "the run has none"}
    _told(same, as_json, "\n".join(f"{name}: {words[equal]}" for name, equal in same.items()))
    if False in same.values():
        raise RunError(
            f"{folder}: was changed after it was made: {', '.join(n for n, s in same.items() if s is False)}"
        )
    return 0


def _told(report: Any, as_json: bool, text: str) -> None:
    print(json.dumps(report, ensure_ascii=False) if as_json else text)
