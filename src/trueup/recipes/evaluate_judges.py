"""Who judges an evaluation, and the judging of two contestants' answers pair by pair."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trueup.errors import ConfigError
from trueup.evals.figure import Figure, prompts_of, rate_figure
from trueup.feedback.calls import Budget
from trueup.feedback.hearing import Manner
from trueup.feedback.judge import Judge, ModelJudge, Panel, ScorerJudge
from trueup.feedback.judgement import Compared, Judgement, Summary
from trueup.feedback.local import LocalSpeaker
from trueup.feedback.parse import open_scorer
from trueup.feedback.remote import RemoteSpeaker
from trueup.feedback.verdict import HELPFUL, Rubric
from trueup.models.endpoint import Endpoints
from trueup.models.source import resolve
from trueup.ops.stats import paired_test
from trueup.ops.winrate import length_controlled
from trueup.recipes.answers import Servers, open_sampler
from trueup.recipes.build import Machine
from trueup.recipes.contestants import Answers
from trueup.recipes.evaluate import Contrast, contrast, interval_figure
from trueup.runs.journal import Journal
from trueup.settings import read_yaml

Tell = Callable[[int, int], None]
AT_ONCE = 64  # pairs judged between two reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpec:
    """Who judges and how.

    Attributes:
        specs: each a model (path, hub id, ``bundled:NAME``), ``rule:NAME``, or ``reward:SPEC`` of a scorer; several
            make a panel.
        servers: where the model of each spec is served; None where it runs here, and for rules and reward models.
        rubric: what counts.
        manner: how models are asked.
        scale: of score differences.
        calls: at most, over all judges and restarts; None: any number.
    """

    specs: tuple[str, ...]
    servers: tuple[Servers | None, ...]
    rubric: Rubric = HELPFUL
    manner: Manner = field(default_factory=Manner)
    scale: float = 1.0
    calls: int | None = None


def is_scorer(spec: str) -> bool:
    """Whether a spec names a rule or a reward model, which see one answer at a time."""
    return spec.startswith(("rule:", "reward:", "{"))


def scorer_spec(spec: str, option: str = "--judge") -> str | Mapping[str, Any]:
    """What :func:`trueup.feedback.parse.open_scorer` takes.

    Raises:
        ConfigError: a YAML mapping that cannot be read.
    """
    spec = spec.removeprefix("reward:")
    return read_yaml(spec, option) if spec.lstrip().startswith("{") else spec


def check_judge(given: JudgeSpec) -> None:
    """Whether the judges are there, without loading them.

    Raises:
        ConfigError: a rule or a mapping that makes no sense, or a judge that is named twice.
        ModelError: a model that is not there.
    """
    if len(set(given.specs)) < len(given.specs):
        raise ConfigError(f"--judge: one of {', '.join(given.specs)} is named twice")
    for spec, servers in zip(given.specs, given.servers, strict=True):
        told = scorer_spec(spec) if is_scorer(spec) else spec
        if isinstance(told, Mapping) or told.startswith("rule:"):
            open_scorer(told)
        elif servers is None:
            resolve(told)


@contextmanager
def opened_judge(given: JudgeSpec, machine: Machine, journal: Path) -> Iterator[Judge]:
    """The judge, or the panel of judges; calls to models are kept in the journal.

    Raises:
        ConfigError: a spec that makes no sense.
        ModelError: a model that cannot be used, or is not served.
        RunError: the journal was begun with something else.
    """
    check_judge(given)
    with ExitStack() as stack:
        speaks = any(not is_scorer(s) for s in given.specs)
        kept = stack.enter_context(Journal(journal, {"kind": "judge", "judges": list(given.specs)})) if speaks else None
        budget = Budget(calls=given.calls)
        judges: list[Judge] = []
        for spec, servers in zip(given.specs, given.servers, strict=True):
            if is_scorer(spec):
                scorer = open_scorer(scorer_spec(spec), device=machine.device)
                judges.append(ScorerJudge(scorer, scale=given.scale))
                continue
            if servers is None:
                speaker: Any = LocalSpeaker(open_sampler(spec, machine))
            else:
                endpoints = stack.enter_context(Endpoints(servers.endpoints))
                endpoints.check()
                speaker = RemoteSpeaker(endpoints)
            judges.append(ModelJudge(speaker, given.rubric, kept, budget, manner=given.manner))
        yield judges[0] if len(judges) == 1 else Panel(judges)


def judge_warnings(summary: Mapping[str, Summary]) -> list[str]:
    """What is wrong with the judges, and with which of them if there are several."""
    return [w if len(summary) == 1 else f"{who}: {w}" for who, s in summary.items() for w in s.warnings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two contestants, answer by answer.

    Attributes:
        first, second: whose answers.
        pairs: what was compared, ``[n]``.
        index: which answer to its prompt.
        said: the judgement of each pair; None where both answers are the same text, which is a tie without asking.
    """

    first: Answers
    second: Answers
    pairs: tuple[Compared, ...]
    index: tuple[int, ...]
    said: tuple[Judgement | None, ...]

    @property
    def p(self) -> np.ndarray:
        """Probability that the first is better, ``[n]``; nan where unscored."""
        values = [0.5 if j is None else j.p for j in self.said]
        return np.array([np.nan if v is None else v for v in values])

    @property
    def prompts(self) -> list[str]:
        """The cluster of each pair."""
        return prompts_of([pair.first for pair in self.pairs])

    @property
    def identical(self) -> int:
        """Pairs of the same text."""
        return sum(j is None for j in self.said)

    def lines(self) -> Iterator[dict[str, Any]]:
        """One line a pair, for judgements.jsonl."""
        for pair, index, said in zip(self.pairs, self.index, self.said, strict=True):
            told: dict[str, Any] = {"p": 0.5, "orders": None, "flipped": False, "tie": True, "unscored": None}
            if said is not None:
                told = {name: getattr(said, name) for name in told}
            names = {"first": self.first.who.name, "second": self.second.who.name}
            yield {**names, "id": pair.id, "index": index, **told, "identical": said is None}


def duel(judge: Judge, first: Answers, second: Answers, tell: Tell | None = None) -> Duel:
    """Judges answer k of one contestant against answer k of the other (k mod m if it has only m).

    Args:
        judge: who judges.
        first: of the one.
        second: of the other, to the same prompts.
        tell: called with pairs done and pairs in all.
    """
    sizes = [max(a.index) + 1 for a in (first, second)]
    groups = [
        [a.rows[i : i + size] for i in range(0, len(a.rows), size)]
        for a, size in zip((first, second), sizes, strict=True)
    ]
    pairs, index = [], []
    for one, other in zip(*groups, strict=True):
        for k in range(max(sizes)):
            pairs.append(Compared(first=one[k % sizes[0]], second=other[k % sizes[1]]))
            index.append(k)
    asked = [i for i, pair in enumerate(pairs) if pair.first.answer != pair.second.answer]
    said: list[Judgement | None] = [None] * len(pairs)
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        for i, judgement in zip(part, judge.compare([pairs[i] for i in part]), strict=True):
            said[i] = judgement
        if tell is not None:
            tell(start + len(part), len(asked))
    return Duel(first=first, second=second, pairs=tuple(pairs), index=tuple(index), said=tuple(said))


def duel_contrasts(found: Duel, seed: int = 0) -> tuple[list[Contrast], list[str]]:
    """How often the first wins, read in every way; and what a reader must know.

    ``win_rate``: mean probability over both orders, a tie a half. ``win_rate_shown_first``, ``_shown_second``: of one
    order alone, as if the other had not been asked. ``win_rate_both_orders``: a win counts only if both orders agree,
    else it is a tie (Zheng et al. 2023, arXiv 2306.05685, section 3.4). ``win_rate_length_controlled``: at equal
    lengths (:func:`trueup.ops.winrate.length_controlled`).
    """
    p, prompts, warnings = found.p, found.prompts, list[str]()
    told = np.flatnonzero(~np.isnan(p))
    names: dict[str, Any] = {"first": found.first.who.name, "second": found.second.who.name}
    shown = f"{names['first']} against {names['second']}"
    note = ""
    if lost := len(p) - len(told):
        low, high = np.nansum(p) / len(p), (np.nansum(p) + lost) / len(p)
        note = f"{lost} of {len(p)} unscored and left out: between {low:.3f} and {high:.3f} whatever they were"
        warnings.append(f"{shown}: {note}")
    if found.identical == len(p):
        warnings.append(f"{shown}: the same answer to every prompt, so the win rate is 50 % without asking anyone")
    elif found.identical:
        warnings.append(f"{shown}: {found.identical} of {len(p)} pairs are the same text and count as ties")
    if not len(told):
        return [], [*warnings, f"{shown}: no pair was scored, so there is no win rate"]
    own, clusters = p[told], [prompts[i] for i in told]
    test = paired_test(own, np.full(len(own), 0.5), clusters=clusters, seed=seed)
    signs: dict[str, Any] = {"better": test.better, "worse": test.worse, "p_value": test.p_value}
    rate = rate_figure("win_rate", own, clusters, note=note)
    other = [*_order_figures(found, prompts), _controlled(found, told, clusters, note, seed)]
    return [
        Contrast(measure="win_rate", **names, figure=rate, even=0.5, **signs),
        *(Contrast(measure=f.name, **names, figure=f, even=0.5) for f in other),
    ], warnings


def duel_differences(duels: Sequence[Duel], seed: int = 0) -> list[Contrast]:
    """``win_rate_difference``: every two that met the same opponent, on the prompts on which both were judged."""
    out: list[Contrast] = []
    for one, other in itertools.combinations(duels, 2):
        if one.second.who.name != other.second.who.name:
            continue
        mine, theirs = (_by_prompt(d) for d in (one, other))
        if shared := [prompt for prompt in mine if prompt in theirs]:
            a, b = (np.array([side[prompt] for prompt in shared]) for side in (mine, theirs))
            names = one.first.who.name, other.first.who.name
            out.append(contrast("win_rate_difference", (names[0], a), (names[1], b), shared, seed))
    return out


def _by_prompt(found: Duel) -> dict[str, float]:
    """Mean preference for the first, by prompt."""
    values: dict[str, list[float]] = {}
    for p, prompt in zip(found.p.tolist(), found.prompts, strict=True):
        if not np.isnan(p):
            values.setdefault(prompt, []).append(p)
    return {prompt: float(np.mean(own)) for prompt, own in values.items()}


def _order_figures(found: Duel, prompts: Sequence[str]) -> list[Figure]:
    """Figures of single orders; none for judges that see one answer at a time."""
    if not any(j is not None and j.orders is not None for j in found.said):
        return []
    orders, clusters = [], []
    for judgement, prompt in zip(found.said, prompts, strict=True):
        if judgement is None or judgement.orders is not None:
            orders.append((0.5, 0.5) if judgement is None else judgement.orders)
            clusters.append(prompt)
    table = np.array(orders, dtype=float)
    wins, losses = (table > 0.5).all(1), (table < 0.5).all(1)
    both = 0.5 + 0.5 * (wins.astype(float) - losses.astype(float))
    return [
        rate_figure("win_rate_shown_first", table[:, 0], clusters, note="one order"),
        rate_figure("win_rate_shown_second", table[:, 1], clusters, note="one order"),
        rate_figure("win_rate_both_orders", both, clusters, note="a tie unless both orders agree"),
    ]


def _controlled(found: Duel, told: np.ndarray, clusters: Sequence[str], note: str, seed: int) -> Figure:
    """The win rate at equal lengths, in characters."""
    sizes = np.array([[len(pair.first.answer), len(pair.second.answer)] for pair in found.pairs], dtype=float)[told]
    got = length_controlled(found.p[told], sizes[:, 0], sizes[:, 1], clusters=clusters, seed=seed)
    gap = f"{sizes[:, 0].mean():.0f} characters against {sizes[:, 1].mean():.0f}"
    if np.isnan(got.phi):
        gap += "; all differ by the same length: it could not be controlled"
    told_note = "; ".join(n for n in (gap, note) if n)
    return interval_figure("win_rate_length_controlled", got.win_rate, len(told), len(set(clusters)), told_note)
