"""Writing any format from any other that holds the information: what is written is read back the same."""

import json

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from trueup.data.convert import convert, wrapped, write_rows
from trueup.data.fields import RowFault, Source
from trueup.data.formats import FORMATS
from trueup.data.read import read_rows
from trueup.errors import DataError
from trueup.types import Comparison, Example, Prompt, Ranking, Rating

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)
WORD = st.sampled_from(["a", "b", " c", "d\n", "\n\nHuman: x", "é", "[1]", '{"role": 1}', "Human: q"])
SAID = st.one_of(WORD, TEXT)
PLAIN = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), SAID
)
CALL = st.builds(
    lambda name, value: {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {"x": value}}}],
    },
    SAID,
    st.one_of(st.none(), SAID, st.integers()),
)
OTHER = st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "tool"]), SAID)
TURN = st.one_of(PLAIN, CALL, OTHER, PLAIN.map(lambda turn: {**turn, "name": "n"}))
ANSWER = st.builds(
    lambda before, content: (*before, {"role": "assistant", "content": content}), st.lists(TURN, max_size=2), SAID
)
SHORT = SAID.map(lambda content: ({"role": "assistant", "content": content},))
ASKED = st.builds(
    lambda before, content: (*before, {"role": "user", "content": content}), st.lists(TURN, max_size=2), SAID
)
QUESTION = SAID.map(lambda content: ({"role": "user", "content": content},))
PROMPT = st.one_of(QUESTION, ASKED, st.just(()))
TOOLS = st.one_of(st.none(), st.lists(st.fixed_dictionaries({"name": SAID}), min_size=1, max_size=2).map(tuple))
COMMON = {"id": SAID, "origin": st.just("f:1"), "tools": TOOLS}
NUMBER = st.floats(0, 1e6, allow_nan=False)
SOFT = st.one_of(st.none(), st.floats(0, 1))


def texts(answer):
    """Prompt and completion of one kind, both raw or both turns."""
    raw = st.tuples(st.one_of(SAID, st.just("")), SAID, SAID)
    return st.one_of(raw, st.tuples(PROMPT, answer, answer))


@st.composite
def comparisons(draw):
    prompt, chosen, rejected = draw(texts(st.one_of(SHORT, ANSWER)).filter(lambda parts: parts[1] != parts[2]))
    return Comparison(
        prompt=prompt, chosen=chosen, rejected=rejected, margin=draw(st.one_of(st.none(), NUMBER)),
        preference=draw(SOFT), **{key: draw(value) for key, value in COMMON.items()},
    )  # fmt: skip


@st.composite
def ratings(draw):
    prompt, completion, _ = draw(texts(ANSWER))
    common = {key: draw(value) for key, value in COMMON.items()}
    return Rating(prompt=prompt, completion=completion, label=draw(st.booleans()), **common)


@st.composite
def examples(draw):
    prompt, completion, _ = draw(texts(ANSWER))
    return Example(prompt=prompt, completion=completion, **{key: draw(value) for key, value in COMMON.items()})


@st.composite
def prompts(draw):
    return Prompt(prompt=draw(st.one_of(SAID, ASKED)), **{key: draw(value) for key, value in COMMON.items()})


@st.composite
def rankings(draw):
    raw = draw(st.booleans())
    answers = draw(st.lists(SAID if raw else SHORT, min_size=1, max_size=4))
    scores = draw(st.lists(NUMBER, min_size=len(answers), max_size=len(answers)))
    return Ranking(
        prompt=draw(SAID if raw else st.one_of(QUESTION, ASKED)), completions=tuple(answers), scores=tuple(scores),
        **{key: draw(value) for key, value in COMMON.items()},
    )  # fmt: skip


ROWS = {Comparison: comparisons(), Rating: ratings(), Example: examples(), Prompt: prompts(), Ranking: rankings()}
WRITABLE = [name for name in FORMATS if name != "stepwise"]


@pytest.mark.parametrize("name", WRITABLE)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_what_a_format_writes_it_reads_back(name, data):
    """parse(write(x)) == x, or convert says that the format cannot hold x; JSON on the way changes nothing."""
    row = data.draw(ROWS[FORMATS[name].makes])
    try:
        (fields,) = convert([row], name)
    except DataError as error:
        assert str(error).startswith("f:1: ") and repr(name) in str(error)
        return
    there = json.loads(json.dumps(fields))
    assert FORMATS[name].parse(there, Source(id="other", origin="f:1")) == row


CANONICAL = {
    Comparison: Comparison(
        id="i",
        origin="f:1",
        prompt=({"role": "user", "content": "q"},),
        chosen=({"role": "assistant", "content": "a"},),
        rejected=({"role": "assistant", "content": "b"},),
    ),
    Rating: Rating(
        id="i",
        origin="f:1",
        prompt=({"role": "user", "content": "q"},),
        completion=({"role": "assistant", "content": "a"},),
        label=False,
    ),
    Example: Example(
        id="i",
        origin="f:1",
        prompt=({"role": "user", "content": "q"},),
        completion=({"role": "assistant", "content": "a"},),
    ),
    Prompt: Prompt(id="i", origin="f:1", prompt=({"role": "user", "content": "q"},)),
    Ranking: Ranking(
        id="i",
        origin="f:1",
        prompt=({"role": "user", "content": "q"},),
        completions=(({"role": "assistant", "content": "a"},), ({"role": "assistant", "content": "b"},)),
        scores=(2.0, 1.0),
    ),
}
RAW_ONLY = {"text"}
ONE_ANSWER = {"scored-answer", "helpsteer"}


@pytest.mark.parametrize("name", [name for name in WRITABLE if name not in RAW_ONLY | ONE_ANSWER])
def test_every_format_holds_the_plain_case(name):
    """Without this, a writer that refuses everything would pass the round trip above."""
    row = CANONICAL[FORMATS[name].makes]
    (fields,) = convert([row], name)
    assert FORMATS[name].parse(fields, Source(id="other", origin="f:1")) == row


def test_raw_text_and_single_answers_are_held_too():
    assert list(convert([Example(id="i", origin="f:1", prompt="", completion="t")], "text")) == [
        {"id": "i", "text": "t"}
    ]
    row = Ranking(id="i", origin="f:1", prompt="q", completions=("a",), scores=(3.0,))
    assert list(convert([row], "scored-answer")) == [{"id": "i", "prompt": "q", "completion": "a", "score": 3.0}]


def test_a_pair_becomes_two_labelled_rows():
    first, second = convert([CANONICAL[Comparison]], "alpaca-kto")
    assert first == {"id": "i#chosen", "instruction": "q", "input": "", "output": "a", "kto_tag": True}
    assert (second["id"], second["output"], second["kto_tag"]) == ("i#rejected", "b", False)


LOST = [
    (Comparison, {"margin": 2.0}, "judged-pair", "margin", "has no place"),
    (Comparison, {"prompt": "raw", "chosen": "a", "rejected": "b"}, "hh", "prompt", "is raw text without turns"),
    (
        Comparison,
        {"prompt": "raw", "chosen": "a", "rejected": "b"},
        "preference-implicit",
        "prompt",
        "where the prompt",
    ),
    (Comparison, {"prompt": ({"role": "system", "content": "s"},)}, "hh", "chosen", "not a system turn"),
    (Example, {"prompt": "p", "completion": "c"}, "text", "prompt", "would be trained on"),
    (
        Example,
        {"prompt": ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})},
        "sharegpt",
        "prompt",
        "holds an answer",
    ),
    (Ranking, {}, "scored-answer", "completions", "holds one answer a row, not 2"),
    (Rating, {}, "stepwise", "completion", "is one step"),
]


@pytest.mark.parametrize(("kind", "changes", "name", "field", "reason"), LOST)
def test_what_a_format_cannot_hold_is_named(kind, changes, name, field, reason):
    fields = {key: getattr(CANONICAL[kind], key) for key in CANONICAL[kind].__dataclass_fields__} | changes
    with pytest.raises(DataError) as error:
        list(convert([kind(**fields)], name))
    assert str(error.value).startswith(f"f:1: {field}") and reason in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "lacks"),
    [
        (Example, "preference", "a chosen and a rejected completion"),
        (Prompt, "messages", "a completion"),
        (Rating, "scored", "scored completions"),
        (Example, "unpaired", "a completion with a true or false label"),
    ],
)
def test_a_format_that_needs_more_says_what(kind, name, lacks):
    with pytest.raises(DataError, match=rf"f:1: a {kind.__name__} holds no .* rows: they need {lacks}"):
        list(convert([CANONICAL[kind]], name))


def test_unknown_formats_are_refused_at_once():
    with pytest.raises(DataError, match="unknown format 'shargpt'; did you mean 'sharegpt'"):
        convert([], "shargpt")
    with pytest.raises(DataError, match="'auto' is for reading"):
        convert([], "auto")


def test_answers_in_the_prompt_get_weight_zero_in_messages():
    talk = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    row = Example(id="i", origin="f:1", prompt=talk, completion=({"role": "assistant", "content": "d"},))
    (fields,) = convert([row], "messages")
    assert [turn.get("weight") for turn in fields["messages"]] == [None, 0, None, None]


def test_what_would_come_back_different_is_named():
    wide = Comparison(**{**fields(CANONICAL[Comparison]), "prompt": CANONICAL[Comparison].prompt * 2})
    shared = ({"role": "assistant", "content": "first"},)
    twice = Comparison(**{**fields(wide), "chosen": shared + wide.chosen, "rejected": shared + wide.rejected})
    assert list(convert([wide], "preference-implicit"))
    with pytest.raises(DataError, match=r"f:1: prompt, chosen, rejected: .* they would not come back the same"):
        list(convert([twice], "preference-implicit"))


def test_raw_text_can_be_wrapped():
    raw = Comparison(id="i", origin="f:1", prompt="q", chosen="a", rejected="b")
    assert wrapped(raw) == CANONICAL[Comparison]
    (row,) = convert([raw], "orca", wrap=True)
    assert row == {"id": "i", "question": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "rows.json.gz", "rows.csv", "rows.parquet"])
@settings(
    max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True
)
@given(rows=st.lists(st.one_of(comparisons()), min_size=1, max_size=5, unique_by=lambda row: row.id))
def test_files_bring_back_the_rows(name, rows, tmp_path_factory):
    rows = [row for row in rows if held(row, "preference")]
    assume(rows)
    path = tmp_path_factory.mktemp("files") / name
    write_rows(path, convert(rows, "preference"))
    report = read_rows(path, format="preference")
    assert [{**fields(row), "origin": ""} for row in report.rows] == [{**fields(row), "origin": ""} for row in rows]


def held(row, name):
    try:
        return list(convert([row], name))
    except DataError:
        return False


def fields(row):
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def test_faults_are_of_the_rows_own_field_names():
    with pytest.raises(RowFault) as fault:
        FORMATS["argilla"].parse({"prompt": "q", "chosen_response": "a", "rejected_response": " "}, Source("i", "f:1"))
    assert (fault.value.field, fault.value.reason) == ("rejected_response", "is empty")
