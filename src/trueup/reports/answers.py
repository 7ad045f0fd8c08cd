"""Answers side by side: the question that a prompt ends with, and two texts with the words in which they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trueup.reports.charts import Spread, file_key
from trueup.reports.evaluation import EvaluationView
from trueup.reports.numbers import tidy
from trueup.reports.read import RunView, Sampled
from trueup.reports.words import Piece, differences, share_in_common, shortened

SHOWN = 8
COMMON = 0.1  # share of a text below which marking differences tells nothing
_CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>|\[/?INST\]")
_ROLE = re.compile(r"^\s*(system|developer|user|assistant|model|human)\s*(?:\n|:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the answers: whose it is, its pieces, and what is known of it."""

    title: str
    tone: str
    pieces: Sequence[Piece]
    facts: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers to one prompt, beside each other.

    Attributes:
        question: what the prompt ends with.
        prompt: all of it; empty if the question is all.
        sides: the answers; with two of them, words that differ are marked.
        note: why they are not, if they are not.
    """

    question: str
    prompt: str
    sides: Sequence[Side]
    note: str = ""


def question_of(prompt: str) -> str:
    """The last thing that a user said in a rendered prompt; the prompt itself where no turns are recognised."""
    parts = [p for p in _CONTROL.split(prompt) if p.strip()]
    asked = [p for p in parts if (m := _ROLE.match(p)) and m[1].lower() in ("user", "human")]
    asked = [_ROLE.sub("", p, count=1).strip() for p in asked]
    rest = [p.strip() for p in parts if not _ROLE.match(p)]
    found = [p for p in asked or rest if p]
    return found[-1] if found else prompt.strip()


def beside(prompt: str, answers: Sequence[tuple[str, str, str, str]]) -> Sample:
    """Answers (title, tone, text, facts) to a prompt; two are marked where they differ."""
    question = shortened(question_of(prompt), 1500)
    texts = [shortened(text) for _, _, text, _ in answers]
    plain = [[Piece("same", t)] for t in texts]
    pieces, note = plain, ""
    if len(texts) == 2:
        pieces = list(differences(*texts))
        if max(map(share_in_common, pieces)) < COMMON:
            pieces, note = plain, "Hardly anything in common: differences are not marked."
    sides = [Side(a[0], a[1], p, a[3]) for a, p in zip(answers, pieces, strict=True)]
    return Sample(question, "" if question == prompt.strip() else shortened(prompt), sides, note)


def before_after(view: RunView) -> list[Sample]:
    """Held-out prompts answered before training and at its end."""
    greedy = [s for s in view.samples if s.greedy]
    last = max((s.step for s in greedy), default=0)
    first = {s.row: s for s in greedy if s.step == 0}
    pairs = [(first[s.row], s) for s in greedy if s.step == last > 0 and s.row in first]
    if not pairs:
        return [beside(s.prompt, [("before training", "grey", s.answer, facts_of(s))]) for s in first.values()][:SHOWN]
    return [
        beside(
            old.prompt or new.prompt,
            [("before", "grey", old.answer, facts_of(old)), (f"after {last} steps", "one", new.answer, facts_of(new))],
        )
        for old, new in pairs[:SHOWN]
    ]


def drawn(view: RunView, count: int = 3) -> list[tuple[str, list[Sampled]]]:
    """Answers that training drew: of its first and of its last step, a few each."""
    found = [s for s in view.samples if not s.greedy]
    steps = sorted({s.step for s in found})
    ends = steps[:1] + steps[-1:] if len(steps) > 1 else steps
    return [(f"step {step}", [s for s in found if s.step == step][:count]) for step in ends]


def evaluated(view: EvaluationView) -> list[Sample]:
    """Answers of the first two subjects to the same prompts: those that differ, the first few."""
    models = [w.name for w in view.subjects][:2] or list(dict.fromkeys(a.model for a in view.answers))[:2]
    if len(models) < 2:
        return []
    given = [{a.key: a for a in view.answers if a.model == m} for m in models]
    shared = [k for k in given[0] if k in given[1] and given[0][k].answer != given[1][k].answer]
    found: list[Sample] = []
    for key in shared[:SHOWN]:
        sides = [
            (a.model, tone, a.answer, "; ".join([*_tokens(a.tokens), *(f"{n} {tidy(v)}" for n, v in a.scores.items())]))
            for a, tone in zip((given[0][key], given[1][key]), ("grey", "one"), strict=True)
        ]
        found.append(beside(given[0][key].prompt, sides))
    return found


def facts_of(sample: Sampled) -> str:
    """What is known of an answer, in words."""
    words = [] if sample.score is None else [f"score {tidy(sample.score)}"]
    words += _tokens(sample.tokens) or [f"{len(sample.answer.split())} words"]
    return ", ".join(words + (["cut off at the limit"] if sample.ended is False else []))


def _tokens(count: int | None) -> list[str]:
    return [] if count is None else [f"{count} tokens"]


def run_spreads(view: RunView) -> list[Spread]:
    """Lengths and scores of the run's own answers: before and after, or of the first and last steps of training."""
    found = [s for s in view.samples if not s.greedy]
    steps = sorted({s.step for s in found})
    spreads: list[Spread] = []
    if len(steps) > 1:
        part = max(1, len(steps) // 5)
        ends = {f"first {_steps(part)}": set(steps[:part]), f"last {_steps(part)}": set(steps[-part:])}
        for key, title, unit, value in (
            ("scores", "Scores of drawn answers", "the scorer's unit", lambda s: s.score),
            ("lengths", "Lengths of drawn answers", "tokens", lambda s: s.tokens),
        ):
            rows = {
                n: [float(v) for s in found if s.step in e and (v := value(s)) is not None] for n, e in ends.items()
            }
            if all(rows.values()):
                note = f"the answers that training kept, {len(found) // len(steps)} a step"
                spreads.append(Spread(key, title, unit, rows, (note,)))
    greedy = [s for s in view.samples if s.greedy]
    last = max((s.step for s in greedy), default=0)
    rows = {
        name: [float(len(s.answer.split())) for s in greedy if s.step == step]
        for name, step in (("before", 0), ("after", last))
    }
    if last and all(rows.values()):
        spreads.append(Spread("words", "Lengths of the answers below", "words", rows))
    return spreads


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"


def evaluation_spreads(view: EvaluationView) -> list[Spread]:
    """Lengths and scores of all answers of an evaluation, a row a subject."""
    models = list(dict.fromkeys(a.model for a in view.answers))[:8]
    if not models:
        return []
    counted = all(a.tokens is not None for a in view.answers)
    lengths = {
        m: [float((a.tokens or 0) if counted else len(a.answer.split())) for a in view.answers if a.model == m]
        for m in models
    }
    unit = "tokens" if counted else "words"
    spreads = [Spread(file_key(f"eval-lengths-{view.name}"), "Lengths of answers", unit, lengths)]
    for scorer in dict.fromkeys(n for a in view.answers for n in a.scores):
        rows: Mapping[str, list[float]] = {
            m: [a.scores[scorer] for a in view.answers if a.model == m and scorer in a.scores] for m in models
        }
        if any(rows.values()):
            key = file_key(f"eval-scores-{view.name}-{scorer}")
            spreads.append(
                Spread(key, f"Scores by {scorer}", "the scorer's unit", {m: r for m, r in rows.items() if r})
            )
    return spreads
