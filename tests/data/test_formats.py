"""Every format: the examples of docs/formats.md are recognised, read and written back; and what single formats do."""

import json
import re
from pathlib import Path

import pytest

from trueup.data.convert import convert
from trueup.data.fields import RowFault, Source
from trueup.data.formats import FORMATS
from trueup.data.read import read_rows
from trueup.data.wanted import TURNS_INTO
from trueup.types import Comparison, Example, Prompt, Ranking, Rating

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
EXAMPLES = {
    name: [json.loads(line) for line in block.splitlines()]
    for name, block in re.findall(r"^### ([\w-]+)\n.*?^```json\n(.*?)\n^```", PAGE, flags=re.S | re.M)
}
HERE = Source(id="here", origin="file:1")


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def parse(name, **row):
    return FORMATS[name].parse(row, HERE)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_page_shows_every_format():
    assert set(EXAMPLES) == set(FORMATS)
    for entry in FORMATS.values():
        line = re.search(rf"^\| \[`{entry.name}`\]\(#{entry.name}\) \| (\w+).*$", PAGE, flags=re.M)
        assert line is not None and line[1] == entry.makes.__name__
        assert all(f"`{field}`" in line[0] for field in entry.required)


def test_the_page_has_the_table_of_conversions():
    rows = set(re.findall(r"^\| (\w+) \| (\w+) \| ", PAGE, flags=re.M))
    assert {(one.__name__, other.__name__) for one, other in TURNS_INTO} <= rows


@pytest.mark.parametrize("name", FORMATS)
def test_examples_are_recognised_and_survive_a_round_trip(name, tmp_path):
    first = read_rows(write(tmp_path / "first.jsonl", EXAMPLES[name]))
    assert (first.format, first.rejected) == (name, 0)
    assert all(isinstance(row, FORMATS[name].makes) for row in first.rows)
    if name == "stepwise":
        return
    again = read_rows(write(tmp_path / "again.jsonl", convert(first.rows, name)), format=name)
    assert [without_origin(row) for row in again.rows] == [without_origin(row) for row in first.rows]


def without_origin(row):
    return {name: getattr(row, name) for name in row.__dataclass_fields__ if name != "origin"} | {"is": type(row)}


def test_strings_with_a_prompt_stay_raw():
    row = parse("preference", prompt="P ", chosen="a", rejected="b", margin=2, preference=0.75)
    assert (row.prompt, row.chosen, row.rejected, row.margin, row.preference) == ("P ", "a", "b", 2.0, 0.75)


def test_implicit_prompt_of_strings_eats_nothing():
    for chosen, rejected in (("Hi! yes", "Hi! yes sir"), ("xyz ", "qyz ")):
        row = parse("preference-implicit", chosen=chosen, rejected=rejected)
        assert (row.prompt, row.chosen, row.rejected) == ("", chosen, rejected)


def test_implicit_prompt_of_turns_is_the_longest_common_prefix():
    shared = [system("S"), user("1"), says("2"), user("3")]
    row = parse(
        "preference-implicit",
        chosen=[*shared, says("Hi! yes")],
        rejected=[*shared, says("Hi! yes sir"), user("4"), says("5")],
    )
    assert row.prompt == tuple(shared)
    assert row.chosen == (says("Hi! yes"),)
    assert row.rejected == (says("Hi! yes sir"), user("4"), says("5"))


def test_implicit_prompt_may_be_empty():
    row = parse("preference-implicit", chosen=[user("a"), says("x")], rejected=[user("b"), says("x")])
    assert (row.prompt, row.chosen) == ((), (user("a"), says("x")))


def test_turns_that_differ_in_a_tool_call_are_not_shared():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}]}
    other = {**call, "tool_calls": [{"function": {"name": "g", "arguments": {}}}]}
    row = parse("preference-implicit", chosen=[user("a"), call], rejected=[user("a"), other])
    assert (row.prompt, row.chosen, row.rejected) == ((user("a"),), (call,), (other,))


def test_a_repeated_prompt_is_taken_off():
    prompt = [user("q")]
    row = parse("preference", prompt=prompt, chosen=[*prompt, says("a")], rejected=[*prompt, says("b")])
    assert (row.prompt, row.chosen, row.rejected) == ((user("q"),), (says("a"),), (says("b"),))


def test_strings_beside_a_prompt_of_turns_are_answers():
    row = parse("preference", prompt=[user("q")], chosen="a", rejected="b")
    assert (row.prompt, row.chosen, row.rejected) == ((user("q"),), (says("a"),), (says("b"),))


def test_ultrafeedback_keeps_the_system_turn_and_earlier_answers():
    shared = [system("S"), user("q")]
    row = parse(
        "ultrafeedback",
        prompt="q",
        chosen=[*shared, says("a")],
        rejected=[*shared, says("b")],
        score_chosen=3,
        score_rejected=1,
    )
    assert (row.prompt, row.chosen, row.margin) == (tuple(shared), (says("a"),), 2.0)
    answers_only = parse("ultrafeedback", prompt="q", chosen=[says("a")], rejected=[says("b")])
    assert answers_only.prompt == (user("q"),)


def test_hh_transcript():
    row = parse(
        "hh",
        chosen="\n\nHuman: a\nHuman: b \n\nAssistant: c\n\nHuman: d\n\nAssistant: e",
        rejected="\n\nHuman: a\nHuman: b \n\nAssistant: c\n\nHuman: d\n\nAssistant:f",
    )
    assert row.prompt == (user("a\nHuman: b "), says("c"), user("d"))
    assert (row.chosen, row.rejected) == ((says("e"),), (says("f"),))


def test_hh_prompt_with_a_mark_for_the_answer():
    row = parse("hh", prompt="\n\nHuman: q\n\nAssistant:", chosen=" a", rejected=" b")
    assert (row.prompt, row.chosen) == ((user("q"),), (says("a"),))
    loose = parse("hh-prompt", prompt="Human: a\n\nb\nAssistant: c\nHuman: d\n")
    assert loose == Prompt(id="here", origin="file:1", prompt=(user("a\n\nb"), says("c"), user("d")))


def test_messages_end_the_prompt_at_the_first_answer_with_a_weight():
    plain = parse("messages", messages=[user("a"), says("b"), user("c"), says("d")])
    assert (plain.prompt, len(plain.completion)) == ((user("a"),), 3)
    unused = {**says("b"), "weight": 0}
    weighted = parse("messages", messages=[user("a"), unused, user("c"), says("d")])
    assert (weighted.prompt, weighted.completion) == ((user("a"), says("b"), user("c")), (says("d"),))
    with pytest.raises(RowFault, match="weight 0 after a turn that is trained on"):
        parse("messages", messages=[user("a"), says("b"), user("c"), unused])
    with pytest.raises(RowFault, match="no assistant turn with a weight other than 0"):
        parse("messages", messages=[user("a"), unused])


def test_a_label_on_messages_judges_what_follows_the_last_question():
    row = parse("messages-label", messages=[user("a"), says("b"), user("c"), says("d")], label=False)
    assert (row.prompt, row.completion, row.label) == ((user("a"), says("b"), user("c")), (says("d"),), False)


def test_content_parts_of_text_are_joined():
    row = parse("prompt", prompt=[{"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]}])
    assert row.prompt == (user("ab"),)


def test_sharegpt_tools_and_system():
    row = read_example("sharegpt")
    assert row.prompt[0] == system("You run a kitchen.")
    call = {"type": "function", "function": {"name": "oven", "arguments": {"unit": "C"}}}
    assert row.completion[0] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row.completion[1] == {"role": "tool", "content": "180"}
    assert row.tools == ({"name": "oven"},)


def read_example(name, index=0):
    return FORMATS[name].parse(EXAMPLES[name][index], HERE)


def test_alpaca_is_system_history_question():
    row = read_example("alpaca")
    assert row.prompt == (
        system("You know birds."),
        user("Name a big bird."),
        says("An ostrich."),
        user("And a smaller one?"),
    )
    assert parse("alpaca", instruction="Sum:", input="1, 2", output="3").prompt == (user("Sum:\n1, 2"),)


def test_openai_preference_reads_the_tools_of_the_input():
    row = parse(
        "openai-preference",
        input={"messages": [user("q")], "tools": [{"name": "f"}]},
        preferred_output=[says("a")],
        non_preferred_output=[says("b")],
    )
    assert (row.prompt, row.chosen, row.rejected, row.tools) == (
        (user("q"),),
        (says("a"),),
        (says("b"),),
        ({"name": "f"},),
    )


def test_ranks_become_scores():
    assert read_example("nectar").scores == (-1.0, -2.0)
    assert read_example("nemo").scores == (0.0, -1.0)
    assert read_example("ranked").scores == (-2.0, -1.0)
    assert read_example("shp").scores == (41.0, 3.0)


def test_a_judged_pair_keeps_the_judges_probability():
    row = read_example("judged-pair")
    assert (row.chosen[0]["content"], row.preference) == ("Grey threads stitching sky.", 0.75)
    other = parse("judged-pair", instruction="q", output_1="a", output_2="b", preference=2)
    assert (other.chosen, other.preference) == ((says("b"),), None)
    with pytest.raises(RowFault, match="tie"):
        parse("judged-pair", instruction="q", output_1="a", output_2="b", preference=1.5)


def test_steps_build_on_each_other():
    first, second = read_example("stepwise")
    assert (first.prompt, first.completion, first.label) == ("Add 2, 3 and 5. ", "2 + 3 = 5.", True)
    assert (second.prompt, second.label, second.id) == ("Add 2, 3 and 5. 2 + 3 = 5.\n", False, "here#2")


def test_own_id_is_kept():
    assert parse("text", text="t", id=7).id == "7"


WANTED = [
    ("preference", Example, 3),
    ("preference", Rating, 6),
    ("preference", Prompt, 3),
    ("hh", Ranking, 2),
    ("unpaired", Example, 1),
    ("unpaired", Prompt, 1),
    ("prompt-completion", Prompt, 2),
    ("scored", Comparison, 1),
    ("scored-answer", Comparison, 1),
    ("helpsteer", Comparison, 1),
    ("nectar", Example, 1),
    ("nemo", Prompt, 1),
]


@pytest.mark.parametrize(("name", "wanted", "count"), WANTED)
def test_rows_of_one_class_become_those_of_another(name, wanted, count, tmp_path):
    report = read_rows(write(tmp_path / "a.jsonl", EXAMPLES[name]), wanted=wanted)
    assert [type(row) for row in report.rows] == [wanted] * count
    assert report.kept == len(EXAMPLES[name])


def test_a_ranking_gives_its_best_and_worst(tmp_path):
    (row,) = read_rows(write(tmp_path / "a.jsonl", EXAMPLES["scored"]), wanted=Comparison).rows
    assert (row.chosen, row.rejected) == ("The end of twilight.", "A kind of bread.")


def test_a_pair_gives_one_desirable_and_one_undesirable_answer(tmp_path):
    pair = {"id": "p", "prompt": "q", "chosen": "a", "rejected": "b", "preference": 0.2}
    first, second = read_rows(write(tmp_path / "a.jsonl", [pair]), wanted=Rating).rows
    assert (first.id, first.completion, first.label) == ("p#chosen", "b", True)
    assert (second.id, second.completion, second.label) == ("p#rejected", "a", False)


def test_ties_are_counted(tmp_path):
    rows = [{**EXAMPLES["scored"][0], "scores": [1, 1, 1]}, *EXAMPLES["scored"]]
    report = read_rows(write(tmp_path / "a.jsonl", rows), wanted=Comparison, bad_rows="skip")
    assert (report.read, report.kept, report.rejected) == (2, 1, 1)
    assert str(report.problems[0]).endswith("a.jsonl:1: scores: all completions have the same score: nothing to prefer")


def test_an_answer_without_another_to_its_prompt_is_counted(tmp_path):
    rows = [*EXAMPLES["scored-answer"], {"prompt": "Alone?", "completion": "Yes.", "score": 1}]
    report = read_rows(write(tmp_path / "a.jsonl", rows), wanted=Comparison, bad_rows="skip")
    assert (report.read, report.kept, len(report.rows)) == (3, 2, 1)
    assert report.problems[0].reason.startswith("no second completion of this prompt")
