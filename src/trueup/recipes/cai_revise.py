"""`trueup cai revise`: drafts -> critiques by a drawn principle -> revisions -> a file to imitate (Bai et al. 2022).

arXiv 2212.08073, section 3. The log is all that the file is made of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trueup.data.write import write_rows
from trueup.errors import DataError
from trueup.evals.manner import evasive
from trueup.feedback.calls import Caller
from trueup.feedback.constitution import Constitution
from trueup.feedback.principles import Principle, asked
from trueup.feedback.speaker import Failure, Question, Said, Speaker
from trueup.recipes.cai_card import dataset_card
from trueup.recipes.cai_log import begin, of_log, told, turns_of
from trueup.recipes.cai_mix import mixed_in
from trueup.runs.folder import write_json
from trueup.runs.journal import Journal
from trueup.types import Prompt

UNCHANGED = 0.03  # share of characters that a revision must change
REPEATED = 0.5  # share of four-word runs that come again, from which on a text is degenerate
ECHOED = 0.5  # share of four-word runs that stand in the request, from which on a text is its echo
EXEMPLARS = 1  # worked revisions shown with each request
_WORD = re.compile(r"\w+")
ONLY = "Reply with the rewritten answer and nothing else."


@dataclass(frozen=True, slots=True, kw_only=True)
class Revising:
    """How answers are revised.

    Attributes:
        revisions: critique-revision rounds.
        temperature: of all texts.
        max_tokens: of each text.
        seed: of texts and of the principles drawn.
        ratio: helpfulness rows for each revision kept.
    """

    revisions: int = 2
    temperature: float = 0.7
    max_tokens: int = 256
    seed: int = 0
    ratio: float = 0.0


@dataclass(slots=True)
class _Row:
    """A prompt on its way: its turns, the latest answer, what was said, and why it ended early."""

    id: str
    turns: tuple[Said, ...]
    prompt: Prompt
    draft: str = ""
    answer: str = ""
    critique: str = ""
    principles: list[str] | None = None
    failed: str = ""


def revise(
    constitution: Constitution,
    prompts: Sequence[Mapping[str, Any]],
    settings: Revising,
    model: Speaker,
    critic: Speaker,
    out: Path,
    helpful: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Makes ``sft.jsonl``, its card and ``revise.json`` in ``out``, from ``revise.log.jsonl``; goes on where it was.

    Args:
        constitution: whose principles are drawn.
        prompts: as :func:`trueup.recipes.cai_log.rows_of` gives them.
        settings: how.
        model: drafts.
        critic: critiques and revises.
        out: folder, made if absent.
        helpful: rows with ``messages`` to mix in.

    Returns:
        The counts of ``revise.json``.

    Raises:
        DataError: no revision could be used.
        RunError: the log was begun with something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    given = {
        "stage": "revise", "constitution": told(constitution), "constitution_sha256": constitution.sha256,
        "prompts": list(prompts), "helpful": [dict(h) for h in helpful], "settings": asdict(settings),
        "model": model.identity, "critic": critic.identity,
    }  # fmt: skip
    with begin(out / "revise.log.jsonl", given) as journal:
        return write_revised(given, journal, model, critic, out)


def write_revised(
    given: Mapping[str, Any], journal: Journal, model: Speaker, critic: Speaker, out: Path
) -> dict[str, Any]:
    """The stage as a function of what it was given and of its log."""
    constitution, settings = of_log(given, str(journal.path)), Revising(**given["settings"])
    rows = _revised(constitution, given["prompts"], settings, Caller(model, journal), Caller(critic, journal))
    kept, why = [], Counter[str]()
    for row in rows:
        told = [instructions(constitution.principle(name)) for name in row.principles or []]
        fate = fault_of(row.draft, row.answer, row.failed, "\n".join(told))
        why[fate or "kept"] += 1
        if not fate:
            kept.append(_line(row, constitution.sha256, str(given["critic"])))
    helpful = mixed_in(given["helpful"], settings.ratio, len(kept), settings.seed, "helpful")
    report = {
        "prompts": len(rows), "kept": len(kept), "helpful": len(helpful),
        "dropped": {k: n for k, n in sorted(why.items()) if k != "kept"},
        "principles": dict(sorted(Counter(p for r in rows for p in r.principles or []).items())),
        "constitution_sha256": constitution.sha256, "model": given["model"], "critic": given["critic"],
    }  # fmt: skip
    write_json(out / "revise.json", report)
    if not kept:
        reasons = ", ".join(f"{k}: {n}" for k, n in report["dropped"].items())
        raise DataError(f"{out}: no revision can be used ({reasons}); another model or critic may do better")
    write_rows(out / "sft.jsonl", [*kept, *helpful], overwrite=True)
    (out / "README.md").write_text(dataset_card(given, report, len(kept) + len(helpful)), encoding="utf-8")
    return report


def _line(row: _Row, sha256: str, critic: str) -> dict[str, Any]:
    messages = [{"role": r, "content": c} for r, c in (*row.turns, ("assistant", row.answer))]
    provenance = {"constitution": sha256, "principles": row.principles, "critic": critic, "draft": row.draft}
    return {"id": row.id, "messages": messages, "provenance": provenance}


def _revised(
    constitution: Constitution, prompts: Sequence[Mapping[str, Any]], settings: Revising, model: Caller, critic: Caller
) -> list[_Row]:
    rows = [
        _Row(p["id"], turns_of(p["prompt"]), Prompt(id=p["id"], origin="", prompt=p["prompt"], meta=p["meta"]))
        for p in prompts
    ]
    note = {"constitution": constitution.sha256}
    _say(model, rows, [r.turns for r in rows], settings, 0, [{**note, "step": "draft", "id": r.id} for r in rows])
    for row in rows:
        row.draft, row.principles = row.answer, []
    for step in range(1, settings.revisions + 1):
        going: list[tuple[_Row, Principle]] = []
        for row in rows:
            words = asked(row.prompt)
            drawn = constitution.draw(words.prompt, seed=settings.seed, row=row.id, step=step, tags=words.tags,
                                      language=words.language)  # fmt: skip
            if drawn is not None and not row.failed:
                going.append((row, drawn))
                row.principles = [*(row.principles or []), drawn.id]
        live = [row for row, _ in going]
        requests = [critique_turns(row.turns, row.answer, p) for row, p in going]
        answers = [row.answer for row in live]
        for what in ("critique", "revision"):
            notes = [{**note, "step": f"{what} {step}", "id": r.id, "principle": p.id} for r, p in going]
            _say(critic, live, requests, settings, step, notes)
            if what == "critique":
                for row in live:
                    row.critique = row.answer
                requests = [revision_turns(t.turns, a, t.critique, p)
                            for (t, p), a in zip(going, answers, strict=True)]  # fmt: skip
    return rows


def _say(
    caller: Caller, rows: Sequence[_Row], turns: Sequence[tuple[Said, ...]], settings: Revising, step: int,
    notes: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """The next text of each row, drawn anew in each step; a row whose call failed goes no further."""
    todo = [i for i, row in enumerate(rows) if not row.failed]
    questions = [
        Question(
            messages=turns[i],
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed + step,
        )
        for i in todo
    ]
    for i, said in zip(todo, caller.ask(questions, [notes[i] for i in todo]), strict=True):
        if isinstance(said.answer, Failure):
            rows[i].failed = said.answer.reason
        elif said.answer.refused:
            rows[i].failed = "the model declined"
        else:
            rows[i].answer = said.answer.text.strip()


def critique_turns(turns: tuple[Said, ...], answer: str, principle: Principle) -> tuple[Said, ...]:
    """The request for a critique, after a worked one."""
    shown = tuple(t for e in principle.exemplars[:EXEMPLARS] for t in (
        ("user", e.prompt), ("assistant", e.bad), ("user", principle.wording("critique", guidance=False)),
        ("assistant", e.critique)))  # fmt: skip
    return (*shown, *turns, ("assistant", answer or "(no answer)"), ("user", principle.wording("critique")))


def revision_turns(turns: tuple[Said, ...], answer: str, critique: str, principle: Principle) -> tuple[Said, ...]:
    """The request for a revision, after a worked one."""
    shown = tuple(t for e in principle.exemplars[:EXEMPLARS] for t in (
        ("user", e.prompt), ("assistant", e.bad), ("user", principle.wording("critique", guidance=False)),
        ("assistant", e.critique), ("user", f"{principle.wording('revision', guidance=False)}\n{ONLY}"),
        ("assistant", e.good)))  # fmt: skip
    return (
        *shown, *turns, ("assistant", answer or "(no answer)"), ("user", principle.wording("critique")),
        ("assistant", critique or "(nothing)"), ("user", f"{principle.wording('revision')}\n{ONLY}"),
    )  # fmt: skip


def instructions(principle: Principle) -> str:
    """What a request under a principle says in the constitution's words."""
    worked = [text for e in principle.exemplars[:EXEMPLARS] for text in (e.bad, e.critique, e.good)]
    return "\n".join([principle.wording("critique"), principle.wording("revision"), *worked])


def fault_of(draft: str, revision: str, failed: str = "", told: str = "") -> str:
    """Why a revision is not used, ``told`` being the words of the request; empty if it is."""
    if failed:
        return f"call failed: {failed}"
    if degenerate(revision) or "\0" in draft + revision:  # no data file may hold a NUL
        return "degenerate"
    if edit_share(draft, revision) < UNCHANGED:
        return "unchanged"
    if echoed(revision, told):
        return "echo"
    return "evasive" if evasive(revision) else ""


def degenerate(text: str) -> bool:
    """Fewer than two words, or most of it said again."""
    runs = _runs(text.split())
    return len(text.split()) < 2 or (len(runs) >= 4 and 1 - len(set(runs)) / len(runs) > REPEATED)


def echoed(text: str, told: str) -> bool:
    """Most of it are the words of the request, case and punctuation aside, and no answer to the user."""
    runs, known = _runs(_WORD.findall(text.lower())), set(_runs(_WORD.findall(told.lower())))
    return bool(runs) and sum(r in known for r in runs) / len(runs) > ECHOED


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + 4]) for i in range(len(words) - 3)]


def edit_share(a: str, b: str) -> float:
    """Edit distance (Levenshtein 1966) over the length of the longer text; 0 for equal texts."""
    longest = max(len(a), len(b))
    if longest == 0 or a == b:
        return 0.0
    if abs(len(a) - len(b)) >= UNCHANGED * longest:
        return abs(len(a) - len(b)) / longest  # a bound from below, and that is enough
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        now = [i]
        for j, y in enumerate(b, 1):
            now.append(min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1] / longest
