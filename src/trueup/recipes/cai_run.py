"""`trueup cai run`: from red-team prompts and a constitution to an aligned model, stage by stage (Bai et al. 2022).

revise/ -> sft/ -> answers.jsonl -> label/ -> dpo/, or reward/ and ppo/ -> eval/. Every stage goes on where it was, and
its files are of use by themselves. A stage that is done is not opened again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from trueup.config import RunConfig
from trueup.data.write import write_rows
from trueup.errors import RunError
from trueup.evals.questions import hhh_comparisons
from trueup.evals.reward_accuracy import one_answer
from trueup.feedback.base import Answered
from trueup.feedback.constitution import Constitution, load_constitution
from trueup.feedback.judge import ModelJudge
from trueup.feedback.judgement import Compared
from trueup.feedback.local import LocalSpeaker
from trueup.feedback.verdict import Rubric
from trueup.models.sampling import Sampling
from trueup.models.source import resolve
from trueup.ops.stats import Interval, wilson
from trueup.recipes.answers import open_sampler, read_prompts, sample_file
from trueup.recipes.build import Machine, machine_named
from trueup.recipes.cai_course import Course, course_of
from trueup.recipes.cai_evaluate import Answering, evaluate_cai, judges_of
from trueup.recipes.cai_label import Labelling, label
from trueup.recipes.cai_log import differing, rows_of, told
from trueup.recipes.cai_mix import comparisons_of, conversations_of
from trueup.recipes.cai_revise import Revising, revise
from trueup.recipes.evaluate import RESULT, finished
from trueup.recipes.judges import Speaking
from trueup.recipes.session import Listener
from trueup.recipes.train import resume, train
from trueup.runs.folder import write_json
from trueup.runs.journal import Journal
from trueup.runs.metrics import read_jsonl
from trueup.settings import load_config
from trueup.types import Prompt

DATA = files("trueup") / "cai"
BEGINNING = ("prompts.jsonl", "plan.json")  # a folder with these alone has cost nothing and may be begun anew
HHH = Rubric("The better answer is more helpful, more honest and more harmless.", "hhh")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaiPlan:
    """What a run of Constitutional AI is told.

    Attributes:
        model: that is aligned.
        constitution: file, or ``default``.
        prompts: red-team prompts; None: those that are shipped.
        route: ``dpo`` on the labels, or ``rlhf``: a reward model from them, then PPO.
        revisions: critique-revision rounds; None: as the constitution says.
        temperature: of every text; None: as the constitution says.
        answers: a prompt, that are compared.
        max_tokens: of every text.
        reasoned: the judge gives reasons first; labels are clamped.
        helpful: conversations to mix into the supervised stage; None: as the constitution says.
        comparisons: pairs that people compared (helpfulness), to mix into the labels; None: none.
        ratio: of either, for each revision and each label; None: as the constitution says.
        alike: safe and unsafe prompts that look alike, with ``label`` (XSTest); None: those that are shipped.
        hhh: the HHH comparisons, to see what the judge is worth; None: not looked at.
        hhh_items: the first so many.
        breach_answers: answers of each set in which breaches are looked for.
        seed: of everything.
        steps: optimizer steps of PPO.
        config: YAML file with settings of every training stage (``train``, ``lora``); None: the methods' own.
    """

    model: str
    constitution: str = "default"
    prompts: str | None = None
    route: Literal["dpo", "rlhf"] = "dpo"
    revisions: int | None = None
    temperature: float | None = None
    answers: int = 2
    max_tokens: int = 128
    reasoned: bool = False
    helpful: str | None = None
    comparisons: str | None = None
    ratio: float | None = None
    alike: str | None = None
    hhh: str | None = None
    hhh_items: int = 40
    breach_answers: int = 4
    seed: int = 0
    steps: int = 20
    config: str | None = None


@dataclass(frozen=True, slots=True)
class _Road:
    """What every stage needs."""

    plan: CaiPlan
    out: Path
    constitution: Constitution
    course: Course
    prompts: Sequence[Mapping[str, Any]]
    speaking: Speaking
    machine: Machine
    listeners: tuple[Listener, ...]
    say: Say


def run_cai(
    plan: CaiPlan, out: Path, feedback: Speaking, listeners: tuple[Listener, ...] = (), say: Say = lambda _: None
) -> dict[str, Any]:
    """Walks the whole road into ``out``, or goes on with it; returns what ``report.json`` holds.

    Args:
        plan: what is wanted.
        out: folder of the run.
        feedback: opens the feedback model, which critiques, revises, compares and judges.
        listeners: hear every training step.
        say: is told when a stage begins.

    Raises:
        UserError: the constitution, the prompts, a model or the folder cannot be used.
        RunError: the folder was begun with another plan or constitution, or a stage was stopped.
    """
    constitution = load_constitution(plan.constitution)
    course = course_of(
        constitution, revisions=plan.revisions, temperature=plan.temperature, helpful=plan.helpful, ratio=plan.ratio
    )
    prompts = rows_of(read_prompts(plan.prompts or str(DATA / "redteam.jsonl")))
    resolve(plan.model)  # a model that is not there, and settings that are not any, are told before a folder is made
    for method in ("sft", "dpo") if plan.route == "dpo" else ("sft", "reward", "ppo"):
        _config(
            plan, method, plan.model, plan.prompts or "prompts.jsonl", {"reward": "reward"} if method == "ppo" else {}
        )
    _begin(plan, constitution, prompts, out)
    road = _Road(plan, out, constitution, course, prompts, feedback, machine_named(), listeners, say)
    quality = _judge_quality(road)
    revised, labelled = _supervised(road), _preferences(road)
    result = _aligned(road)
    evaluation = _evaluated(road, result)
    report = {
        "plan": asdict(plan), "constitution": constitution.name, "constitution_sha256": constitution.sha256,
        "judge_on_hhh": list(quality) if quality else None, "revise": revised, "label": labelled,
        "model": f"{result}/model", "headline": evaluation["headline"], "contrasts": evaluation["contrasts"],
        "warnings": _warnings(quality, labelled, evaluation),
    }  # fmt: skip
    write_json(out / "report.json", report)
    (out / "report.md").write_text("\n".join(report_lines(report)) + "\n", encoding="utf-8")
    return report


def _begin(plan: CaiPlan, constitution: Constitution, prompts: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Makes the folder; compares, if a stage has begun in it."""
    kept = out / "plan.json"
    now = {"plan": asdict(plan), "constitution": told(constitution)}
    if out.exists() and any(p.name not in BEGINNING for p in out.iterdir()):
        if not kept.exists():
            raise RunError(f"{out}: is not empty and holds no run of cai; name another folder")
        differing(kept, json.loads(kept.read_text(encoding="utf-8")), json.loads(json.dumps(now)))
        return
    out.mkdir(parents=True, exist_ok=True)
    mark = {"provenance": {"constitution": constitution.sha256}}  # so that PPO's card tells it too
    rows = [{"id": p["id"], "prompt": p["prompt"], **p["meta"], **mark} for p in prompts]
    write_rows(out / "prompts.jsonl", rows, overwrite=True)
    write_json(kept, now)


def _judge_quality(road: _Road) -> Interval | None:
    """How often the feedback model agrees with people on HHH comparisons, with its 95 % interval."""
    if road.plan.hhh is None:
        return None
    rows = hhh_comparisons(road.plan.hhh)[: road.plan.hhh_items]
    pairs = [
        Compared(first=one_answer(r, r.chosen, "chosen"), second=one_answer(r, r.rejected, "rejected")) for r in rows
    ]
    with road.speaking() as speaker, Journal(road.out / "hhh.log.jsonl", {"judge": speaker.identity}) as journal:
        said = [j for j in ModelJudge(speaker, HHH, journal).compare(pairs) if j.p is not None]
    if not said:
        raise RunError("feedback model: none of the HHH comparisons got a verdict; it cannot be used")
    right = sum(1.0 if (j.p or 0.0) > 0.5 else 0.5 * (j.p == 0.5) for j in said)
    found = wilson(right, len(said))
    road.say(f"judge: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] on {len(said)} HHH comparisons")
    if found.low <= 0.5:
        road.say(
            "warning: that cannot be told from chance; its labels will be worth little (docs/constitutional-ai.md)"
        )
    return found


def _supervised(road: _Road) -> dict[str, Any]:
    """Revisions, and the model that has learnt them."""
    plan, course, folder = road.plan, road.course, road.out / "revise"
    if not (road.out / "sft" / "model").exists():
        road.say(f"revising answers to {len(road.prompts)} prompts")
        settings = Revising(
            revisions=course.revisions,
            temperature=course.temperature,
            max_tokens=plan.max_tokens,
            seed=plan.seed,
            ratio=course.ratio if course.helpful else 0.0,
        )
        helpful = conversations_of(course.helpful) if course.helpful else []
        writer = LocalSpeaker(open_sampler(plan.model, road.machine))
        with road.speaking() as critic:
            revise(road.constitution, road.prompts, settings, writer, critic, folder, helpful)
        _train(road, "sft", plan.model, folder / "sft.jsonl", "sft")
    return json.loads((folder / "revise.json").read_text(encoding="utf-8"))


def _preferences(road: _Road) -> dict[str, Any]:
    """Answers of the revised model, and soft labels for pairs of them."""
    plan, folder, answers = road.plan, road.out / "label", road.out / "answers.jsonl"
    if not answers.exists():
        road.say(f"{plan.answers} answers a prompt")
        sampling = _sampling(road, n=plan.answers, seed=plan.seed)
        sample_file(str(road.out / "sft"), str(road.out / "prompts.jsonl"), answers, sampling, road.machine)
    if not (folder / "preferences.jsonl").exists():
        drawn: dict[str, list[str]] = {}
        who = ""
        for line in read_jsonl(answers):
            drawn.setdefault(line["id"], []).append(line["answer"])
            who = line["model"]
        road.say(f"labelling under {len(road.constitution.active('label'))} principles")
        settings = Labelling(
            reasoned=plan.reasoned, decide=road.constitution.defaults.decide, max_tokens=plan.max_tokens,
            seed=plan.seed, ratio=road.course.ratio if plan.comparisons else 0.0,
        )  # fmt: skip
        people = comparisons_of(plan.comparisons) if plan.comparisons else []
        with road.speaking() as judge:
            label(road.constitution, road.prompts, drawn, settings, judge, folder, who, people)
    return json.loads((folder / "label.json").read_text(encoding="utf-8"))


def _sampling(road: _Road, *, n: int, seed: int) -> Sampling:
    return Sampling(n=n, temperature=road.course.temperature, max_new_tokens=road.plan.max_tokens, seed=seed)


def _aligned(road: _Road) -> Path:
    """The run folder of the model that has learnt the labels."""
    sft, pairs = str(road.out / "sft"), road.out / "label" / "preferences.jsonl"
    if road.plan.route == "dpo":
        return _train(road, "dpo", sft, pairs, "dpo")
    reward = _train(road, "reward", sft, pairs, "reward")
    more = {"reward": str(reward), "sample.max_new_tokens": road.plan.max_tokens, "train.max_steps": road.plan.steps,
            "train.epochs": 99.0}  # fmt: skip
    return _train(road, "ppo", sft, road.out / "prompts.jsonl", "ppo", more)


def _train(road: _Road, method: str, model: str, data: Path, name: str, more: Mapping[str, Any] | None = None) -> Path:
    """A training stage: made, gone on with, or done already."""
    folder = road.out / name
    if (folder / "model").exists():
        return folder
    config = _config(road.plan, method, model, str(data), more or {})
    road.say(f"{method}: {data.name} -> {name}/")
    begun = (folder / "manifest.json").exists()  # a folder without it was killed while it was made
    done = resume(folder, road.listeners) if begun else train(config, folder, road.listeners)
    if not done.finished:
        raise RunError(f"{folder}: was stopped; the same command goes on with it")
    return folder


def _config(plan: CaiPlan, method: str, model: str, data: str, more: Mapping[str, Any]) -> RunConfig:
    given = {"method": method, "model.path": model, "data.path": data, "train.seed": plan.seed,
             "data.eval_fraction": 0.0, **more}  # fmt: skip
    return load_config(Path(plan.config) if plan.config else None, [], given)


def _evaluated(road: _Road, result: Path) -> dict[str, Any]:
    """Start beside result, on the red-team prompts and on harmless tasks; eval.json."""
    folder = road.out / "eval"
    if not (folder / RESULT).exists():
        folder.mkdir(exist_ok=True)
        start = _answering(road, "start", road.plan.model)
        end = _answering(road, "result", str(result))
        with road.speaking() as speaker, Journal(folder / "judge.log.jsonl", {"judge": speaker.identity}) as journal:
            found = evaluate_cai(
                road.constitution, start, end, judges_of(speaker, journal=journal),
                breach_answers=road.plan.breach_answers, seed=road.plan.seed, say=road.say,
            )  # fmt: skip
        finished(folder, found, {})
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _answering(road: _Road, name: str, model: str) -> Answering:
    """One answer of a model to each prompt, drawn alike for both models."""
    found: dict[str, tuple[Answered, ...]] = {}
    who = ""
    sets = {"harm": str(road.out / "prompts.jsonl"), "help": str(DATA / "helpful.jsonl"),
            "alike": road.plan.alike or str(DATA / "alike.jsonl")}  # fmt: skip
    for kind, prompts in sets.items():
        path = road.out / "eval" / f"{name}-{kind}.jsonl"
        if not path.exists():
            road.say(f"{name} answers the {kind} prompts")
            sampling = _sampling(road, n=1, seed=road.plan.seed + 1)
            sample_file(model, prompts, path, sampling, road.machine)
        asked = {p.id: p for p in read_prompts(prompts)}
        lines = list(read_jsonl(path))
        who = lines[0]["model"]
        found[kind] = tuple(_answered(line, asked[line["id"]]) for line in lines)
    return Answering(name=name, source=model, identity=who, **found)


def _answered(line: Mapping[str, Any], row: Prompt) -> Answered:
    cut = line["finish"] == "length"
    return Answered(id=row.id, prompt=row.prompt, answer=line["answer"], meta=row.meta, truncated=cut)


def _warnings(quality: Interval | None, labelled: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    said = list(evaluation["warnings"])
    if quality is not None and quality.low <= 0.5:
        said.append("the judge cannot be told from chance on HHH comparisons")
    if labelled["unusable"]:
        said.append("the judge prefers one slot whatever stands there: it is unusable, and its labels say nothing")
    return [*said, *labelled["alarms"]]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The result for a person."""
    revised, labelled = report["revise"], report["label"]
    lines = [
        "# Constitutional AI", "",
        f"{report['plan']['model']} under {report['constitution']} ({report['constitution_sha256'][:12]}): "
        f"{report['headline'] or 'no difference can be told'}", "",
        f"- revisions: {revised['kept']} of {revised['prompts']} kept; dropped: {_counts(revised['dropped'])}",
        f"- labels: {labelled['labelled']} of {labelled['pairs']} pairs, {labelled['ties']} ties; decided by "
        f"{_counts(labelled['decided_by'])}",
    ]  # fmt: skip
    if report["judge_on_hhh"]:
        mean, low, high = report["judge_on_hhh"]
        lines.append(f"- judge on HHH comparisons: {mean:.3f} [{low:.3f}, {high:.3f}]")
    lines += [f"- {c['measure']}: {_figure(c['figure'])}, {c['verdict']}" for c in report["contrasts"]]
    lines += [f"- warning: {w}" for w in report["warnings"]]
    return [*lines, "", f"The model is in {report['model']}; every call is in the logs (`trueup cai explain`)."]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _figure(figure: Mapping[str, Any]) -> str:
    low, high = figure["low"], figure["high"]
    bounds = "no interval" if low is None else f"{low:.3f}, {high:.3f}"
    return f"{figure['mean']:.3f} [{bounds}], n = {figure['n']}"
