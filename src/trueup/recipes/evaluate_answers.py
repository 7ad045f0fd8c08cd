"""`trueup eval answers`: models or files of answers on the same prompts, from drawing to figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trueup.data.render import Chat
from trueup.errors import ConfigError, ModelError, ScoringError
from trueup.evals.figure import Figure, prompts_of
from trueup.evals.kl import drift_figures
from trueup.feedback.base import Answered, Scorer
from trueup.feedback.judgement import Judgement, Summary, summaries
from trueup.feedback.parse import open_scorer
from trueup.models.layout import Branches
from trueup.models.reference import FrozenCopy, TokenReference
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampler, Sampling
from trueup.models.source import resolve
from trueup.ops.ratings import rate_models
from trueup.recipes.answers import Progress, open_sampler, opened, rendered
from trueup.recipes.build import Machine
from trueup.recipes.contestants import (
    REFERENCE,
    Answers,
    Contestant,
    Prompts,
    draw,
    prompts_of_file,
    read_answers,
    read_prompts_of,
    reference_answers,
)
from trueup.recipes.evaluate import (
    Contrast,
    Evaluation,
    Subject,
    begun,
    contrast,
    finished,
    holm_corrected,
    interval_figure,
)
from trueup.recipes.evaluate_figures import Scores, answer_figures, measures
from trueup.recipes.evaluate_judges import (
    Duel,
    JudgeSpec,
    check_judge,
    duel,
    duel_contrasts,
    duel_differences,
    judge_warnings,
    opened_judge,
    scorer_spec,
)
from trueup.runs.encode import plain
from trueup.runs.journal import Journal

SCORED_AT_ONCE = 32
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersTask:
    """What is asked for.

    Attributes:
        contestants: whose answers.
        data: the prompts; None: those of the first file of answers.
        baseline: name of the contestant that the others are compared with, or :data:`REFERENCE`; None: every two are
            compared.
        every_pair: compare every two although there is a baseline.
        rewards: scorers, as :func:`trueup.feedback.parse.open_scorer` takes them.
        judge: who compares; None: nobody.
        reference: the model that KL is measured to; None: no KL.
        sampling: how models answer.
        limit: only the first prompts.
        slots: answers at once.
        chat: whether raw prompts become a user turn.
        seed: of intervals and groupings.
    """

    contestants: tuple[Contestant, ...]
    data: str | None = None
    baseline: str | None = None
    every_pair: bool = False
    rewards: tuple[str, ...] = ()
    judge: JudgeSpec | None = None
    reference: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    limit: int | None = None
    slots: int = 64
    chat: Chat = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what contradicts itself.

        Raises:
            ConfigError: no contestant, two of one name, an unknown baseline, or options without effect.
        """
        names = [c.name for c in self.contestants]
        if not names:
            raise ConfigError("nothing to evaluate: name a --model or a file of --answers")
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise ConfigError(f"two contestants are called {twice!r}; give them names: NAME=PATH")
        if self.data is None and any(c.kind == "model" for c in self.contestants):
            raise ConfigError("--data: a model needs prompts to answer")
        if self.baseline is not None and self.baseline not in (*names, REFERENCE):
            raise ConfigError(f"--baseline: {self.baseline!r} is none of {', '.join((*names, REFERENCE))}")
        if REFERENCE in names:
            raise ConfigError(f"a contestant cannot be called {REFERENCE!r}: that is the answers beside the prompts")
        if self.judge is not None and len(names) + (self.baseline == REFERENCE) < 2:
            raise ConfigError(
                "--judge: compares two contestants, and there is one; name another, or --baseline reference"
            )
        if self.reference is not None and not any(c.kind == "model" and c.servers is None for c in self.contestants):
            raise ConfigError("--reference-model: has no effect without a --model that runs in this process")
        if self.reference is not None and not _plain(self.sampling):
            raise ConfigError("--reference-model: KL is known without bias only at --temperature 1 and --top-p 1")

    def settings(self) -> dict[str, Any]:
        """For eval.json."""
        whole = {
            "contestants": {c.name: c.source for c in self.contestants}, "data": self.data, "baseline": self.baseline,
            "rewards": list(self.rewards), "judge": list(self.judge.specs) if self.judge else [],
            "rubric": self.judge.rubric.text if self.judge else None, "reference_model": self.reference,
            "limit": self.limit, "seed": self.seed,
        }  # fmt: skip
        if any(c.kind == "model" for c in self.contestants):
            whole["sampling"] = plain(asdict(self.sampling))
        return whole


@dataclass(slots=True)
class _Found:
    """What was gathered of one contestant."""

    answers: Answers
    figures: list[Figure] = field(default_factory=list[Figure])
    left_out: list[str] = field(default_factory=list[str])
    scores: list[Scores] = field(default_factory=list[Scores])


def evaluate_answers(
    task: AnswersTask, out: Path, machine: Machine, *, tell: Progress | None = None, say: Say | None = None
) -> Evaluation:
    """Draws, scores, judges and measures; the same call goes on where an interrupted one was.

    Args:
        task: what is asked for.
        out: folder to make.
        machine: where models run.
        tell: called after each answer.
        say: called with a line when a part begins.

    Raises:
        TrueupError: whatever cannot be used; what was drawn, scored and judged stays in ``out``.
    """
    say = say or (lambda _: None)
    # what cannot be used is said before anything is drawn
    scorers = [open_scorer(scorer_spec(spec, "--reward"), device=machine.device) for spec in task.rewards]
    if task.judge is not None:
        check_judge(task.judge)
    if task.reference is not None:
        resolve(task.reference)
    prompts = _prompts(task)
    references = [reference_answers(prompts)] if task.baseline == REFERENCE else []
    journal = begun(out)
    found = [_gathered(task, who, i, prompts, journal, machine, tell, say) for i, who in enumerate(task.contestants)]
    found += [_Found(r) for r in references]
    for number, scorer in enumerate(scorers):
        _score(found, scorer, number, journal, say)
    duels, summary = _judged(task, [f.answers for f in found], machine, journal, say)
    return _written(task, out, prompts, found, duels, summary)


def _prompts(task: AnswersTask) -> Prompts:
    if task.data is not None:
        return read_prompts_of(task.data, task.limit)
    return prompts_of_file(task.contestants[0].source, task.limit)


def _gathered(
    task: AnswersTask, who: Contestant, number: int, prompts: Prompts, journal: Path, machine: Machine,
    tell: Progress | None, say: Say,
) -> _Found:  # fmt: skip
    if who.kind == "file":
        return _Found(read_answers(who, prompts, limited=task.limit is not None))
    say(f"{who.name}: answering {len(prompts.rows)} prompts, {task.sampling.n} times each")
    with opened(who.source, machine, who.servers, slots=task.slots, chat=task.chat) as sampler:
        place = journal / f"answers-{number}.jsonl"
        answers = draw(who, sampler, prompts, task.sampling, place, machine, chat=task.chat, tell=tell)
        found = _Found(answers)
        _drift(task, found, sampler, prompts, machine)
    return found


def _plain(sampling: Sampling) -> bool:
    """Whether answers are drawn from the model's own distribution."""
    return (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)


def _drift(task: AnswersTask, found: _Found, sampler: Sampler, prompts: Prompts, machine: Machine) -> None:
    """KL and entropy over the answers just drawn, where that can be known."""
    if not isinstance(sampler, LocalSampler):
        found.left_out.append("entropy, KL: the model is behind a server, which gives no distributions")
        return
    if not _plain(task.sampling):
        found.left_out.append("entropy: known without bias only for answers at temperature 1 and unfiltered")
        return
    assert found.answers.ids is not None
    reference: TokenReference | None = None
    if task.reference is not None:
        other = open_sampler(task.reference, machine)
        mine, theirs = (t.get_vocab() for t in (sampler.tokenizer, other.tokenizer))
        if mine != theirs:
            raise ModelError(
                f"--reference-model {task.reference}: its tokenizer is not that of {found.answers.who.source}: "
                "KL between them is not defined"
            )
        reference = FrozenCopy(other.policy, other.identity)
    n, ids = task.sampling.n, found.answers.ids
    groups = []
    for i, asked in enumerate(rendered(sampler, prompts.rows)):
        own = ids[i * n : (i + 1) * n]
        groups.append(Branches(asked.ids, own, tuple(np.ones(len(a), dtype=bool) for a in own)))
    clusters = prompts_of(found.answers.rows)[::n]
    found.figures += drift_figures(sampler.policy, reference, groups, clusters, seed=task.seed)


def _score(found: Sequence[_Found], scorer: Scorer, number: int, journal: Path, say: Say) -> None:
    """Scores everybody's answers by one scorer; what the journal holds is not scored again."""
    name = "reward" if number == 0 else f"reward_{number + 1}"
    for f in found:
        say(f"{f.answers.who.name}: scored by {scorer.identity}")
    told = {"kind": "scores", "scorer": scorer.identity, "answers": [f.answers.identity for f in found]}
    with Journal(journal / f"scores-{number}.jsonl", told) as kept:
        for f in found:
            keys = [f"{f.answers.who.name}|{a.id}#{k}" for a, k in zip(f.answers.rows, f.answers.index, strict=True)]
            todo = [(k, a) for k, a in zip(keys, f.answers.rows, strict=True) if k not in kept]
            for start in range(0, len(todo), SCORED_AT_ONCE):
                part = todo[start : start + SCORED_AT_ONCE]
                for (key, _), record in zip(part, _scored(scorer, [a for _, a in part]), strict=True):
                    kept.add(key, record)
            records = [kept.records[k] for k in keys]
            reasons = [r["reason"] for r in records if r["score"] is None]
            values = np.array([np.nan if r["score"] is None else r["score"] for r in records])
            f.scores.append(Scores(name, scorer.identity, values, tuple(reasons)))


def _scored(scorer: Scorer, answers: Sequence[Answered]) -> list[dict[str, Any]]:
    """A score each, or why there is none; a batch with an answer that cannot be scored is scored one by one."""
    try:
        return [{"score": float(v), "reason": ""} for v in scorer.score(answers)]
    except ScoringError as error:
        if len(answers) == 1:
            return [{"score": None, "reason": str(error)}]
    return [record for a in answers for record in _scored(scorer, [a])]


# ── judging ──


def pairs_of(names: Sequence[str], baseline: str | None, every_pair: bool) -> list[tuple[int, int]]:
    """Which contestants are compared, as indices; a baseline stands second."""
    if baseline is None or every_pair:
        whole = itertools.combinations(range(len(names)), 2)
        return [(j, i) if names[i] == baseline else (i, j) for i, j in whole]
    return [(i, names.index(baseline)) for i in range(len(names)) if names[i] != baseline]


def _judged(
    task: AnswersTask, answers: Sequence[Answers], machine: Machine, journal: Path, say: Say
) -> tuple[list[Duel], dict[str, Summary]]:
    if task.judge is None:
        return [], {}
    pairs = pairs_of([a.who.name for a in answers], task.baseline, task.every_pair)
    duels: list[Duel] = []
    with opened_judge(task.judge, machine, journal / "judge.jsonl") as judge:
        for i, j in pairs:
            shown = f"{answers[i].who.name} against {answers[j].who.name}"
            say(f"{shown}: judged by {judge.identity}")
            duels.append(duel(judge, answers[i], answers[j], _teller(say, shown)))
    said: list[Judgement] = [j for d in duels for j in d.said if j is not None]
    return duels, summaries(said)


def _teller(say: Say, shown: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        say(f"{shown}: {done} of {total} pairs judged")

    return tell


def _ratings(duels: Sequence[Duel], names: Sequence[str], seed: int) -> tuple[Figure, ...]:
    """Bradley-Terry ratings of three and more, on Elo's scale; empty where some were never scored."""
    first, second, clusters, values = list[str](), list[str](), list[str](), list[float]()
    for d in duels:
        for p, prompt in zip(d.p.tolist(), d.prompts, strict=True):
            if not np.isnan(p):
                first.append(d.first.who.name)
                second.append(d.second.who.name)
                clusters.append(prompt)
                values.append(p)
    if len(names) < 3 or {*first, *second} != set(names):
        return ()
    found = rate_models(first, second, np.array(values), clusters=clusters, scale="elo", seed=seed)
    compared = {name: (np.array(first) == name) | (np.array(second) == name) for name in found.names}
    figures = []
    for name, interval in zip(found.names, found.ratings, strict=True):
        own = np.flatnonzero(compared[name])
        count = len({clusters[i] for i in own})
        figures.append(interval_figure(name, interval, len(own), count, "Elo points; the mean of all is 1000"))
    return tuple(sorted(figures, key=lambda f: -f.mean))


# ── the result ──


def _written(
    task: AnswersTask, out: Path, prompts: Prompts, found: Sequence[_Found], duels: Sequence[Duel],
    summary: dict[str, Summary],
) -> Evaluation:  # fmt: skip
    names = [f.answers.who.name for f in found]
    contrasts: list[Contrast] = []
    warnings = list(prompts.warnings)
    for d in duels:
        own, told = duel_contrasts(d, task.seed)
        contrasts += own
        warnings += told
    for i, j in pairs_of(names, task.baseline, task.every_pair):
        contrasts += _differences(found[i], found[j], task.seed)
    contrasts += duel_differences(duels, task.seed)
    warnings += judge_warnings(summary)
    if len(prompts.rows) == 1:
        warnings.append("one prompt: no interval is possible, and nothing here says anything of other prompts")
    evaluation = Evaluation(
        kind="answers",
        headline="",
        settings=task.settings(),
        subjects=tuple(_subject(f, task.seed) for f in found),
        contrasts=holm_corrected(contrasts),
        ratings=_ratings(duels, names, task.seed),
        judges=summary,
        warnings=tuple(warnings),
    )
    lines = {
        "answers": [line for f in found for line in _answer_lines(f)],
        "judgements": [line for d in duels for line in d.lines()],
    }
    return finished(out, evaluation.with_headline(), lines)


def _differences(first: _Found, second: _Found, seed: int) -> Iterator[Contrast]:
    """Paired differences of every measure that both have, over prompts."""
    mine, theirs = (measures(f.answers.rows, f.scores) for f in (first, second))
    for name in (m for m in mine if m in theirs):
        shared = sorted(mine[name].keys() & theirs[name].keys())
        if shared:
            a, b = (np.array([side[name][p] for p in shared]) for side in (mine, theirs))
            yield contrast(name, (first.answers.who.name, a), (second.answers.who.name, b), shared, seed)


def _subject(found: _Found, seed: int) -> Subject:
    told = answer_figures(found.answers.rows, found.scores, seed=seed)
    who = found.answers.who
    return Subject(
        name=who.name, source=who.source, identity=found.answers.identity, rows=len(found.answers.rows),
        figures=(*told.figures, *found.figures), tables=told.tables, left_out=(*told.left_out, *found.left_out),
        warnings=tuple(told.warnings),
    )  # fmt: skip


def _answer_lines(found: _Found) -> Iterator[dict[str, Any]]:
    for i, (answered, index) in enumerate(zip(found.answers.rows, found.answers.index, strict=True)):
        prompt = answered.prompt if isinstance(answered.prompt, str) else [dict(t) for t in answered.prompt]
        yield {
            "model": found.answers.who.name, "id": answered.id, "prompt": prompt, "index": index,
            "answer": answered.answer, "truncated": answered.truncated, "tokens": answered.tokens,
            "scores": {s.name: float(s.values[i]) for s in found.scores},
        }  # fmt: skip
