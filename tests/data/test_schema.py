"""Which format a file is taken for, and what is said when none fits or several do."""

import json
from pathlib import Path

import pytest

from trueup.data.formats import FORMATS
from trueup.data.read import read_rows
from trueup.data.schema import IGNORE
from trueup.errors import DataError
from trueup.types import Comparison, Example, Prompt, Ranking, Rating

SHARED = Path(__file__).parents[3] / "shared" / "data"
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def message(path, **options):
    with pytest.raises(DataError) as error:
        read_rows(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_columns_do_not_matter_and_are_listed(tmp_path):
    report = read_rows(write(tmp_path, PAIR | {"source": "x", "n": 1}, PAIR | {"lang": None}))
    assert (report.format, report.unused) == ("preference", ("source", "n", "lang"))


def test_null_columns_are_absent(tmp_path):
    row = PAIR | {"label": None, "completion": None, "messages": None, "margin": None}
    assert read_rows(write(tmp_path, row)).format == "preference"


def test_a_hub_copy_of_ultrafeedback_with_messages_and_scores(tmp_path):
    row = {
        "prompt": "q",
        "prompt_id": "0a",
        "chosen": TALK,
        "rejected": [TALK[0], {"role": "assistant", "content": "b"}],
        "messages": TALK,
        "score_chosen": 8.5,
        "score_rejected": 8.5,
    }
    report = read_rows(write(tmp_path, row))
    assert (report.format, report.rows[0].margin) == ("ultrafeedback", 0.0)


def test_two_formats_that_fit_alike_are_both_named(tmp_path):
    path = write(tmp_path, {"text": "t", "messages": TALK})
    said = message(path)
    assert "'text' and 'messages'" in said and "--data.format" in said
    assert read_rows(path, format="messages").format == "messages"
    assert read_rows(path, format="text").rows[0].completion == "t"


def test_half_the_rows_of_one_shape_and_half_of_another(tmp_path):
    path = write(tmp_path, PAIR, {"instruction": "i", "chosen": "c", "rejected": "r"})
    assert "'preference' and 'alpaca-preference'" in message(path)


def test_the_odd_row_of_another_shape_is_a_bad_one(tmp_path):
    labelled = {"prompt": "p", "completion": "c", "label": True}
    path = write(tmp_path, PAIR, PAIR, labelled, {"text": "t"}, {"messages": TALK})
    report = read_rows(path, bad_rows="skip")
    assert (report.format, report.kept, [problem.line for problem in report.problems]) == ("preference", 2, [3, 4, 5])


def test_the_odd_labelled_row_is_a_bad_one_unless_the_format_is_named(tmp_path):
    plain = {"prompt": "p", "completion": "c"}
    path = write(tmp_path, plain, plain, plain | {"label": False})
    report = read_rows(path, bad_rows="skip")
    assert str(report.problems[0]) == f"{path}:3: label: does not belong to the format 'prompt-completion' of this file"
    assert read_rows(path, format="prompt-completion").kept == 3


def test_recognition_looks_past_bad_rows(tmp_path):
    path = write(tmp_path, PAIR)
    path.write_text("{\n{}\n[]\n" + path.read_text())
    report = read_rows(path, bad_rows="skip")
    assert (report.format, report.kept, report.rejected) == ("preference", 1, 3)


def test_missing_columns_name_what_is_missing_what_is_there_and_the_nearest(tmp_path):
    said = message(write(tmp_path, {"prompt": "p", "choosen": "c", "rejected": "r"}))
    assert "the nearest is 'preference', which lacks the column 'chosen'" in said
    assert "the file has 'prompt', 'choosen', 'rejected'; did you mean 'choosen'?" in said
    assert "--data.columns" in said and "--data.format" in said


def test_a_named_format_that_does_not_fit(tmp_path):
    said = message(write(tmp_path, PAIR), format="unpaired")
    assert "the format 'unpaired', which lacks the column 'completion', 'label'" in said


def test_unknown_format(tmp_path):
    with pytest.raises(DataError, match=r"unknown format 'prefrence'; did you mean 'preference'\?"):
        read_rows(write(tmp_path, PAIR), format="prefrence")


def test_values_of_the_wrong_type_are_told_row_by_row(tmp_path):
    with pytest.raises(DataError, match=r"rows.jsonl:1: chosen: must be a string or a list of turns, not a number"):
        read_rows(write(tmp_path, {"prompt": "p", "chosen": 1, "rejected": 2}))


def test_columns_are_mapped(tmp_path):
    path = write(tmp_path, {"question": "q", "answer": "a", "ok": True, "prompt": "not this"})
    report = read_rows(path, columns={"prompt": "question", "completion": "answer", "label": "ok"})
    assert report.rows == [Rating(id="rows.jsonl:1", origin=f"{path}:1", prompt="q", completion="a", label=True)]
    with pytest.raises(DataError, match="lacks the column 'label'"):
        read_rows(path, columns={"prompt": "question", "completion": "answer"}, format="unpaired")


def test_a_column_can_be_left_out(tmp_path):
    path = write(tmp_path, {"text": "t", "messages": TALK, "chat_template_kwargs": {"thinking": False}})
    report = read_rows(path, columns={"text": IGNORE, "chat_template_kwargs": IGNORE})
    assert report.format == "messages"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"choosen": "c"}, r"no format has a field 'choosen'; did you mean 'chosen'\?"),
        ({"chosen": "x", "rejected": "x"}, r"the column 'x' is mapped twice"),
        ({"chosen": "chosem"}, r"maps 'chosen' to 'chosem', which is no column; did you mean 'chosen'\?"),
    ],
)
def test_a_mapping_that_cannot_be_meant(columns, said, tmp_path):
    with pytest.raises(DataError, match=said):
        read_rows(write(tmp_path, PAIR), columns=columns)


def test_bad_rows_mode_is_checked(tmp_path):
    with pytest.raises(DataError, match="'ignore' is none of error, skip, quarantine"):
        read_rows(write(tmp_path, PAIR), bad_rows="ignore")


@pytest.mark.parametrize(
    ("row", "wanted", "said"),
    [
        ({"text": "t"}, Comparison, "the format 'text' holds no Comparison rows: they need a chosen and a rejected"),
        ({"prompt": "p"}, Example, "the format 'prompt' holds no Example rows: they need a completion"),
        ({"prompt": "p", "completion": "c"}, Rating, "holds no Rating rows: they need a completion with a true or"),
        ({"prompt": "p", "completion": "c", "label": True}, Ranking, "holds no Ranking rows: they need scored"),
    ],
)
def test_what_a_method_needs_and_a_file_lacks(row, wanted, said, tmp_path):
    assert said in message(write(tmp_path, row), wanted=wanted)


def test_a_prompt_that_is_inside_the_text_cannot_be_had(tmp_path):
    with pytest.raises(DataError, match="prompt: is empty: the row holds no prompt of its own"):
        read_rows(write(tmp_path, {"chosen": "a", "rejected": "b"}), wanted=Prompt)


REAL = [
    ("hh_harmless/harmless_base_test.jsonl.gz", "hh", 1626, 3),
    ("oasst_pairs/oasst_en_val_dialogue.jsonl.gz", "hh", 774, 0),
    ("oasst_prompts/oasst_en_val_prompt.jsonl.gz", "hh-prompt", 310, 0),
    ("llamafactory_demo/dpo_en_demo.jsonl.gz", "sharegpt-preference", 300, 0),
    ("llamafactory_demo/kto_en_demo.jsonl.gz", "messages-label", 300, 0),
    ("llamafactory_demo/alpaca_en_demo.jsonl.gz", "alpaca", 999, 0),
    ("llamafactory_demo/c4_demo.jsonl.gz", "text", 300, 0),
    ("safety_tuned_llamas/safety_only_data_Instructions.jsonl.gz", "alpaca", 2483, 0),
    ("xstest_completions/gpt4.jsonl.gz", "prompt-completion", 229, 0),
    ("openai_moderation/samples_1680.jsonl.gz", "prompt", 1182, 0),
    ("alpaca_eval_v2_weighted/annotations_10models.jsonl.gz", "judged-pair", 5770, 12),
    ("alpaca_eval_v1_gpt4/annotations_24models.jsonl.gz", "judged-pair", 13848, 141),
]


@pytest.mark.parametrize(("name", "expected", "rows", "bad"), REAL, ids=[name for name, *_ in REAL])
def test_real_files(name, expected, rows, bad):
    path = SHARED / name
    if not path.exists():
        pytest.skip("the shared data are not here")
    report = read_rows(path, bad_rows="skip")
    assert (report.format, report.read) == (expected, rows)
    assert all(isinstance(row, FORMATS[expected].makes) for row in report.rows)
    assert report.rejected == bad, [str(problem) for problem in report.problems[:5]]
