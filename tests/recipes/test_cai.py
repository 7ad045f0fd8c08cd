"""Constitutional AI: a scripted feedback model whose labels are known, logs that rebuild the files, kills."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from injections import filled, injections
from scripted import Script, slots, tokens
from trueup.cli.main import run
from trueup.errors import ConfigError, DataError, ModelError, RunError
from trueup.feedback.constitution import load_constitution, validated
from trueup.feedback.speaker import Failure, Question, Reply, Speaker
from trueup.recipes.cai_audit import explain, rebuild
from trueup.recipes.cai_label import Labelling, label
from trueup.recipes.cai_log import rows_of
from trueup.recipes.cai_mix import comparisons_of, conversations_of
from trueup.recipes.cai_revise import Revising, degenerate, edit_share, fault_of, instructions, revise
from trueup.recipes.cai_run import CaiPlan, run_cai
from trueup.types import Prompt

TREE: dict[str, Any] = {
    "version": 1,
    "name": "test",
    "levels": [{"name": "high", "kind": "strict"}, {"name": "low", "kind": "strict"}],
    "principles": [
        {"id": "safe", "level": "high", "statement": "SAFE", "applies_to": {"regex": "danger"}},
        {"id": "kind", "level": "low", "statement": "KIND", "overrides": ["short"]},
        {"id": "short", "level": "low", "statement": "SHORT"},
    ],
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(*texts: str) -> list[dict[str, Any]]:
    return rows_of([Prompt(id=f"r{i}", origin=f"p:{i}", prompt=t) for i, t in enumerate(texts)])


def judge_of(verdicts: dict[str, Callable[[str], float]]) -> Callable[[Question], Reply]:
    """P(A) under each principle is the share of A's worth: worth(A) / (worth(A) + worth(B))."""

    def voice(question: Question) -> Reply:
        text = question.messages[-1][1]
        a, b = slots(text)
        name = next(n for n in ("SAFE", "KIND", "SHORT") if n in text.split("<<begin")[0])
        x, y = verdicts[name](a), verdicts[name](b)
        return tokens(x / (x + y))

    return voice


def labels(tree: dict[str, Any], voice: Any, out: Path, settings: Labelling, texts: Any = None) -> dict[str, float]:
    """Label of the first answer by row, from the file."""
    given = texts or {"r0": ["aa", "b"], "r1": ["aa", "b"]}
    rows = prompts("danger here", "hello")
    label(validated(tree, "t"), rows, given, settings, Script(voice), out, "answerer")
    return {r["id"]: r["provenance"]["label_of_first"] for r in lines(out / "preferences.jsonl")}


WORTH: dict[str, Callable[[str], float]] = {
    "SAFE": lambda a: 1.0 if a == "aa" else 9.0,  # the second, 0.9
    "KIND": lambda a: 4.0 if a == "aa" else 1.0,  # the first, 0.8; sets SHORT aside
    "SHORT": lambda a: 1.0 if a == "aa" else 99.0,  # the second, 0.99
}


def test_labels_follow_priority_and_overrides(tmp_path: Path) -> None:
    found = labels(TREE, judge_of(WORTH), tmp_path, Labelling())
    # r0: SAFE applies and is clear, so its 0.1 is the label whatever lies below; r1: KIND is clear and overrides SHORT
    assert found == pytest.approx({"r0/0-1": 0.1, "r1/0-1": 0.8}, abs=1e-9)
    rows = {r["id"]: r for r in lines(tmp_path / "preferences.jsonl")}
    assert rows["r0/0-1"]["chosen"][0]["content"] == "b" and rows["r0/0-1"]["preference"] == pytest.approx(0.9)
    assert rows["r1/0-1"]["provenance"]["decided_by"] == "low"
    decided = {d["id"]: d for d in lines(tmp_path / "decisions.jsonl")}
    assert [a["principle"] for a in decided["r1/0-1"]["set_aside"]] == ["short"]


def test_an_unclear_level_leaves_it_to_the_next_and_a_tie_is_a_half(tmp_path: Path) -> None:
    level = {**WORTH, "SAFE": lambda a: 1.0}
    assert labels(TREE, judge_of(level), tmp_path / "a", Labelling())["r0/0-1"] == pytest.approx(0.8, abs=1e-9)
    even = dict.fromkeys(WORTH, lambda a: 1.0)
    assert labels(TREE, judge_of(even), tmp_path / "b", Labelling()) == {"r0/0-1": 0.5, "r1/0-1": 0.5}


def test_clamped_labels(tmp_path: Path) -> None:
    tree = {**TREE, "defaults": {"label": "clamped"}}
    assert labels(tree, judge_of(WORTH), tmp_path, Labelling()) == {"r0/0-1": 0.4, "r1/0-1": 0.6}


@pytest.mark.parametrize("reasoned", [False, True])
def test_a_judge_that_always_prefers_the_first_gives_a_half_and_is_unusable(tmp_path: Path, reasoned: bool) -> None:
    def voice(question: Question) -> Reply:
        text = question.messages[-1][1]
        return tokens(0.97) if question.options else Reply(text=f"[[A:{text.split('<<begin ')[1].split()[0]}]]")

    found = labels(TREE, voice, tmp_path, Labelling(reasoned=reasoned))
    assert found == {"r0/0-1": 0.5, "r1/0-1": 0.5}
    report = json.loads((tmp_path / "label.json").read_text())
    assert report["unusable"] is True and "always says A" in report["judge"]["warnings"][0]


def test_one_principle_drawn(tmp_path: Path) -> None:
    script = Script(judge_of(WORTH))
    rows = prompts(*[f"hello {i}" for i in range(12)])
    label(
        validated(TREE, "t"), rows, {r["id"]: ["aa", "b"] for r in rows}, Labelling(decide="one"), script, tmp_path, "x"
    )
    assert len(script.asked) == 24  # one principle, both orders
    said = {(tuple(r["provenance"]["principles"]), round(r["provenance"]["label_of_first"], 9))
            for r in lines(tmp_path / "preferences.jsonl")}  # fmt: skip
    assert said == {(("kind",), 0.8), (("short",), 0.01)}


def test_what_is_not_judged_has_no_label(tmp_path: Path) -> None:
    def voice(question: Question) -> Reply | Failure:
        return Failure("silent", lasting=True) if "danger" in question.messages[-1][1] else judge_of(WORTH)(question)

    assert set(labels(TREE, voice, tmp_path, Labelling())) == {"r1/0-1"}
    with pytest.raises(DataError, match="no pair has a label"):
        labels(TREE, lambda q: Failure("silent", lasting=True), tmp_path / "b", Labelling())


# ── revisions ──


def writer(question: Question) -> Reply:
    """Drafts, critiques and revises by what is asked; the revision of `same` is its draft."""
    last, said = question.messages[-1][1], [c for _, c in question.messages]
    if last.startswith("Rewrite"):
        if "same" in said[0]:
            return Reply(text=said[1])
        return Reply(
            text="I'm sorry, but I can't help with that."
            if "turn away" in said[0]
            else f"Better: {said[0]} {len(said)}"
        )
    return Reply(text="It is bad." if last.startswith("Name") else f"Draft of {last}, as asked")


def test_revisions_are_made_filtered_and_counted(tmp_path: Path) -> None:
    script = Script(writer)
    rows = prompts("danger one", "same two", "turn away three", "four")
    helpful = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 3
    report = revise(validated(TREE, "t"), rows, Revising(ratio=0.5), script, script, tmp_path, helpful)
    assert report["dropped"] == {"evasive": 1, "unchanged": 1} and report["kept"] == 2 and report["helpful"] == 1
    assert len(script.asked) == 4 * (1 + 2 * 2)
    made = lines(tmp_path / "sft.jsonl")
    assert [m["messages"][-1]["content"][:14] for m in made] == ["Better: danger", "Better: four 5"[:14], "a"]
    assert made[0]["provenance"]["draft"] == "Draft of danger one, as asked"
    revise(validated(TREE, "t"), rows, Revising(ratio=0.5), script, script, tmp_path, helpful)
    assert len(script.asked) == 20, "a call was made twice"


def test_faults_of_a_revision() -> None:
    assert edit_share("kitten", "sitting") == pytest.approx(1 / 7)  # lengths alone are bound enough
    assert edit_share("a" * 100, "a" * 99 + "b") == pytest.approx(0.01)
    assert fault_of("a word " * 30, "a word " * 30) == "degenerate"
    assert degenerate("") and degenerate("one") and not degenerate("one two")
    assert fault_of("An old answer.", "A quite new one.") == ""


def test_a_revision_that_says_its_request_again_is_an_echo() -> None:
    principle = load_constitution("default").principle("no-crime")
    told, worked = instructions(principle), principle.exemplars[0]
    for text in (worked.critique.upper(), worked.good, principle.guidance[0]):
        assert fault_of("An old answer.", text, told=told) == "echo", text
    assert fault_of("An old answer.", "Ask your neighbour for a guest code, or use a cafe.", told=told) == ""


# ── the log ──


def whole(out: Path, voice: Any = None) -> Script:
    """Both stages."""
    script = Script(lambda q: (voice or judge_of(WORTH))(q) if q.options else writer(q))
    rows = prompts("danger one", "four", "five")
    revise(validated(TREE, "t"), rows, Revising(), script, script, out / "revise")
    label(
        validated(TREE, "t"), rows, {r["id"]: ["aa", "b", "cc"] for r in rows}, Labelling(), script, out / "label", "x"
    )
    return script


def test_the_files_are_made_again_from_the_log_alone(tmp_path: Path) -> None:
    whole(tmp_path / "run")
    same = rebuild(tmp_path / "run", tmp_path / "again")
    assert len(same) == 9 and set(same.values()) == {True}


def test_a_changed_byte_is_found_and_located(tmp_path: Path) -> None:
    whole(tmp_path / "run")
    log = tmp_path / "run" / "label" / "label.log.jsonl"
    raw, rng = log.read_bytes(), random.Random(0)
    for _ in range(20):
        at = rng.randrange(len(raw))
        changed = bytearray(raw)
        changed[at] = ord("7") if changed[at] != ord("7") else ord("8")
        log.write_bytes(bytes(changed))
        number = raw[:at].count(b"\n") + 1
        with pytest.raises(RunError, match=rf"label.log.jsonl:({number}|{number + 1})?\b"):
            rebuild(tmp_path / "run", tmp_path / "again")
        assert not (tmp_path / "again").exists()


def test_a_run_s_decisions_are_what_conflicts_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KIND and SHORT of one level contradict each other on every pair: the matrix finds it, undeclared as it is."""
    tree = {**TREE, "principles": [TREE["principles"][0], {"id": "kind", "level": "low", "statement": "KIND"},
                                   TREE["principles"][2]]}  # fmt: skip
    texts = {f"r{i}": ["aa", "b"] for i in range(30)}
    rows = prompts(*(f"hello {i}" for i in range(30)))
    label(validated(tree, "t"), rows, texts, Labelling(), Script(judge_of(WORTH)), tmp_path / "label", "x")
    report = json.loads((tmp_path / "label" / "label.json").read_text())
    assert len(report["alarms"]) == 1 and "kind" in report["alarms"][0] and "short" in report["alarms"][0]
    (tmp_path / "tree.yaml").write_text(json.dumps(tree))
    words = ["constitution", "conflicts", str(tmp_path / "tree.yaml"), str(tmp_path / "label" / "decisions.jsonl")]
    assert run(words) == 1
    assert "kind" in (said := capsys.readouterr().out) and "short" in said


def test_what_people_wrote_is_mixed_in_and_marked(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}]
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(9)]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    people = comparisons_of(str(tmp_path / "people.jsonl"))
    assert people[0]["prompt"] == [{"role": "user", "content": "q0"}]
    given, texts = prompts("danger here", "hello"), {"r0": ["aa", "b"], "r1": ["aa", "b"]}
    tree = validated(TREE, "t")
    script = Script(judge_of(WORTH))
    report = label(tree, given, texts, Labelling(ratio=1.5), script, tmp_path / "l", "answerer", people)
    made = lines(tmp_path / "l" / "preferences.jsonl")
    assert report["comparisons"] == 3 and [m["id"] for m in made[2:]] == ["human/0", "human/1", "human/2"]
    assert {m["provenance"]["source"] for m in made[2:]} == {"human"} and "preference" not in made[2]
    card = (tmp_path / "l" / "README.md").read_text()
    assert tree.sha256 in card and "Rows: 5" in card and "Written by people: 3" in card
    talks = [{"messages": [*turns, {"role": "assistant", "content": f"a{i}"}]} for i in range(4)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in talks))
    assert conversations_of(str(tmp_path / "talks.jsonl")) == talks


def test_no_answer_speaks_for_the_judge(tmp_path: Path) -> None:
    """200 injected answers in either slot before a judge that repeats what it reads: not one label."""
    attempts = [filled(text, slot) for text in injections() for slot in "AB"]
    rows = prompts(*(f"hello {i}" for i in range(2 * len(attempts))))
    texts = {row["id"]: ["plain words", t][:: 1 if i % 2 else -1]
             for i, (row, t) in enumerate(zip(rows, [t for t in attempts for _ in range(2)], strict=True))}  # fmt: skip

    def echo(question: Question) -> Reply:
        return Reply(text="\n".join(slots(question.messages[-1][1])))

    with pytest.raises(DataError, match="no pair has a label"):
        label(validated(TREE, "t"), rows, texts, Labelling(reasoned=True), Script(echo), tmp_path, "x")
    decided = lines(tmp_path / "decisions.jsonl")
    assert len(decided) > 700 and {d["label"] for d in decided} == {None}


def test_explain_tells_the_whole_way(tmp_path: Path) -> None:
    whole(tmp_path / "run")
    told = "\n".join(explain(tmp_path / "run", "r0"))
    for part in ("danger one", "draft", "critique 1", "revision 2", "by kind",
                 "r0/0-1 under safe", "first in B", "log-probabilities",
                 "label 0.1", "the highest level that is clear", validated(TREE, "t").sha256):  # fmt: skip
        assert part in told, part
    with pytest.raises(RunError, match="no row 'r9'"):
        explain(tmp_path / "run", "r9")


def test_another_constitution_is_refused_with_the_difference(tmp_path: Path) -> None:
    labels(TREE, judge_of(WORTH), tmp_path, Labelling())
    other = {**TREE, "principles": [{**TREE["principles"][0], "statement": "SAFE too"}, *TREE["principles"][1:]]}
    with pytest.raises(RunError, match=r'another constitution.*\n.*safe.statement: "SAFE" -> "SAFE too"'):
        labels(other, judge_of(WORTH), tmp_path, Labelling())
    with pytest.raises(RunError, match="was begun with decide all, now one"):
        labels(TREE, judge_of(WORTH), tmp_path, Labelling(decide="one"))


def slow(question: Question) -> Reply:
    time.sleep(0.001)
    return judge_of(WORTH)(question)


def killed(folder: Path, kills: int) -> None:
    """SIGKILLs at random moments; then the files, and that no finished call was repeated."""
    whole(folder / "whole")
    want = {
        p.relative_to(folder / "whole"): p.read_bytes()
        for p in (folder / "whole").rglob("*.json*")
        if "log" not in p.name
    }
    rng, done, trial = random.Random(0), 0, 0
    while done < kills:
        out, trial, alive = folder / f"t{trial}", trial + 1, True
        while alive:
            pid = os.fork()
            if pid == 0:
                whole(out, slow)
                os._exit(0)
            time.sleep(0.25 * rng.random())
            alive = os.waitpid(pid, os.WNOHANG)[0] == 0
            if alive:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done += 1
            if done >= kills and alive:
                whole(out)
                alive = False
        assert {name: (out / name).read_bytes() for name in want} == want
        keys = [x["key"] for log in out.rglob("*.log.jsonl") for x in lines(log)[1:]]
        assert len(keys) == len(set(keys)), "a finished call was repeated"


def test_kills_change_nothing(tmp_path: Path) -> None:
    killed(tmp_path, 4)


@pytest.mark.soak
def test_fifty_kills_change_nothing(tmp_path: Path) -> None:
    killed(tmp_path, 50)


def test_prompts_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="is empty"):
        prompts(" ")
    answered = Prompt(
        id="a", origin="p:1", prompt=({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
    )
    with pytest.raises(DataError, match="p:1: prompt: ends with a turn of the assistant"):
        rows_of([answered])


def test_one_command_from_prompts_to_a_model_and_on_after_a_stop(tiny: Path, tmp_path: Path) -> None:
    """The tiny model answers, the script gives the feedback; the second call makes nothing again."""
    usual = {"revisions": 3, "temperature": 0.5}
    tree = {**TREE, "defaults": {**TREE.get("defaults", {}), **usual}}
    (tmp_path / "tree.yaml").write_text(json.dumps(tree))
    rows = [{"id": f"p{i}", "prompt": f"danger {i}"} for i in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "config.yaml").write_text("train: {precision: fp32, batch_size: 4}\n")
    plan = CaiPlan(
        model=str(tiny), constitution=str(tmp_path / "tree.yaml"), prompts=str(tmp_path / "prompts.jsonl"),
        max_tokens=12, config=str(tmp_path / "config.yaml"), breach_answers=1,
    )  # fmt: skip

    def voice(question: Question) -> Reply:
        if question.options is None:
            return writer(question)
        answers = slots(question.messages[-1][1])
        return tokens(0.9 if answers[0] > answers[-1] else 0.1 if answers[0] < answers[-1] else 0.5)

    script, out = Script(voice), tmp_path / "run"
    report = run_cai(plan, out, lambda: nullcontext(script))
    assert report["label"]["decided_by"] == {"high": report["label"]["labelled"]}
    drawn = [r["record"] for r in lines(out / "revise" / "revise.log.jsonl") if "step" in r.get("record", {})]
    assert len(drawn) == 10 * (1 + 2 * usual["revisions"]) and {r["temperature"] for r in drawn} == {0.5}
    for row in lines(out / "label" / "preferences.jsonl"):
        answers = (row["chosen"][0]["content"], row["rejected"][0]["content"])
        assert row["preference"] == pytest.approx(0.9) and answers[0] > answers[1]
    assert (out / "dpo" / "model" / "config.json").exists()
    assert validated(tree, "t").sha256 in (out / "report.json").read_text()
    assert {"harmless_win_rate", "refusal_safe"} <= {c["measure"] for c in report["contrasts"]}
    for card in ("revise", "sft/model", "label", "dpo/model"):
        assert validated(tree, "t").sha256 in (out / card / "README.md").read_text(), card
    calls, files = len(script.asked), {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    assert run_cai(plan, out, lambda: nullcontext(script)) == report
    assert len(script.asked) == calls and {p: p.read_bytes() for p in files} == files
    assert set(rebuild(out, tmp_path / "again").values()) == {True}
    with pytest.raises(RunError, match=r"plan.json: was begun with seed 0, now 1; put it back"):
        run_cai(replace(plan, seed=1), out, lambda: nullcontext(script))
    (tmp_path / "tree.yaml").write_text(json.dumps({**tree, "name": "other"}))
    with pytest.raises(RunError, match="another constitution"):
        run_cai(plan, out, lambda: nullcontext(script))


def test_a_folder_in_which_nothing_has_cost_anything_is_begun_anew(tiny: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "run", CaiPlan(model=str(tiny), prompts=str(tmp_path / "prompts.jsonl"))
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "prompt": "danger"}\n')

    def refused() -> AbstractContextManager[Speaker]:
        raise ModelError("the feedback model is not there")

    with pytest.raises(ModelError):
        run_cai(plan, out, refused)
    kept = (out / "plan.json").read_bytes()
    with pytest.raises(ModelError):
        run_cai(replace(plan, seed=5), out, refused)
    assert (out / "plan.json").read_bytes() != kept and json.loads((out / "plan.json").read_bytes())["plan"][
        "seed"
    ] == 5
    (out / "mine.txt").write_text("kept")
    (out / "plan.json").unlink()
    with pytest.raises(RunError, match="is not empty and holds no run of cai"):
        run_cai(plan, out, refused)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["run", "--route", "sft"], "none of dpo, rlhf"), (["run", "--answers", "1"], "--answers 2"),
     (["run", "--constitution", "nowhere.yaml"], "nowhere.yaml"), (["run", "--helpful", "no.jsonl"], "no such file"),
     (["run", "--feedback-server", "http://127.0.0.1:9"], "--feedback: missing"),
     (["run", "--feedback-key-env", "KEY"], "has no effect"), (["run"], "nowhere: no such folder")],
)  # fmt: skip
def test_wrong_words(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cai", *words, "--model", "nowhere", "--out", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("route", ["dpo", "rlhf"])
def test_settings_that_are_none_are_told_before_anything_is_paid(tiny: Path, tmp_path: Path, route: str) -> None:
    (tmp_path / "config.yaml").write_text("train: {batch_sise: 4}\n")
    plan = CaiPlan(model=str(tiny), config=str(tmp_path / "config.yaml"), route=route)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"config.yaml: train.batch_sise: unknown setting \(did you mean"):
        run_cai(plan, tmp_path / "o", lambda: nullcontext(Script(writer)))
    assert not (tmp_path / "o").exists()
