"""Hand-written bad rows: each is refused with its line, field and reason, and takes no good row along."""

import json
import re

import pytest

from trueup.data import files
from trueup.data.read import read_rows
from trueup.errors import DataError, UserError

GOOD = {
    "preference": {"prompt": "Q", "chosen": "yes", "rejected": "no"},
    "preference-implicit": {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
    },
    "hh": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    "unpaired": {"prompt": "Q", "completion": "A", "label": True},
    "prompt-completion": {"prompt": "Q", "completion": "A"},
    "prompt": {"prompt": "Q"},
    "text": {"text": "t"},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "ultrafeedback": {
        "prompt": "q",
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "sharegpt-preference": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "alpaca": {"instruction": "i", "output": "o"},
    "scored": {"prompt": "Q", "completions": ["a", "b"], "scores": [2, 1]},
    "shp": {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 5, "score_B": 2},
    "swift": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected_response": "b",
    },
    "nemo": {
        "context": [{"role": "user", "content": "q"}],
        "completions": [{"rank": 0, "completion": [{"role": "assistant", "content": "a"}]}],
    },
    "nectar": {"prompt": "q", "answers": [{"answer": "a", "rank": 1}]},
    "stepwise": {"prompt": "q", "completions": ["a"], "labels": [True]},
    "openai-preference": {
        "input": {"messages": [{"role": "user", "content": "q"}]},
        "preferred_output": [{"role": "assistant", "content": "a"}],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    },
    "judged-pair": {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1},
}


def but(name, **changes):
    """The good row of a format with fields changed; None takes a field out."""
    return json.dumps({key: value for key, value in (GOOD[name] | changes).items() if value is not None}).encode()


def turns(*said):
    return [{"role": role, "content": content} for role, content in said]


ASK, ANSWER = ("user", "q"), ("assistant", "a")
PREFERENCE = "preference"
CASES = {
    # text that is not a row
    "not json": (PREFERENCE, b"{'prompt': 1}", "row", "is not JSON: .* at character 2"),
    "cut off": (PREFERENCE, but(PREFERENCE)[:-9], "row", "is not JSON"),
    "two rows on a line": (PREFERENCE, but(PREFERENCE) * 2, "row", "is not JSON: Extra data"),
    "trailing comma": (PREFERENCE, but(PREFERENCE)[:-1] + b",}", "row", "is not JSON"),
    "a list": (PREFERENCE, b'["a", "b"]', "row", "must be a JSON object, not a list"),
    "a string": (PREFERENCE, b'"a"', "row", "must be a JSON object, not a string"),
    "null": (PREFERENCE, b"null", "row", "must be a JSON object, not null"),
    "a number": (PREFERENCE, b"3", "row", "must be a JSON object, not a number"),
    "NUL byte": (PREFERENCE, but(PREFERENCE).replace(b"yes", b"y\0s"), "row", "holds a NUL byte at character 29"),
    "NUL escape": (PREFERENCE, but(PREFERENCE, chosen="y\0s"), "chosen", "holds a NUL character at position 2"),
    "raw control character": (PREFERENCE, but(PREFERENCE).replace(b"yes", b"y\x01s"), "row", "control character"),
    "invalid UTF-8": (
        PREFERENCE,
        but(PREFERENCE).replace(b"yes", b"y\xffs"),
        "row",
        "invalid UTF-8: 0xff at byte offset 28 of the row, 79 of the file",
    ),
    "Latin-1": (PREFERENCE, but(PREFERENCE).replace(b"yes", "é".encode("latin-1")), "row", "invalid UTF-8: 0xe9"),
    "overlong UTF-8": (PREFERENCE, but(PREFERENCE).replace(b"yes", b"\xc0\x80"), "row", "invalid UTF-8: 0xc0"),
    "UTF-8 surrogate": (PREFERENCE, but(PREFERENCE).replace(b"yes", b"\xed\xa0\x80"), "row", "invalid UTF-8: 0xed"),
    "lone high surrogate": (PREFERENCE, but(PREFERENCE, chosen="a\ud83d"), "chosen", "lone surrogate U[+]D83D at char"),
    "lone low surrogate": (PREFERENCE, but(PREFERENCE, prompt="\udc00"), "prompt", "lone surrogate U[+]DC00"),
    "surrogate in a key": (PREFERENCE, but(PREFERENCE, **{"k\ud800": 1}), "row", "lone surrogate"),
    "surrogate in an unused field": (PREFERENCE, but(PREFERENCE, note=["\ud800"]), "note", "lone surrogate"),
    "BOM inside": (PREFERENCE, b"\xef\xbb\xbf" + but(PREFERENCE), "row", "byte order mark in the middle"),
    "depth 10^4": (
        PREFERENCE,
        b'{"prompt":' + b"[" * 10**4 + b"]" * 10**4 + b"}",
        "row|prompt",
        "nested more than 100",
    ),
    "depth 10^4 unclosed": (PREFERENCE, b"[" * 10**4, "row", "nested more than 100|not JSON"),
    "depth 200": (PREFERENCE, b'{"prompt":' + b"[" * 200 + b"]" * 200 + b"}", "prompt", "nested more than 100"),
    "depth of objects": (PREFERENCE, b'{"a":' * 10**4 + b"1" + b"}" * 10**4, "row|a", "nested more than 100"),
    "key twice": (PREFERENCE, but(PREFERENCE)[:-1] + b', "chosen": "x"}', "row", "has the key 'chosen' twice"),
    "key twice inside": (
        "messages",
        b'{"messages": [{"role": "user", "role": "x"}]}',
        "row",
        "has the key 'role' twice",
    ),
    "NaN": (PREFERENCE, but(PREFERENCE, margin=float("nan")), "row", "holds NaN, which is not JSON"),
    "Infinity": (PREFERENCE, but(PREFERENCE, margin=float("inf")), "row", "holds Infinity"),
    "minus Infinity": (PREFERENCE, but(PREFERENCE, margin=float("-inf")), "row", "holds -Infinity"),
    "5000 digits": (PREFERENCE, b'{"prompt": ' + b"1" * 5000 + b"}", "row", "is not JSON"),
    # fields
    "missing": (PREFERENCE, but(PREFERENCE, rejected=None), "rejected", "is missing"),
    "null field": (PREFERENCE, b'{"prompt": "q", "chosen": null, "rejected": "b"}', "chosen", "is missing"),
    "number for text": (
        PREFERENCE,
        but(PREFERENCE, chosen=3),
        "chosen",
        "must be a string or a list of turns, not a n",
    ),
    "empty chosen": (PREFERENCE, but(PREFERENCE, chosen=""), "chosen", "is empty"),
    "blank rejected": (PREFERENCE, but(PREFERENCE, rejected=" \n\t"), "rejected", "is empty"),
    "empty list": (PREFERENCE, but(PREFERENCE, prompt=[], chosen=[]), "chosen", "is an empty list"),
    "identical": (PREFERENCE, but(PREFERENCE, rejected="yes"), "rejected", "identical to chosen"),
    "kinds mixed": (
        PREFERENCE,
        but(PREFERENCE, chosen=turns(ANSWER)),
        "rejected",
        "must be of the same kind as chosen",
    ),
    "margin 1e999": (PREFERENCE, but(PREFERENCE)[:-1] + b', "margin": 1e999}', "margin", "must be a finite number"),
    "margin as text": (PREFERENCE, but(PREFERENCE, margin="2"), "margin", "must be a number, not a string"),
    "margin as boolean": (PREFERENCE, but(PREFERENCE, margin=True), "margin", "must be a number, not a boolean"),
    "negative margin": (PREFERENCE, but(PREFERENCE, margin=-1), "margin", r"must lie in \[0, inf\], not -1"),
    "margin beyond floats": (PREFERENCE, but(PREFERENCE, margin=10**400), "margin", "must be a finite number"),
    "preference 1.5": (PREFERENCE, but(PREFERENCE, preference=1.5), "preference", r"must lie in \[0, 1\]"),
    "scores the wrong way": (PREFERENCE, but(PREFERENCE, score_chosen=1, score_rejected=2), "score_chosen", "is lower"),
    "tools as an object": (PREFERENCE, but(PREFERENCE, tools={"a": 1}), "tools", "must be a list of objects"),
    "tools as broken text": (PREFERENCE, but(PREFERENCE, tools="[{"), "tools", "is a string that is not JSON"),
    "images": (PREFERENCE, but(PREFERENCE, images=["x.png"]), "images", "only text is trained on"),
    "template arguments": (
        PREFERENCE,
        but(PREFERENCE, chat_template_kwargs={"a": 1}),
        "chat_template_kwargs",
        "not supp",
    ),
    "id as a list": (PREFERENCE, but(PREFERENCE, id=[1]), "id", "must be a string or a whole number, not a list"),
    "id as a boolean": (PREFERENCE, but(PREFERENCE, id=True), "id", "must be a string or a whole number"),
    "label as text": (
        "unpaired",
        but("unpaired", label="true"),
        "label",
        "must be true or false .* not a string 'true'",
    ),
    "label yes": ("unpaired", but("unpaired", label="yes"), "label", "must be true or false"),
    "label 2": ("unpaired", but("unpaired", label=2), "label", "must be true or false .* not a number 2"),
    "label 1.0": ("unpaired", but("unpaired", label=1.0), "label", "must be true or false"),
    "label missing": ("unpaired", but("unpaired", label=None), "label", "is missing"),
    "another format": (
        "prompt-completion",
        but("unpaired"),
        "label",
        "does not belong to the format 'prompt-completion'",
    ),
    "empty completion": ("prompt-completion", but("prompt-completion", completion=""), "completion", "is empty"),
    "empty prompt": ("prompt", but("prompt", prompt=""), "prompt", "is empty"),
    "prompt of no text": ("prompt", but("prompt", prompt=turns(("user", " "))), "prompt", "is empty"),
    "prompt that is answered": ("prompt", but("prompt", prompt=turns(ASK, ANSWER)), "prompt", "ends with an assistant"),
    "empty text": ("text", but("text", text=" "), "text", "is empty"),
    "text as a list": ("text", but("text", text=["a"]), "text", "must be a string, not a list"),
    # turns
    "unknown role": ("messages", but("messages", messages=turns(("bot", "x"))), r"messages\[0\]", "unknown role 'bot'"),
    "role as a list": (
        "messages",
        but("messages", messages=[{"role": [], "content": ""}]),
        r"messages\[0\]",
        "unknown",
    ),
    "no role": ("messages", but("messages", messages=[{"content": "x"}]), r"messages\[0\]", "has no role"),
    "no content": ("messages", but("messages", messages=[{"role": "user"}]), r"messages\[0\]", "has no content"),
    "content as a number": ("messages", but("messages", messages=turns(("user", 3))), r"messages\[0\]", "not a number"),
    "image part": (
        "messages",
        but("messages", messages=[{"role": "user", "content": [{"type": "image", "url": "u"}]}]),
        r"messages\[0\]",
        "content part 'image' is not text",
    ),
    "turn as a string": ("messages", but("messages", messages=["hi"]), r"messages\[0\]", "must be an object with role"),
    "no assistant turn": ("messages", but("messages", messages=turns(ASK)), "messages", "has no assistant turn"),
    "ends with the user": (
        "messages",
        but("messages", messages=turns(ASK, ANSWER, ASK)),
        "messages",
        "ends with a user",
    ),
    "empty answer": ("messages", but("messages", messages=turns(ASK, ("assistant", " "))), "messages", "is empty"),
    "no turns": ("messages", but("messages", messages=[]), "messages", "has no assistant turn"),
    "messages as text": (
        "messages",
        but("messages", messages="[]"),
        "messages",
        "must be a list of turns, not a string",
    ),
    "same conversations": (
        "preference-implicit",
        but("preference-implicit", rejected=GOOD["preference-implicit"]["chosen"]),
        "rejected",
        "identical to chosen",
    ),
    "one is the beginning": (
        "preference-implicit",
        but("preference-implicit", chosen=turns(ASK, ANSWER, ASK, ANSWER), rejected=turns(ASK, ANSWER)),
        "rejected",
        "is the beginning of chosen",
    ),
    "prompt is no prefix": (
        "preference-implicit",
        but("preference-implicit", prompt=turns(("user", "z"))),
        "prompt",
        "does not belong to the format",
    ),
    "prompt is another question": ("ultrafeedback", but("ultrafeedback", prompt="z"), "prompt", "is not the question"),
    "repeats another prompt": (
        PREFERENCE,
        but("ultrafeedback", prompt=turns(("user", "z"))),
        "chosen",
        "it is not a prefix",
    ),
    "no transcript": ("hh", but("hh", chosen="a plain answer"), "chosen", "is not a transcript"),
    "transcript without an answer": ("hh", but("hh", rejected="\n\nHuman: q\n\nAssistant: "), "rejected", "is empty"),
    "transcript ends with a question": ("hh", but("hh", chosen="\n\nHuman: z"), "chosen", "has no assistant turn"),
    # other formats
    "unknown speaker": (
        "sharegpt",
        but("sharegpt", conversations=[{"from": "alien", "value": "x"}]),
        r"conversations\[0\]",
        "unknown speaker 'alien'",
    ),
    "value as null": (
        "sharegpt",
        but("sharegpt", conversations=[{"from": "human", "value": None}]),
        r"conversations\[0\]",
        "value must be a string",
    ),
    "function call as prose": (
        "sharegpt",
        but("sharegpt", conversations=[{"from": "function_call", "value": "call it"}]),
        r"conversations\[0\]",
        "must be JSON with name and arguments",
    ),
    "chosen speaks as human": (
        "sharegpt-preference",
        but("sharegpt-preference", chosen={"from": "human", "value": "a"}),
        "chosen",
        "has no assistant turn",
    ),
    "history as text": ("alpaca", but("alpaca", history="x"), "history", "must be a list"),
    "history of triples": ("alpaca", but("alpaca", history=[["a", "b", "c"]]), r"history\[0\]", "must be a pair"),
    "no instruction": ("alpaca", but("alpaca", instruction="", input=""), "instruction", "is empty, and so is input"),
    "too few scores": ("scored", but("scored", scores=[1]), "scores", "has 1 entries; completions has 2"),
    "score as text": ("scored", but("scored", scores=["2", 1]), r"scores\[0\]", "must be a number, not a string"),
    "no answers": ("scored", but("scored", completions=[], scores=[]), "completions", "is an empty list"),
    "label against scores": ("shp", but("shp", labels=0), "labels", "says 0, but the scores are 5 and 2"),
    "no chosen answer": ("swift", but("swift", messages=turns(ASK)), "messages", "must end with the chosen answer"),
    "rank missing": (
        "nemo",
        but("nemo", completions=[{"completion": turns(ANSWER)}]),
        r"completions\[0\].rank",
        "missing",
    ),
    "answer as a string": ("nectar", but("nectar", answers=["a"]), r"answers\[0\]", "must be an object"),
    "step without a label": ("stepwise", but("stepwise", labels=[]), "labels", "is an empty list"),
    "output without an answer": (
        "openai-preference",
        but("openai-preference", preferred_output=turns(ASK)),
        "preferred_output|chosen",
        "has no assistant turn",
    ),
    "input as a list": (
        "openai-preference",
        but("openai-preference", input=[]),
        "input",
        "must be an object, not a list",
    ),
    "a tie": ("judged-pair", but("judged-pair", preference=1.5), "preference", "is a tie"),
}


def around(tmp_path, name, bad):
    """The bad row as line 2 between good ones."""
    good = but(name)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good, bad, good, good]) + b"\n")
    return path


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize(("name", "bad", "field", "reason"), CASES.values(), ids=CASES)
def test_a_bad_row_is_refused_alone(name, bad, field, reason, tmp_path):
    path = around(tmp_path, name, bad)
    pattern = rf"^{path}:2: ({field}): .*{reason}"
    report = read_rows(path, bad_rows="quarantine")
    assert (report.read, report.kept, report.rejected, report.format) == (4, 3, 1, name)
    assert [row.id.partition("#")[0] for row in report.rows] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:4"]
    assert re.search(pattern, str(report.problems[0])), report.problems[0]
    with pytest.raises(DataError, match="1 of 4 rows cannot be used") as error:
        read_rows(path)
    assert str(report.problems[0]) in str(error.value) and error.value.exit_code == 2
    (line,) = report.quarantine.read_bytes().splitlines()
    assert json.loads(line)["origin"] == f"{path}:2"
    again = tmp_path / "again.jsonl"
    again.write_bytes(b"\n".join([but(name), but(name), line]) + b"\n")
    second = read_rows(again, bad_rows="skip")
    assert (second.kept, second.rejected) == (2, 1)
    assert (second.problems[0].field, second.problems[0].line) == (report.problems[0].field, 3)


def test_reading_again_after_mending(tmp_path):
    path = around(tmp_path, "unpaired", but("unpaired", label="true"))
    with path.open("ab") as stream:
        stream.write(but("unpaired").replace(b"Q", b"\xff") + b"\n")
    report = read_rows(path, bad_rows="quarantine", quarantine=tmp_path / "q.jsonl")
    lines = [json.loads(line) for line in report.quarantine.read_text("utf-8").splitlines()]
    assert [sorted(set(line) & {"raw", "raw_base64"}) for line in lines] == [["raw"], ["raw_base64"]]
    lines[0]["raw"] = lines[0]["raw"].replace('"true"', "true")
    lines[1]["raw"] = json.dumps(GOOD["unpaired"])
    report.quarantine.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    mended = read_rows(report.quarantine)
    assert [(row.id, row.origin) for row in mended.rows] == [
        ("rows.jsonl:2", f"{path}:2"),
        ("rows.jsonl:5", f"{path}:5"),
    ]


def test_a_mended_quarantine_file_is_not_overwritten(tmp_path):
    path = around(tmp_path, "text", b"{}")
    first = read_rows(path, bad_rows="quarantine")
    assert read_rows(path, bad_rows="quarantine").quarantine == first.quarantine
    first.quarantine.write_text("mended\n")
    with pytest.raises(DataError, match="holds other quarantined rows"):
        read_rows(path, bad_rows="quarantine")
    assert first.quarantine.read_text() == "mended\n"


def test_duplicate_ids(tmp_path):
    path = around(tmp_path, "text", b'{"id": "x", "text": "t"}')
    with path.open("ab") as stream:
        stream.write(b'{"id": "x", "text": "u"}\n')
    report = read_rows(path, bad_rows="skip")
    assert str(report.problems[0]) == f"{path}:5: id: 'x' is already the id of line 2"
    assert report.kept == 4


def test_errors_list_five_and_count_all(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([but("text"), *[b"{"] * 8]))
    with pytest.raises(UserError) as error:
        read_rows(path)
    text = str(error.value)
    assert text.startswith(f"{path}: 8 of 9 rows cannot be used\n")
    assert text.count(": row: ") == 5 and "... and 3 more" in text and "--data.bad_rows skip" in text


@pytest.mark.parametrize("mode", ["error", "skip", "quarantine"])
def test_no_row_left_is_an_error_in_every_mode(mode, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(but(PREFERENCE, chosen="") + b"\n")
    with pytest.raises(DataError, match="1 of 1 rows cannot be used"):
        read_rows(path, bad_rows=mode)


def test_a_line_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LINE_LIMIT", 500)
    path = around(tmp_path, "text", but("text", text="x" * 600))
    report = read_rows(path, bad_rows="quarantine")
    assert str(report.problems[0]) == f"{path}:2: row: is 612 bytes long; the limit is 500"
    held = json.loads(report.quarantine.read_text())
    assert held["raw"] is None
    content = path.read_bytes()[held["offset"] : held["offset"] + held["length"]]
    assert content == but("text", text="x" * 600)
    with pytest.raises(DataError, match="raw: was too long to keep"):
        read_rows(report.quarantine)
