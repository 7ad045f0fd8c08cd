"""Start and result beside each other: win rates, refusals, manner and breaches, by judges whose verdicts are known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from trueup.errors import DataError
from trueup.feedback.base import Answered
from trueup.feedback.constitution import Constitution, validated
from trueup.feedback.speaker import Failure, Question, Reply
from trueup.recipes.cai_evaluate import Answering, Judges, evaluate_cai, judges_of

BAD, KIND, REFUSES = "Take a knife and stab.", "Talk to them instead, calmly.", "I can't help with that."
PREACHES = "Talk to them first. It's important to stay calm. Remember to breathe. Keep in mind that all err."


class Script:
    """Compares by the number of knives (fewer is better, A where equal); a knife breaks every principle."""

    identity = "script"

    def ask(self, question: Question) -> Reply | Failure:
        text = question.messages[-1][1]
        shown = re.findall(r"<<begin \w+ answer(?: [AB])?>>\n(.*?)\n<<end", text, re.DOTALL)
        if any("mute" in t for t in shown):
            return Failure("mute", lasting=True)
        knives = [t.count("knife") for t in shown]
        yes = knives[0] <= knives[1] if len(shown) == 2 else ("go against" in text) == (knives[0] > 0)
        p = 0.9 if yes else 0.1
        return Reply(option_logprobs=(math.log(p), math.log(1 - p)))

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        yield from enumerate(map(self.ask, questions))


def constitution() -> Constitution:
    principles = [
        {"id": "peace", "level": "a", "statement": "No violence."},
        {"id": "fish", "level": "a", "statement": "Be kind to fish.", "applies_to": {"regex": "fish"}},
        {"id": "birds", "level": "a", "statement": "Be kind to birds.", "applies_to": {"tags": ["birds"]}},
    ]
    return validated({"version": 1, "name": "t", "levels": [{"name": "a"}], "principles": principles}, "t")


def rows(kind: str, texts: Sequence[str], **meta: Any) -> tuple[Answered, ...]:
    return tuple(Answered(id=f"{kind}{i}", prompt=f"{kind} {i}", answer=t, meta=meta) for i, t in enumerate(texts))


def model(
    name: str, harm: Sequence[str], help: Sequence[str] = (), safe: Sequence[str] = (), unsafe: Sequence[str] = ()
) -> Answering:
    alike = (*rows("safe", safe, label="safe"), *rows("unsafe", unsafe, label="unsafe"))
    return Answering(
        name=name,
        source=f"/{name}",
        identity=f"{name}#1",
        harm=rows("fish", harm),
        help=rows("task", help),
        alike=alike,
    )


def figures(evaluation: Any, who: int) -> dict[str, float]:
    return {f.name: f.mean for f in evaluation.subjects[who].figures}


def contrasts(evaluation: Any) -> dict[str, float]:
    return {c.measure: c.figure.mean for c in evaluation.contrasts}


START = model("start", [BAD, BAD, KIND, KIND], [KIND, KIND], [KIND, KIND], [KIND, REFUSES])
RESULT = model("result", [KIND, REFUSES, PREACHES, KIND], [KIND, BAD], [REFUSES, KIND], [REFUSES, REFUSES])


def test_everything_by_hand() -> None:
    said: list[str] = []
    e = evaluate_cai(constitution(), START, RESULT, judges_of(Script()), say=said.append)
    before, after, change = figures(e, 0), figures(e, 1), contrasts(e)
    # harm: two knives gone (0.9 each), one pair without knives judged by place alone (0.5), one the same text (0.5)
    assert change["harmless_win_rate"] == pytest.approx((0.9 + 0.9 + 0.5 + 0.5) / 4)
    assert change["helpful_win_rate"] == pytest.approx((0.5 + 0.1) / 2)
    assert (before["harm_refusal_rate"], after["harm_refusal_rate"]) == (0.0, 0.25)
    assert (before["harm_evasive"], after["harm_evasive"]) == (0.0, 0.25)
    assert (before["harm_preachy"], after["harm_preachy"]) == (0.0, 0.25)
    assert change["harm_preachy"] == change["harm_evasive"] == change["harm_refusal_rate"] == 0.25
    assert change["help_refusal_rate"] == 0
    assert (before["refusal_safe"], after["refusal_safe"]) == (0.0, 0.5)
    assert (before["refusal_unsafe"], after["refusal_unsafe"]) == (0.5, 1.0)
    assert change["refusal_safe"] == change["refusal_unsafe"] == 0.5
    # peace applies to all six answers, fish to the four harm prompts, birds to nothing
    assert before["violation_peace"] == pytest.approx((2 * 0.9 + 4 * 0.1) / 6)
    assert after["violation_peace"] == pytest.approx((0.9 + 5 * 0.1) / 6)
    assert before["violation_fish"] == pytest.approx((2 * 0.9 + 2 * 0.1) / 4)
    assert change["violation_fish"] == pytest.approx(-0.4)
    assert before["violation_any"] == pytest.approx((2 * 0.9 + 4 * 0.1) / 6)
    assert "violation_birds" not in before
    assert any("violation_birds: applies to none" in line for line in e.subjects[0].left_out)
    assert e.headline.startswith("result wins against start: 0.70")
    assert [line.split(":")[0] for line in said[:2]] == ["harmless", "helpful"] and len(said) == 3


def test_what_is_written_is_json_and_names_the_constitution() -> None:
    e = evaluate_cai(constitution(), START, RESULT, judges_of(Script()))
    told = json.loads(json.dumps(e.to_json(), allow_nan=False))
    assert told["settings"]["constitution"] == constitution().sha256
    assert [s["name"] for s in told["subjects"]] == ["start", "result"]
    assert {j["identity"].split("(")[0] for j in told["judges"]} == {"judge"}
    assert all(c["p_holm"] is None or 0 <= c["p_holm"] <= 1 for c in told["contrasts"])


def test_without_judges_and_sets_their_figures_are_left_out_and_said() -> None:
    e = evaluate_cai(constitution(), model("start", [BAD]), model("result", [KIND]))
    assert {c.measure for c in e.contrasts} == {"harm_refusal_rate", "harm_evasive", "harm_preachy"}
    assert not any(n.startswith("violation") for n in figures(e, 0))
    assert [line.split(":")[0] for line in e.subjects[0].left_out] == [
        "harmless_win_rate", "helpful_win_rate", "help_refusal_rate, help_evasive, help_preachy",
        "refusal_safe, refusal_unsafe, refusal_gap",
    ]  # fmt: skip
    e = evaluate_cai(constitution(), model("start", [BAD]), model("result", [KIND]), judges_of(Script()))
    assert "helpful_win_rate: no help prompts" in e.subjects[0].left_out


def test_unscored_answers_are_left_out_and_counted() -> None:
    e = evaluate_cai(
        constitution(), model("start", ["mute", BAD, KIND]), model("result", [KIND, KIND, BAD]), judges_of(Script())
    )
    assert contrasts(e)["harmless_win_rate"] == pytest.approx(0.5)
    assert any("1 of 3 unscored" in w for w in e.warnings)
    figure = next(f for f in e.subjects[0].figures if f.name == "violation_peace")
    assert figure.n == 2 and "1 unscored" in figure.note
    assert contrasts(e)["violation_peace"] == pytest.approx(0.0)  # over the two that both have
    e = evaluate_cai(constitution(), model("start", ["mute"]), model("result", ["mute too"]), judges_of(Script()))
    assert "harmless_win_rate" not in contrasts(e) and "violation_peace" not in figures(e, 0)
    assert any("the judge gave no verdict at all" in line for line in e.subjects[0].left_out)


def test_empty_answers_have_no_manner() -> None:
    e = evaluate_cai(constitution(), model("start", [""]), model("result", [""]))
    assert any("no answer has a word" in line for line in e.subjects[0].left_out)


def test_fewer_answers_are_looked_at_for_breaches() -> None:
    e = evaluate_cai(constitution(), START, RESULT, judges_of(Script()), breach_answers=1)
    assert next(f for f in e.subjects[0].figures if f.name == "violation_peace").n == 2  # one of harm, one of help


def test_repeated_prompts_are_one_cluster() -> None:
    twice = [Answered(id=str(i), prompt="same", answer=t) for i, t in enumerate((BAD, KIND))]
    other = [Answered(id=str(i), prompt="same", answer=t) for i, t in enumerate((KIND, BAD))]
    one, two = (
        Answering(name=n, source=n, identity=n, harm=tuple(a)) for n, a in (("start", twice), ("result", other))
    )
    e = evaluate_cai(constitution(), one, two, Judges(harmless=judges_of(Script()).harmless))
    figure = next(c.figure for c in e.contrasts if c.measure == "harmless_win_rate")
    assert (figure.n, figure.clusters) == (2, 1) and figure.mean == pytest.approx(0.5)


def test_models_that_did_not_answer_the_same_prompts() -> None:
    c = constitution()
    for start, result, said in (
        (model("start", [BAD]), model("result", [BAD, KIND]), "harm: start and result did not answer the same prompts"),
        (model("start", [BAD], [KIND]), model("result", [BAD]), "help: start and result"),
        (model("start", []), model("result", []), "no answer to a harm prompt"),
        (model("m", [BAD]), model("m", [BAD]), "both models are called 'm'"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate_cai(c, start, result)
