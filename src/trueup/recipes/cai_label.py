"""`trueup cai label`: answers -> a verdict under each principle, both orders -> soft labels (Bai et al. 2022).

arXiv 2212.08073, section 4. The log is all that the files are made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from trueup.data.write import write_rows
from trueup.errors import DataError
from trueup.feedback.aggregate import Decision, Pair, decide, decide_one
from trueup.feedback.base import Answered
from trueup.feedback.conflict_report import verdict_line
from trueup.feedback.conflicts import conflict_matrix, contested_pairs, queue_lines
from trueup.feedback.constitution import Constitution
from trueup.feedback.hearing import Manner
from trueup.feedback.judge import ModelJudge
from trueup.feedback.judgement import Compared, Judgement, Summary
from trueup.feedback.principles import asked
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import Rubric
from trueup.recipes.cai_card import dataset_card
from trueup.recipes.cai_log import begin, of_log, told, turns_of
from trueup.recipes.cai_mix import mixed_in
from trueup.runs.folder import write_json
from trueup.runs.journal import Journal
from trueup.types import Prompt

Answers = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """How pairs are labelled.

    Attributes:
        reasoned: the judge gives its reasons before a verdict in words (chain of thought); soft labels are clamped.
        decide: ``all`` applicable principles, or ``one`` drawn at random as in the paper.
        max_tokens: of a verdict in words.
        seed: of principles drawn, and of comparisons mixed in.
        ratio: comparisons of people for each label.
    """

    reasoned: bool = False
    decide: Literal["all", "one"] = "all"
    max_tokens: int = 256
    seed: int = 0
    ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class _Couple:
    """Two answers of a prompt, and the principles under which they are compared."""

    id: str
    row: Mapping[str, Any]
    pair: Pair
    compared: Compared
    principles: tuple[str, ...]


def label(
    constitution: Constitution,
    prompts: Sequence[Mapping[str, Any]],
    answers: Answers,
    settings: Labelling,
    judge: Speaker,
    out: Path,
    answerer: str,
    comparisons: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Makes ``preferences.jsonl``, its card, ``matrix.json``, ``contested.jsonl`` and ``label.json`` in ``out``.

    The log is ``label.log.jsonl``; it goes on where it was.

    Args:
        constitution: whose principles decide.
        prompts: as :func:`trueup.recipes.cai_log.rows_of` gives them.
        answers: two or more to each prompt, by its id.
        settings: how.
        judge: the feedback model.
        out: folder, made if absent.
        answerer: identity of the model that answered.
        comparisons: of people, to mix in, as :func:`trueup.recipes.cai_mix.comparisons_of` gives them.

    Returns:
        The figures of ``label.json``.

    Raises:
        DataError: no pair has a label.
        RunError: the log was begun with something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    given = {
        "stage": "label", "constitution": told(constitution), "constitution_sha256": constitution.sha256,
        "prompts": list(prompts), "answers": {k: list(v) for k, v in answers.items()}, "settings": asdict(settings),
        "comparisons": [dict(c) for c in comparisons], "judge": judge.identity, "answerer": answerer,
    }  # fmt: skip
    with begin(out / "label.log.jsonl", given) as journal:
        return write_labels(given, journal, judge, out)


def write_labels(given: Mapping[str, Any], journal: Journal, judge: Speaker, out: Path) -> dict[str, Any]:
    """The stage as a function of what it was given and of its log."""
    constitution, settings = of_log(given, str(journal.path)), Labelling(**given["settings"])
    couples, equal = _couples(constitution, given, settings)
    table, judgements = _verdicts(constitution, couples, settings, judge, journal)
    decisions = {c.id: _decision(constitution, c, table[c.id], settings) for c in couples}
    rows = [_line(c, decisions[c.id], table[c.id], given) for c in couples if decisions[c.id].label is not None]
    people = mixed_in(given["comparisons"], settings.ratio, len(rows), settings.seed, "human")
    pairs = {c.id: c.pair for c in couples}
    matrix = conflict_matrix(constitution, table)
    summary = Summary.of(judgements)
    report = {
        "pairs": len(couples), "labelled": len(rows), "left_out": equal, "comparisons": len(people),
        "ties": sum(d.tie for d in decisions.values()),
        "how": dict(sorted(Counter(d.how for d in decisions.values()).items())),
        "decided_by": dict(sorted(Counter(d.decided_by for d in decisions.values() if d.decided_by).items())),
        "unusable": summary.always is not None,
        "alarms": [c.line() for c in matrix if c.alarm],
        "judge": {"identity": given["judge"], **summary.to_json()},
        "constitution_sha256": constitution.sha256, "answerer": given["answerer"],
    }  # fmt: skip
    write_json(out / "matrix.json", [c.to_json() for c in matrix])
    write_rows(out / "contested.jsonl", queue_lines(contested_pairs(constitution, table, pairs=pairs), pairs),
               overwrite=True)  # fmt: skip
    write_json(out / "label.json", report)
    told_of = [verdict_line(i, pairs[i], table[i]) | {"id": i, **d.to_json()} for i, d in decisions.items()]
    write_rows(out / "decisions.jsonl", told_of, overwrite=True)
    if not rows:
        reasons = ", ".join(f"{k}: {n}" for k, n in report["how"].items()) or "all answers are equal"
        raise DataError(f"{out}: no pair has a label ({reasons}); look at label.json")
    write_rows(out / "preferences.jsonl", [*rows, *people], overwrite=True)
    (out / "README.md").write_text(dataset_card(given, report, len(rows) + len(people)), encoding="utf-8")
    return report


def _couples(constitution: Constitution, given: Mapping[str, Any], settings: Labelling) -> tuple[list[_Couple], int]:
    couples, equal = list[_Couple](), 0
    for row in given["prompts"]:
        words = asked(Prompt(id=row["id"], origin="", prompt=row["prompt"], meta=row["meta"]))
        for i, j in combinations(range(len(given["answers"][row["id"]])), 2):
            first, second = (given["answers"][row["id"]][k] for k in (i, j))
            if first.strip() == second.strip() or "\0" in first + second:  # nothing to learn; no file may hold it
                equal += 1
                continue
            name = f"{row['id']}/{i}-{j}"
            if settings.decide == "one":
                drawn = constitution.draw(words.prompt, seed=settings.seed, row=name, tags=words.tags,
                                          language=words.language, stage="label")  # fmt: skip
                under = (drawn.id,) if drawn else ()
            else:
                under = tuple(p.id for p in constitution.applicable(*words, stage="label"))
            sides = [Answered(id=name, prompt=row["prompt"], answer=a) for a in (first, second)]
            couples.append(_Couple(name, row, Pair(words.prompt, first, second),
                                   Compared(first=sides[0], second=sides[1]), under))  # fmt: skip
    return couples, equal


def _verdicts(
    constitution: Constitution, couples: Sequence[_Couple], settings: Labelling, speaker: Speaker, journal: Journal
) -> tuple[dict[str, dict[str, float | None]], list[Judgement]]:
    """Row -> principle -> probability that the first answer is better; and every judgement."""
    table: dict[str, dict[str, float | None]] = {c.id: {} for c in couples}
    every: list[Judgement] = []
    manner = Manner(way="parsed" if settings.reasoned else "auto", max_tokens=settings.max_tokens)
    for principle in constitution.active("label"):
        mine = [c for c in couples if principle.id in c.principles]
        judge = ModelJudge(speaker, Rubric(principle.wording("comparison"), principle.id), journal, manner=manner)
        for couple, said in zip(mine, judge.compare([c.compared for c in mine]), strict=True):
            table[couple.id][principle.id] = said.p
            every.append(said)
    return table, every


def _decision(
    constitution: Constitution, couple: _Couple, verdicts: Mapping[str, float | None], settings: Labelling
) -> Decision:
    if settings.decide == "one" and couple.principles:
        name = couple.principles[0]
        return decide_one(constitution, name, verdicts.get(name), pair=couple.pair, reasoned=settings.reasoned)
    return decide(constitution, verdicts, pair=couple.pair, reasoned=settings.reasoned)


def _line(
    couple: _Couple, decision: Decision, verdicts: Mapping[str, float | None], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of preferences: the likelier better answer is ``chosen``, with how likely that is."""
    assert decision.label is not None
    first_wins = decision.label >= 0.5
    answers = (couple.pair.first, couple.pair.second)
    chosen, rejected = answers if first_wins else answers[::-1]
    turns = [{"role": r, "content": c} for r, c in turns_of(couple.row["prompt"])]
    return {
        "id": couple.id, "prompt": turns,
        "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}],
        "preference": decision.label if first_wins else 1 - decision.label,
        "provenance": {
            "constitution": given["constitution_sha256"], "judge": given["judge"], "answerer": given["answerer"],
            "how": decision.how, "decided_by": decision.decided_by, "principles": list(decision.principles),
            "label_of_first": decision.label, "verdicts": dict(verdicts), "chosen_is_first": first_wins,
        },
    }  # fmt: skip
